"""Tables of docs/records/performance.md and counts.md as pictures: SVG written here, so that no library is needed.

python benchmarks/plot.py        draws both again from the pages as they are
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
WIDTH, LABEL, BAR, GAP = 760, 250, 16, 10
COLOURS = ("#2f6fb2", "#c9c9c9")


@dataclass(frozen=True)
class Pair:
    """Ours beside theirs, of one thing, in one unit."""

    name: str
    ours: float
    theirs: float
    unit: str


def bars(title: str, pairs: Sequence[Pair], sides: tuple[str, str] = ("ours", "diffusers")) -> str:
    """Two bars for each pair, as long as their share of the larger one; the numbers stand beside them."""
    row = 2 * BAR + GAP
    height = 56 + row * len(pairs)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="8" y="20" font-size="14">{escape(title)}</text>',
    ]
    for i, (side, colour) in enumerate(zip(sides, COLOURS, strict=True)):
        parts.append(f'<rect x="{LABEL + 110 * i}" y="29" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{LABEL + 18 + 110 * i}" y="40">{escape(side)}</text>')
    room = WIDTH - LABEL - 110
    for number, pair in enumerate(pairs):
        top, most = 52 + number * row, max(pair.ours, pair.theirs) or 1.0
        parts.append(f'<text x="8" y="{top + BAR + 4}">{escape(pair.name)}</text>')
        for i, value in enumerate((pair.ours, pair.theirs)):
            y, length = top + i * BAR, max(room * value / most, 1)
            parts.append(
                f'<rect x="{LABEL}" y="{y}" width="{length:.1f}" height="{BAR - 2}" fill="{COLOURS[i]}"/>'
            )
            parts.append(
                f'<text x="{LABEL + length + 6:.1f}" y="{y + 11}">{value:.4g} {escape(pair.unit)}</text>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"


def cells(page: str, columns: int) -> list[list[str]]:
    """The rows of all tables with so many columns, heads and rules left out."""
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| ")]
    rows = [[cell.strip(" *") for cell in row] for row in rows]
    return [row for row in rows if len(row) == columns and any(cell[:1].isdigit() for cell in row[1:])]


def of_counts(page: str) -> list[Pair]:
    """Traffic and peak of both sides, from the page of counts: rows of ours and theirs in turns."""
    rows = cells(page, 8)
    found = []
    for ours, theirs in zip(rows[::2], rows[1::2], strict=True):
        for title, column in (("traffic", 3), ("peak", 7)):
            a, b = (float(row[column].replace(",", "")) for row in (ours, theirs))
            found.append(Pair(f"{ours[0]}: {title}", a, b, "GB"))
    return found


def of_performance(page: str) -> list[Pair]:
    """Seconds and megabytes of both sides, from the page of measurements."""
    found = []
    for name, ours, theirs, _, our_mb, their_mb, *_ in cells(page, 8):
        found.append(Pair(f"{name}: time", float(ours), float(theirs), "s"))
        found.append(Pair(f"{name}: memory", float(our_mb), float(their_mb), "MB"))
    return found


def draw() -> list[Path]:
    """Both pictures, beside the other images of the docs."""
    pictures = {
        "counts": ("Counted at real sizes", of_counts),
        "performance": ("Measured on a CPU", of_performance),
    }
    made = []
    for name, (title, read) in pictures.items():
        path = DOCS / "images" / f"{name}.svg"
        path.write_text(
            bars(title, read((DOCS / "records" / f"{name}.md").read_text(encoding="utf-8"))), encoding="utf-8"
        )
        made.append(path)
    return made


if __name__ == "__main__":
    print(*draw(), sep="\n")
