"""Write results: a section of docs/records/reproduce.md, a line of docs/paper.md, a picture, files beside the runs."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from cogvideox.files.atomic import write_json
from cogvideox.reproduce.experiments import EXPERIMENTS
from cogvideox.reproduce.run import ExperimentOutcome

PAGE, LEDGER = "records/reproduce.md", "paper.md"
LEDGER_PART = "reproduced"


def section(outcome: ExperimentOutcome, image: str = "") -> str:
    """Markdown of one experiment: claim, status, table, picture, what a full run needs."""
    row = outcome.experiment
    parts = [
        f"## {row.name}",
        f"{row.title[:1].upper()}{row.title[1:]}. The paper: {row.claim} ({row.paper}).",
        f"**{outcome.status}**: {outcome.why}."
        + (f" On {outcome.scale.rstrip('.')}." if outcome.scale else ""),
        f"![{row.name}]({image})" if image else "",
        outcome.table,
        f"At full size: `{row.full}`; needs {row.needs}." if row.full else "",
    ]
    return "\n\n".join(part for part in parts if part)


def ledger_row(outcome: ExperimentOutcome) -> str:
    """One line of the ledger."""
    row, today = outcome.experiment, datetime.now(UTC).date()
    return (
        f"| {row.name} | {row.title} | **{outcome.status}**: {outcome.why} "
        f"| `cogvideox reproduce {row.name}{outcome.flags}`; in full: `{row.full}` | {today} |"
    )


def write_results(outcome: ExperimentOutcome, out: Path, docs: Path | None) -> Path:
    """Result, table and curves into ``out/<name>``; into the pages of ``docs`` where those are. -> the folder."""
    name = outcome.experiment.name
    folder = out / "results" / name
    record = {"status": outcome.status, "why": outcome.why, "scale": outcome.scale, "table": outcome.table}
    write_json(folder / "result.json", record | {"experiment": asdict(outcome.experiment)}, overwrite=True)
    _write(folder / "result.md", section(outcome, "curves.svg" if outcome.picture else "") + "\n")
    if outcome.picture:
        _write(folder / "curves.svg", outcome.picture)
    if docs is not None:
        image = f"images/reproduce-{name}.svg" if outcome.picture else ""
        if image:
            _write(docs / image, outcome.picture)
        page, ledger = docs / PAGE, docs / LEDGER
        shown = f"../{image}" if image else ""
        _write(page, put_section(page.read_text(encoding="utf-8"), name, section(outcome, shown)))
        _write(ledger, put_row(ledger.read_text(encoding="utf-8"), name, ledger_row(outcome)))
    return folder


def put(page: str, name: str, part: str) -> str:
    """The page with the part between the marks of ``name`` replaced, or with it added at the end."""
    whole = f"<!-- {name}: written by cogvideox reproduce -->\n{part}\n<!-- end of {name} -->"
    if _marks(name).search(page):
        return _marks(name).sub(lambda _: whole, page)
    return f"{page.rstrip()}\n\n{whole}\n"


def put_section(page: str, name: str, part: str) -> str:
    """The page with the section of ``name`` replaced or added, sections in the order of the table of experiments."""
    page = put(page, name, part)
    found = {each: match[0] for each in EXPERIMENTS if (match := _marks(each).search(page))}
    for whole in found.values():
        page = page.replace(whole, "").rstrip()
    return "\n\n".join([re.sub(r"\n{3,}", "\n\n", page), *found.values()]) + "\n"


def _marks(name: str) -> re.Pattern[str]:
    begin, end = f"<!-- {name}: written by cogvideox reproduce -->", f"<!-- end of {name} -->"
    return re.compile(re.escape(begin) + "(.*?)" + re.escape(end), re.DOTALL)


def put_row(page: str, name: str, row: str) -> str:
    """The ledger with the row of ``name`` replaced or added, rows in the order of the table of experiments."""
    found = _marks(LEDGER_PART).search(page)
    rows = {
        line.split("|")[1].strip(): line for line in (found[1] if found else "").splitlines() if "|" in line
    }
    rows = {known: line for known, line in rows.items() if known in EXPERIMENTS} | {name: row}
    heads = ["| what | | status | command | date |", "|---|---|---|---|---|"]
    return put(page, LEDGER_PART, "\n".join([*heads, *(rows[n] for n in EXPERIMENTS if n in rows)]))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
