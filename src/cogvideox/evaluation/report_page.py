"""A report as one HTML page that needs nothing else: scores with intervals, what each video got, thumbnails."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cogvideox.evaluation.report import ScoreReport
from cogvideox.evaluation.score import Score, number
from cogvideox.evaluation.video_folder import VideoFolder
from cogvideox.files.atomic import atomic_file
from cogvideox.files.page import page, text

FILE = "report.html"
SHOWN = 48  # videos with thumbnails
CELLS, HEIGHT = 4, 72  # thumbnails of a video, pixels
BARS = 24
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1c1c1c;background:#fff}
h1{font-size:1.5rem;margin-bottom:0}h2{font-size:1.1rem;margin-top:2rem}p.sub{color:#666;margin-top:.2rem}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #e4e4e4;
vertical-align:top}th{font-weight:600}td.n{font-variant-numeric:tabular-nums;white-space:nowrap}.why{color:#8a5a00}
.bad{color:#a11}.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(19rem,1fr));gap:1rem}
figure{margin:0}figure img{width:100%;image-rendering:pixelated;border-radius:3px}figcaption{font-size:.8rem;color:#444;
overflow-wrap:anywhere}svg{display:block}small{color:#777}
@media(prefers-color-scheme:dark){body{background:#151515;color:#e6e6e6}td,th{border-color:#333}figcaption,p.sub,small
{color:#aaa}.why{color:#e0b050}.bad{color:#f77}}
"""


def write_page(report: ScoreReport, videos: VideoFolder, out: Path) -> Path:
    """Write report.html into ``out``; returns where."""
    sections = [
        f"<h1>{text(report.suite)} suite: {text(report.subject or videos.folder.name)}</h1>",
        f'<p class="sub">{text(report.counted)}. {text(report.provenance.get("created", ""))}</p>',
        _scores([score for score in report.scores if score.value is not None]),
        _comparison(report.comparison),
        _absent([score for score in report.scores if score.value is None]),
        _left_out(report),
        _thumbnails(videos),
    ]
    path = out / FILE
    with atomic_file(path, overwrite=True) as temporary:
        title = f"{report.suite}: {report.subject}"
        temporary.write_text(page(title, STYLE, "".join(sections)), encoding="utf-8", errors="replace")
    return path


def _scores(scores: Sequence[Score]) -> str:
    rows = [
        f"<tr><td>{text(score.name)}<br><small>{text(score.protocol)}</small></td>"
        f'<td class="n">{number(score.value)} {text(score.unit)}</td><td class="n">{score.interval}</td>'
        f'<td class="n">{text(score.videos)}</td><td>{text(score.better)}</td><td>{histogram(score)}</td></tr>'
        for score in scores
    ]
    heads = "".join(
        f"<th>{name}</th>" for name in ("score", "value", "95 %", "videos", "better", "each video")
    )
    return f"<h2>Scores</h2><table><tr>{heads}</tr>{''.join(rows)}</table>"


def histogram(score: Score, width: int = 180, height: int = 42) -> str:
    """Histogram of the per-video values as SVG, with the mean as a line; '' for fewer than three."""
    values = np.array([value for value in score.each if math.isfinite(value)])
    if len(values) < 3:
        return ""
    low, high = float(values.min()), float(values.max())
    if low == high:
        return f"<small>all {number(low)}</small>"
    counts, _ = np.histogram(values, bins=min(BARS, len(values)), range=(low, high))
    wide = width / len(counts)
    tall = (height - 12) / counts.max()
    bars = "".join(
        f'<rect x="{bar * wide:.1f}" y="{height - 12 - count * tall:.1f}" width="{max(wide - 1, 1):.1f}" '
        f'height="{count * tall:.1f}" fill="#4a7fb5"/>'
        for bar, count in enumerate(counts)
    )
    mean = (float(values.mean()) - low) / (high - low) * width
    line = f'<line x1="{mean:.1f}" x2="{mean:.1f}" y1="0" y2="{height - 12}" stroke="#c33"/>'
    ends = (
        f'<text x="0" y="{height - 1}" font-size="9" fill="currentColor">{number(low)}</text>'
        f'<text x="{width}" y="{height - 1}" font-size="9" text-anchor="end" fill="currentColor">{number(high)}</text>'
    )
    return f'<svg width="{width}" height="{height}" role="img">{bars}{line}{ends}</svg>'


def _comparison(comparison: dict[str, Any]) -> str:
    """The differences to another run, and how many prompts a verdict needs."""
    if not comparison:
        return ""
    heads = "".join(
        f"<th>{name}</th>"
        for name in ("score", "this", "other", "difference", "95 %", "videos", "prompts", "verdict")
    )
    rows = ""
    for row in comparison["rows"]:
        between = "" if row["low"] is None else f"{number(row['low'])} to {number(row['high'])}"
        cells = [*(number(row[key]) for key in ("this", "other", "difference")), between]
        cells += [text(row["pairs"] or "sets"), text(row["prompts"])]
        rows += f"<tr><td>{text(row['name'])}</td>" + "".join(f'<td class="n">{cell}</td>' for cell in cells)
        rows += f"<td>{text(row['verdict'])}</td></tr>"
    least = f"A verdict needs {text(comparison['least_prompts'])} prompts."
    against = f"Against {text(comparison['against'])}, {text(comparison['made'])}"
    return f'<h2>{against}</h2><p class="sub">{least}</p><table><tr>{heads}</tr>{rows}</table>'


def _absent(scores: Sequence[Score]) -> str:
    if not scores:
        return ""
    rows = "".join(f'<tr><td>{text(s.name)}</td><td class="why">{text(s.why)}</td></tr>' for s in scores)
    return f"<h2>Not computed</h2><table>{rows}</table>"


def _left_out(report: ScoreReport) -> str:
    rows = [
        f'<tr><td>{text(r.name)}</td><td class="bad">{text(r.kind)}</td><td>{text(r.why)}</td></tr>'
        for r in report.refused
    ]
    rows += [
        f'<tr><td>{text(name)}</td><td class="bad">missing</td><td>asked for and not there</td></tr>'
        for name in report.missing
    ]
    return f"<h2>Left out</h2><table>{''.join(rows)}</table>" if rows else ""


def _thumbnails(videos: VideoFolder) -> str:
    shown = [
        _figure(videos[index].frames, item.name, item.prompt)
        for index, item in enumerate(videos.items[:SHOWN])
    ]
    more = f"<p><small>{SHOWN} of {len(videos)} videos are shown.</small></p>" if len(videos) > SHOWN else ""
    return f'<h2>Videos</h2><div class="grid">{"".join(shown)}</div>{more}'


def _figure(frames: np.ndarray, name: str, prompt: str) -> str:
    indices = np.linspace(0, len(frames) - 1, min(CELLS, len(frames))).round().astype(int)
    width = max(1, round(frames.shape[2] * HEIGHT / frames.shape[1]))
    cells = [
        Image.fromarray(frames[index]).resize((min(width, 4 * HEIGHT), HEIGHT), Image.Resampling.BILINEAR)
        for index in indices
    ]
    strip = Image.new("RGB", (sum(cell.width for cell in cells), HEIGHT))
    for column, cell in enumerate(cells):
        strip.paste(cell, (column * cell.width, 0))
    file = io.BytesIO()
    strip.save(file, format="JPEG", quality=80)
    data = base64.b64encode(file.getvalue()).decode()
    caption = text(prompt or name)
    image = f'<img src="data:image/jpeg;base64,{data}" alt="{caption}">'
    return f"<figure>{image}<figcaption>{caption}<br><small>{text(name)}</small></figcaption></figure>"
