"""The verb reproduce: a figure or table of the paper, run again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cogvideox.cli.flags import Debug, Json, flag
from cogvideox.cli.terminal import result, result_json, verb
from cogvideox.progress import say
from cogvideox.reproduce.experiments import EXPERIMENTS, experiment

NAME = "fig8a, table9, ...; without one: which there are"
DOCS = "folder of paper.md and records/reproduce.md, brought up to date where it is"


@verb
def reproduce(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help=NAME)] = None,
    steps: Annotated[int, flag("training steps of an arm", min=10)] = 150,
    seeds: Annotated[int, flag("runs of each arm", min=1, max=100)] = 3,
    clips: Annotated[int, flag("clips that all arms share", min=8)] = 512,
    videos: Annotated[int, flag("videos of each arm, for FVD and facts", min=8, max=200)] = 16,
    out: Annotated[str, flag("folder of the runs; the same folder goes on")] = "runs/reproduce",
    docs: Annotated[str, flag(DOCS)] = "docs",
    dry_run: Annotated[bool, flag("say what would be run and stop", None, "--dry-run")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run an experiment of the paper in miniature, beside its numbers; the same command goes on."""
    if name is None:
        result("\n".join(f"{each.name:8} {each.title}" for each in EXPERIMENTS.values()))
        return
    one = experiment(name)
    if dry_run:
        arms = [arm.label for arm in one.arms]
        lines = [one.title, f"claim: {one.claim}", *arms, f"in full: {one.full}", f"needs: {one.needs}"]
        result("\n".join(lines))
        return
    from cogvideox.reproduce.arms import Scale
    from cogvideox.reproduce.external_results import READERS
    from cogvideox.reproduce.result_pages import LEDGER, PAGE, section, write_results
    from cogvideox.reproduce.run import run_arms, run_vaes

    scale = Scale(steps=steps, seeds=seeds, clips=clips, videos=videos, out=Path(out))
    pages = Path(docs) if all((Path(docs) / page).is_file() for page in (LEDGER, PAGE)) else None
    outcome = {"arms": run_arms, "vae": run_vaes, **READERS}[one.kind](one, scale)
    given = {"steps": steps, "seeds": seeds, "clips": clips, "videos": videos}
    flags = [f" --{name} {value}" for name, value in given.items() if value != getattr(Scale(), name)]
    outcome = replace(outcome, flags="".join(flags) if one.arms else "")
    folder = write_results(outcome, Path(out), pages)
    if as_json:
        result_json({"name": name, "status": outcome.status, "why": outcome.why, "folder": str(folder)})
    else:
        result(section(outcome, str(folder / "curves.svg") if outcome.picture else ""))
    say(f"{name}: {outcome.status}; {folder}" + (f", {pages / LEDGER} is up to date" if pages else ""))
