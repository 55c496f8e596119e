"""What ``train --dry-run`` prints: the settings as YAML, and as its comments what the run will read, hold and take."""

from __future__ import annotations

import typer

from cogvideox.cli.terminal import USAGE, result
from cogvideox.progress import on_one_line, say
from cogvideox.training.config import Run, TrainConfig
from cogvideox.training.preview import Preview, preview
from cogvideox.training.stages import StagedRun


def show_run(config: Run | StagedRun) -> None:
    """Print it; exit code 2 when something is missing that the run would stop for."""
    stages: list[TrainConfig] = [config]  # type: ignore[list-item]
    if isinstance(config, StagedRun):
        stages = [config.run_of(number) for number in range(len(config.stages))]
    else:
        config = config.changed(task=config.task.completed())
    found = [preview(stage) for stage in stages]
    for stage, one in zip(stages, found, strict=True):
        for line in one.lines:
            result(f"# {f'{stage.name}: ' if len(stages) > 1 else ''}{on_one_line(line)}")
    result(config.to_yaml().rstrip())
    problems = _once(found)
    for problem in problems:
        say(f"error: {on_one_line(problem)}")
    if problems:
        raise typer.Exit(USAGE)


def _once(found: list[Preview]) -> list[str]:
    """The problems of all stages; a later one starts from the result of the one before, which is not there yet."""
    told = list(found[0].problems)
    for one in found[1:]:
        told += [problem for problem in one.problems if not problem.startswith("task.start")]
    return list(dict.fromkeys(told))
