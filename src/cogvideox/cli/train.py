"""The verbs train, data encode and settings: a recipe or a run.yaml, trained, prepared or listed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from cogvideox.cli.curate import data
from cogvideox.cli.flags import Debug, Engine, Json, Settings, Workers, flag
from cogvideox.cli.terminal import USAGE, result, result_json, verb
from cogvideox.progress import say

DRY_RUN = "check folders and models; print settings, memory, time"


@verb
def train(
    recipe: Annotated[
        str, typer.Argument(help="a recipe (world-vae, world-t2v, lora, finetune, ...) or a run.yaml")
    ],
    settings: Settings = None,
    out: Annotated[str | None, flag("folder of the run; the same folder resumes")] = None,
    dry_run: Annotated[bool, flag(DRY_RUN, None, "--dry-run")] = False,
    debug: Debug = False,
) -> None:
    """Train; rerunning the same command resumes. `cogvideox settings RECIPE` lists every setting of a recipe."""
    if recipe.endswith((".yaml", ".yml")):
        from cogvideox.files import read_yaml

        read_yaml(recipe)  # a file that cannot be read is told before torch is loaded, which takes seconds
    from cogvideox import api

    config = api.training_config(recipe, out=out, overrides=settings or [])
    if dry_run:
        from cogvideox.cli.training import show_run

        if not show_run(config):
            raise typer.Exit(USAGE)
        return
    folder = api.train(config)
    from cogvideox.parallel.mesh import is_main_process

    if is_main_process():
        result(str(folder))


@data.command("encode")
@verb
def encode(
    recipe: Annotated[str, typer.Argument(help="a recipe or a run.yaml, as for train")],
    settings: Settings = None,
    engine: Engine = "local",
    workers: Workers = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Encode the clips and captions that `train` with the same settings reads, into task.cache, by several workers."""
    from cogvideox import api
    from cogvideox.engines import JobEngine

    found = api.encode(recipe, overrides=settings or [], engine=JobEngine(engine, workers))
    if as_json:
        result_json(asdict(found) | {"cache": str(found.cache)})
        return
    for name, reason in found.dropped.items():
        say(f"{name}: {reason}")
    result(f"{found.train} clips to train on, {found.held_out} to measure with, {len(found.dropped)} dropped")
    result(str(found.cache))


@verb
def settings(
    recipe: Annotated[
        str | None, typer.Argument(help="a recipe or a run.yaml; none: list the recipes")
    ] = None,
    find: Annotated[str | None, flag("only settings whose path or meaning holds this")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Every setting of a training recipe: dotted path, value, type, meaning."""
    from cogvideox.cli.training import show_settings

    show_settings(recipe, find, as_json)
