"""The verb reproduce: a figure or table of the paper, run again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cogvideox.cli.terminal import result, result_json, verb
from cogvideox.progress import say
from cogvideox.reproduce.experiments import EXPERIMENTS, experiment


@verb
def reproduce(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="fig8a, table9, ...; without one: which there are")
    ] = None,
    steps: Annotated[int, typer.Option(min=10, help="training steps of an arm")] = 150,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="runs of each arm")] = 3,
    clips: Annotated[int, typer.Option(min=8, help="clips that all arms share")] = 512,
    videos: Annotated[int, typer.Option(min=8, max=200, help="videos of each arm, for FVD and facts")] = 16,
    out: Annotated[str, typer.Option(help="folder of the runs; the same folder goes on")] = "runs/reproduce",
    docs: Annotated[
        str, typer.Option(help="folder of paper.md and records/reproduce.md, brought up to date where it is")
    ] = "docs",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be run and stop")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="results as JSON")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
) -> None:
    """Run an experiment of the paper in miniature, beside its numbers; the same command goes on."""
    if name is None:
        for row in EXPERIMENTS.values():
            result(f"{row.name:8} {row.title}")
        return
    row = experiment(name)
    if dry_run:
        arms = [arm.label for arm in row.arms]
        result(
            "\n".join(
                [row.title, f"claim: {row.claim}", *arms, f"in full: {row.full}", f"needs: {row.needs}"]
            )
        )
        return
    from cogvideox.reproduce.arms import Scale
    from cogvideox.reproduce.external_results import READERS
    from cogvideox.reproduce.result_pages import LEDGER, PAGE, section, write_results
    from cogvideox.reproduce.run import run_arms, run_vaes

    scale = Scale(steps=steps, seeds=seeds, clips=clips, videos=videos, out=Path(out))
    pages = Path(docs) if all((Path(docs) / page).is_file() for page in (LEDGER, PAGE)) else None
    outcome = {"arms": run_arms, "vae": run_vaes, **READERS}[row.kind](row, scale)
    given = {"steps": steps, "seeds": seeds, "clips": clips, "videos": videos}
    flags = [f" --{name} {value}" for name, value in given.items() if value != getattr(Scale(), name)]
    outcome = replace(outcome, flags="".join(flags) if row.arms else "")
    folder = write_results(outcome, Path(out), pages)
    if as_json:
        result_json({"name": name, "status": outcome.status, "why": outcome.why, "folder": str(folder)})
    else:
        result(section(outcome, str(folder / "curves.svg") if outcome.picture else ""))
    say(f"{name}: {outcome.status}; {folder}" + (f", {pages / LEDGER} is up to date" if pages else ""))
