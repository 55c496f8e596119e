"""Results as Markdown: a section of docs/records/reproduce.md, a line of docs/paper.md; and files beside the runs."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from cogvideox.files.atomic import write_json
from cogvideox.reproduce.experiments import EXPERIMENTS
from cogvideox.reproduce.run import ExperimentOutcome

PAGE, LEDGER = "records/reproduce.md", "paper.md"
LEDGER_MARK = "reproduced"


def section(outcome: ExperimentOutcome, image: str = "") -> str:
    """Markdown of one experiment: claim, status, table, picture, what a full run needs."""
    experiment = outcome.experiment
    paragraphs = [
        f"## {experiment.name}",
        f"{experiment.title[:1].upper()}{experiment.title[1:]}. The paper: {experiment.claim} ({experiment.paper}).",
        f"**{outcome.status}**: {outcome.why}."
        + (f" On {outcome.scale.rstrip('.')}." if outcome.scale else ""),
        f"![{experiment.name}]({image})" if image else "",
        outcome.table,
        f"At full size: `{experiment.full}`; needs {experiment.needs}." if experiment.full else "",
    ]
    return "\n\n".join(each for each in paragraphs if each)


def ledger_line(outcome: ExperimentOutcome) -> str:
    """One line of the ledger."""
    experiment, today = outcome.experiment, datetime.now(UTC).date()
    return (
        f"| {experiment.name} | {experiment.title} | **{outcome.status}**: {outcome.why} "
        f"| `cogvideox reproduce {experiment.name}{outcome.flags}`; in full: `{experiment.full}` | {today} |"
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
        _write(ledger, put_ledger_line(ledger.read_text(encoding="utf-8"), name, ledger_line(outcome)))
    return folder


def put(page: str, name: str, text: str) -> str:
    """The page with the text between the marks of ``name`` replaced, or added at the end."""
    whole = f"<!-- {name}: written by cogvideox reproduce -->\n{text}\n<!-- end of {name} -->"
    if _marks(name).search(page):
        return _marks(name).sub(lambda _: whole, page)
    return f"{page.rstrip()}\n\n{whole}\n"


def put_section(page: str, name: str, text: str) -> str:
    """The page with the section of ``name`` replaced or added, sections in the order of the table of experiments."""
    page = put(page, name, text)
    sections = {each: match[0] for each in EXPERIMENTS if (match := _marks(each).search(page))}
    for whole in sections.values():
        page = page.replace(whole, "").rstrip()
    return "\n\n".join([re.sub(r"\n{3,}", "\n\n", page), *sections.values()]) + "\n"


def _marks(name: str) -> re.Pattern[str]:
    begin, end = f"<!-- {name}: written by cogvideox reproduce -->", f"<!-- end of {name} -->"
    return re.compile(re.escape(begin) + "(.*?)" + re.escape(end), re.DOTALL)


def put_ledger_line(page: str, name: str, line: str) -> str:
    """The ledger with the line of ``name`` replaced or added, lines in the order of the table of experiments."""
    kept = _marks(LEDGER_MARK).search(page)
    cells = (old.split("|") for old in (kept[1] if kept else "").splitlines() if "|" in old)
    lines = {cell[1].strip(): "|".join(cell) for cell in cells if cell[1].strip() in EXPERIMENTS} | {
        name: line
    }
    heads = ["| what | | status | command | date |", "|---|---|---|---|---|"]
    return put(
        page, LEDGER_MARK, "\n".join([*heads, *(lines[each] for each in EXPERIMENTS if each in lines)])
    )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
