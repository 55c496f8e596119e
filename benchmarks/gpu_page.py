"""Figures of a GPU: appended line by line to a file while they are measured, and made into a section of the page."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "records" / "performance.md"
UNKNOWN = "not yet measured on a GPU"
BEGIN, END = "<!-- gpu: written by make bench-gpu -->", "<!-- end of gpu -->"

AIMS = {  # seconds, bytes or shares aimed at on an H200; the paper's figure on an H800
    "step 5b 256×384, 6 s": ("0.21 s", "0.41 s"),
    "step 5b 480×720, 6 s": ("1.20 s", "2.11 s"),
    "step 5b 480×720, 6 s, compiled": ("", ""),
    "step 5b 768×1360, 5 s": ("5.8 s", "9.60 s"),
    "step 5b 256×384, 6 s, 2D + 1D": ("", "0.38 s"),
    "step 5b 480×720, 6 s, 2D + 1D": ("", "1.26 s"),
    "step 5b 768×1360, 5 s, 2D + 1D": ("", "4.17 s"),
    "video 5b 480×720, 6 s": ("62 s", "113 s"),
    "video 2b 480×720, 6 s": ("24.5 s", "49 s"),
    "video 5b 768×1360, 5 s": ("295 s", "500 s"),
    "video 2b 768×1360, 5 s": ("", "220 s"),
    "decode 480×720, 6 s": ("1.2 s", ""),
    "decode 480×720, 6 s: peak": ("6.5 GB", ""),
    "memory 5b 480×720, 6 s, resident": ("18 GB, text encoder aside", "26 GB"),
    "memory 5b 480×720, 6 s, phases": ("13 GB", ""),
    "memory 5b 480×720, 6 s, stream": ("4.5 GB", ""),
    "training 5b 480×720, 6 s": ("45 % of the matrix rate", ""),
}


class Records:
    """A file of JSON lines. A line is written at once and whole, so that a run that is killed keeps what it measured.

    Kinds of lines: ``run`` (machine and versions), ``begin`` and ``end`` of a part, ``figure``, ``failure`` (what was
    tried and the error), ``skipped`` (a part and why).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, kind: str, **fields: Any) -> None:
        """Append a line and wait until the disk has it."""
        line = json.dumps({"kind": kind, **fields}, ensure_ascii=False) + "\n"
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, line.encode())
            os.fsync(file)
        finally:
            os.close(file)

    def lines(self) -> list[dict[str, Any]]:
        """All lines so far; one that was cut off is left out."""
        lines = []
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return lines

    def value(self, name: str) -> float | None:
        """The last figure of this name, None where it was not measured."""
        values = [line["value"] for line in self.lines() if line.get("name") == name and "value" in line]
        return values[-1] if values else None


def figures(lines: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Name -> what was measured, as a person reads it: ``1.2 s, 80% of the roofline``; the last of a name counts.

    What failed stands there too, with its error, unless the same was measured.
    """
    measured: dict[str, str] = {}
    for line in lines:
        if line["kind"] == "figure":
            note = f", {line['note']}" if line.get("note") else ""
            measured[line["name"]] = f"{line['value']:.4g} {line['unit']}".rstrip() + note
        elif line["kind"] == "failure":
            measured.setdefault(line.get("name") or f"part {line['part']}", f"failed: {line['error']}"[:160])
        elif line["kind"] == "skipped":
            measured.setdefault(f"part {line['part']}", f"not run: {line['why']}")
    return measured


def machine(lines: Iterable[dict[str, Any]]) -> str:
    """What the figures were measured on, as one sentence; empty where nothing was."""
    runs = [line for line in lines if line["kind"] == "run"]
    if not runs:
        return ""
    last = runs[-1]
    return f"Measured on {last['device']}, torch {last['torch']}, {last['date']}."


def section(measured: dict[str, str], where: str) -> str:
    """The section of the page: every aim with what was measured, then whatever else was."""
    rows = [
        f"| {name} | {measured.get(name, UNKNOWN)} | {aim} | {paper} |" for name, (aim, paper) in AIMS.items()
    ]
    rows += [f"| {name} | {value} | | |" for name, value in measured.items() if name not in AIMS]
    if not any(name.startswith("attention") for name in measured):
        rows += [f"| {name} | {UNKNOWN} | | |" for name in ("attention kernels", "convolution 3×3×3")]
    line = "\n"
    return f"""{BEGIN}

## On a GPU

The sizes of the paper's Tables 7 and 8 with random weights, bf16, guidance pair batched; `make bench-gpu` runs it on
any NVIDIA GPU and writes this section. *Aim* is for one H200, *paper* its figure on an H800. A step is eager and the
modulations are tables; training keeps float32 weights under bf16 autocast, with AdamW, clipping and averaged weights,
as `cogvideox train` does. {where}

| work | measured | aim | paper |
|---|---|---|---|
{line.join(rows)}

{END}"""


def put_into(page: str, text: str) -> str:
    """The page with its GPU section replaced, or added at the end."""
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    if pattern.search(page):
        return pattern.sub(lambda _: text, page)
    return page.rstrip() + "\n\n" + text + "\n"


def taken_from(page: str) -> str:
    """The GPU section of a page as it is, or the one that says that nothing is known."""
    match = re.search(re.escape(BEGIN) + ".*?" + re.escape(END), page, re.DOTALL)
    return match.group(0) if match else section({}, "")


def write_page(sources: Iterable[Path], page: Path = PAGE) -> None:
    """Put what the files of figures hold into the page; of one name, the last file's figure counts."""
    lines = [line for source in sources for line in Records(source).lines()]
    text = section(figures(lines), machine(lines))
    page.write_text(put_into(page.read_text(encoding="utf-8"), text), encoding="utf-8")
