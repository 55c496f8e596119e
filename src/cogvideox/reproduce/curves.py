"""Curves over training steps, one per arm, with the range over seeds as a band: SVG, so that no library is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 40, 48
COLOURS = ("#1f9d55", "#c0392b", "#2f6fb2", "#c98a00", "#7d3c98", "#555555", "#16a2a2", "#8a5a2b")
Line = Sequence[tuple[float, float]]
"""(step, value) in order."""


def curves(title: str, lines: Mapping[str, Sequence[Line]], y_label: str) -> str:
    """An SVG: for each label the mean over its seeds, and a band from the lowest to the highest seed.

    ``lines``: label -> one line per seed. Seeds of a label share their steps; steps that one lacks are left out.
    """
    means = {label: _joined(seeds) for label, seeds in lines.items() if seeds}
    means = {label: table for label, table in means.items() if len(table)}
    every = np.concatenate(list(means.values())) if means else np.zeros((1, 4))
    x_low, x_high = every[:, 0].min(), max(every[:, 0].max(), every[:, 0].min() + 1)
    y_low, y_high = every[:, 1].min(), every[:, 3].max()
    y_high = y_high if y_high > y_low else y_low + 1

    def place(x: float, y: float) -> str:
        across = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        down = TOP + (y_high - y) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return f"{across:.1f},{down:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT + 18 * len(means)}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT + 18 * len(means)}" font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT + 18 * len(means)}" fill="#ffffff"/>',
        f'<text x="8" y="22" font-size="14">{escape(title)}</text>',
        *_axes(x_low, x_high, y_low, y_high, y_label),
    ]
    for number, (label, table) in enumerate(means.items()):
        colour = COLOURS[number % len(COLOURS)]
        upper = [place(x, high) for x, _, _, high in table]
        lower = [place(x, low) for x, low, _, _ in table][::-1]
        parts.append(f'<polygon points="{" ".join(upper + lower)}" fill="{colour}" opacity="0.15"/>')
        middle = " ".join(place(x, mean) for x, _, mean, _ in table)
        parts.append(f'<polyline points="{middle}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        y = HEIGHT + 18 * number
        parts.append(f'<rect x="{LEFT}" y="{y}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + 18}" y="{y + 11}">{escape(label)} ({len(lines[label])} seeds)</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def smoothed(line: Line, window: int) -> list[tuple[float, float]]:
    """The running mean over ``window`` values, at the last step of each window."""
    values = [value for _, value in line]
    return [
        (line[last][0], float(np.mean(values[last + 1 - window : last + 1])))
        for last in range(window - 1, len(line))
    ]


def _joined(seeds: Sequence[Line]) -> np.ndarray:
    """[n, 4]: step, lowest, mean, highest, at the steps that all seeds have."""
    tables = [dict(seed) for seed in seeds]
    steps = [step for step in tables[0] if all(step in table for table in tables)]
    values = [[table[step] for table in tables] for step in steps]
    return np.array([[s, min(v), float(np.mean(v)), max(v)] for s, v in zip(steps, values, strict=True)])


def _axes(x_low: float, x_high: float, y_low: float, y_high: float, y_label: str) -> list[str]:
    bottom = HEIGHT - BOTTOM
    parts = [
        f'<path d="M{LEFT} {TOP} V{bottom} H{WIDTH - RIGHT}" fill="none" stroke="#888888"/>',
        f'<text x="{WIDTH - RIGHT}" y="{bottom + 32}" text-anchor="end">training steps</text>',
        f'<text x="{LEFT}" y="{TOP - 4}">{escape(y_label)}</text>',
    ]
    for share in np.linspace(0, 1, 5):
        x, y = LEFT + share * (WIDTH - LEFT - RIGHT), bottom - share * (bottom - TOP)
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{x_low + share * (x_high - x_low):.4g}</text>'
        )
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{y_low + share * (y_high - y_low):.3g}</text>'
        )
    return parts
