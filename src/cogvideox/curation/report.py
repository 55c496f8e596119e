"""The report: one HTML page, with nothing outside it, that shows what was kept, what was dropped, and why."""

from __future__ import annotations

import base64
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cogvideox.curation.outputs import OutputList
from cogvideox.curation.results import dropped_rows, kept_rows, read_summary, score_names
from cogvideox.curation.work_folder import strip_file
from cogvideox.errors import InputError
from cogvideox.files.page import page, text
from cogvideox.files.text import read_small_bytes

SAMPLES = 12  # clips shown of every fate
BINS = 40
FUNNEL = (
    "probe", "decode", "shots", "borders", "exact_copies", "thresholds", "near_copies", "look_alikes", "cut",
)  # fmt: skip
"""The steps that drop clips, in the order in which they come."""
MOST_PICTURE = 4 << 20  # bytes
STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1a1a1a;background:#fff}
h1{font-size:1.6rem;margin:0 0 .3rem}h2{font-size:1.2rem;margin:2.2rem 0 .6rem}p{margin:.3rem 0}
table{border-collapse:collapse}td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums}small,.dim{color:#666}
.bar{background:#3b7dd8;height:.8rem;border-radius:2px}.bar.lost{background:#c8553d}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(16rem,1fr));gap:1rem 1.4rem}
.grid>div{min-width:0}.grid img{max-width:100%;display:block;border-radius:3px;background:#eee}
.legend span{display:inline-block;width:.8rem;height:.8rem;border-radius:2px;margin:0 .3rem 0 .8rem}
.kept{background:#3b7dd8}.drop{background:#e3a08f}svg{width:100%;height:auto}.name{overflow-wrap:anywhere}
"""


@dataclass
class Scores:
    """The values of one score among kept and dropped clips."""

    kept: array = field(default_factory=lambda: array("d"))
    dropped: array = field(default_factory=lambda: array("d"))


def write_report(out: Path, outputs: OutputList | None = None) -> Path:
    """Write ``out/report.html`` from the files of a finished curation; ``outputs`` lists what curation wrote there.

    Raises InputError when there is none, OutputError when a page that curation did not write stands there.
    """
    summary = read_summary(out)
    scores = _scores(out)
    whole = page("Curation report", STYLE, "".join(_sections(out, summary, scores)))
    with (outputs or OutputList(out)).writing("report.html") as draft:
        draft.write_text(whole, encoding="utf-8", errors="replace")
    return out / "report.html"


def _scores(out: Path) -> dict[str, Scores]:
    found: dict[str, Scores] = {}
    for row in kept_rows(out, score_names(out)):
        for name, value in row.items():
            if value is not None:
                found.setdefault(name.removeprefix("score."), Scores()).kept.append(value)
    for row in dropped_rows(out):
        for name, value in row["scores"].items():
            if value is not None:
                found.setdefault(name, Scores()).dropped.append(value)
    return dict(sorted(found.items()))


def _sections(out: Path, summary: dict[str, Any], scores: dict[str, Scores]) -> Iterator[str]:
    yield "<h1>Curation report</h1>"
    share = summary["kept_seconds"] / summary["seconds"] if summary["seconds"] else 0.0
    yield (
        f"<p>{summary['films']} videos gave {summary['clips']} clips; <b>{summary['kept']} are kept</b>: "
        f"{summary['kept_seconds']:.0f} of {summary['seconds']:.0f} seconds ({share:.0%}), "
        f"{summary['kept_bytes'] / 1e6:.1f} MB, {summary['copied']} of them copied as they were. "
        f"Recipe <b>{text(summary['recipe'])}</b>.</p>"
    )
    yield from _funnel(summary)
    yield from _thresholds(summary)
    yield from _histograms(scores, summary)
    yield from _sheets(out, summary)


def _funnel(summary: dict[str, Any]) -> Iterator[str]:
    yield "<h2>What is left after each step</h2><table>"
    left, total = summary["clips"], max(1, summary["clips"])
    yield _bar("all clips and unreadable videos", left, total)
    lost: Counter[str] = Counter()
    for row in summary["dropped"]:
        lost[row["step"]] += row["clips"]
    for step in sorted(lost, key=lambda step: (FUNNEL.index(step) if step in FUNNEL else len(FUNNEL), step)):
        left -= lost[step]
        yield _bar(f"after {step}", left, total)
    yield "</table><h2>Reasons</h2><table>"
    for row in sorted(summary["dropped"], key=lambda row: -row["clips"]):
        yield _bar(f"{row['step']}: {row['reason']}", row["clips"], total, "lost")
    yield "</table>"


def _bar(name: str, count: int, total: int, kind: str = "") -> str:
    width = 24 * count / total
    return (
        f'<tr><td>{text(name)}</td><td class="n">{count}</td>'
        f'<td><div class="bar {kind}" style="width:{width:.2f}rem"></div></td></tr>'
    )


def _thresholds(summary: dict[str, Any]) -> Iterator[str]:
    if not any(stage["rules"] for fitted in summary["thresholds"] for stage in fitted["stages"]):
        return
    yield "<h2>Thresholds</h2><p>As they were applied: shares have become values.</p><table>"
    yield "<tr><th>stage</th><th>score</th><th>least</th><th>most</th><th>clips</th></tr>"
    for fitted in summary["thresholds"]:
        for stage in fitted["stages"]:
            count = summary["stages"].get(stage["name"], 0)
            for index, rule in enumerate(stage["rules"]):
                name = text(stage["name"]) if index == 0 else ""
                yield f"<tr><td>{name}</td><td>{text(rule['score'])}</td>"
                yield f'<td class="n">{_number(rule["least"])}</td><td class="n">{_number(rule["most"])}</td>'
                yield f'<td class="n">{count if index == 0 else ""}</td></tr>'
    yield "</table>"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _histograms(scores: dict[str, Scores], summary: dict[str, Any]) -> Iterator[str]:
    yield '<h2>Scores</h2><p class="legend"><span class="kept"></span>kept<span class="drop"></span>dropped; '
    yield "lines are thresholds of the first stage; the few highest values may lie outside</p>"
    yield '<div class="grid">'
    rules = {
        rule["score"]: rule
        for fitted in summary["thresholds"]
        for stage in fitted["stages"][:1]
        for rule in stage["rules"]
    }
    for name, values in scores.items():
        yield f"<div><b>{text(name)}</b>{_histogram(values, rules.get(name, {}))}</div>"
    yield "</div>"


def _histogram(values: Scores, rule: dict[str, Any]) -> str:
    kept, dropped = np.frombuffer(values.kept), np.frombuffer(values.dropped)
    both = np.concatenate([kept, dropped])
    low, high = float(both.min()), float(np.quantile(both, 0.99))
    high = high if high > low else low + 1.0
    counts = [np.histogram(np.clip(values, low, high), BINS, (low, high))[0] for values in (kept, dropped)]
    tallest = max(1, int((counts[0] + counts[1]).max()))
    drawn = []
    for bin_ in range(BINS):
        first, second = (60 * int(count[bin_]) / tallest for count in counts)
        for top, tall, fill in ((60 - first, first, "#3b7dd8"), (60 - first - second, second, "#e3a08f")):
            bar = f'x="{bin_ * 6}" y="{top:.2f}" width="5" height="{tall:.2f}" fill="{fill}"'
            drawn.append(f"<rect {bar}/>")
    for limit in (rule.get("least"), rule.get("most")):
        if limit is not None and low <= limit <= high:
            x = 240 * (limit - low) / (high - low)
            drawn.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="60" stroke="#222" stroke-dasharray="3 2"/>'
            )
    drawn.append(f'<text x="0" y="72" font-size="10">{low:.3g}</text>')
    drawn.append(f'<text x="240" y="72" font-size="10" text-anchor="end">{high:.3g}</text>')
    return f'<svg viewBox="0 0 240 75" role="img">{"".join(drawn)}</svg>'


def _sheets(out: Path, summary: dict[str, Any]) -> Iterator[str]:
    wanted = {name: fate for fate, names in summary["samples"].items() for name in names}
    notes = dict(_notes(out, wanted))
    for fate in sorted(summary["samples"], key=lambda fate: (fate != "|", fate)):
        step, _, reason = fate.partition("|")
        title = f"Dropped by {step}: {reason}" if step else "Kept"
        yield f'<h2>{text(title)}</h2><div class="grid">'
        for name in summary["samples"][fate]:
            path, note = notes.get(name, (name, ""))
            yield f"<div>{_picture(out, name)}"
            yield f'<span class="name">{text(path)}</span> <small>{text(note)}</small></div>'
        yield "</div>"


def _notes(out: Path, wanted: dict[str, str]) -> Iterator[tuple[str, tuple[str, str]]]:
    for row in kept_rows(out, ["id", "path", "start", "end", "caption"]):
        if row["id"] in wanted:
            note = f"{row['start']:.2f} to {row['end']:.2f} s. {row['caption'][:120]}"
            yield row["id"], (row["path"], note)
    for row in dropped_rows(out):
        if row["id"] in wanted:
            span = row["span"]
            where = f"{span['start']:.2f} to {span['end']:.2f} s. " if span else ""
            yield row["id"], (row["source"]["path"], where + row["dropped"]["detail"])


def _picture(out: Path, name: str) -> str:
    try:
        data = read_small_bytes(strip_file(out / "work", name), root=out, most=MOST_PICTURE)
    except InputError:
        return '<p class="dim">no picture</p>'
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
