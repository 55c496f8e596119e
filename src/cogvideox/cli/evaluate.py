"""The verb evaluate: score a folder of anyone's videos, or make a model's videos first and score those."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cogvideox.cli.flags import OUTPUT, Debug, Engine, Json, Workers, flag, with_flags
from cogvideox.cli.terminal import result, result_json, verb
from cogvideox.errors import ConfigError, InputError
from cogvideox.evaluate_model.options import OPTION_GROUPS, EvaluateOptions
from cogvideox.progress import TERMINAL, say


@verb
@with_flags(EvaluateOptions, OPTION_GROUPS)
def evaluate(
    options: dict[str, Any],
    subject: Annotated[
        str | None, typer.Argument(metavar="[DIR|MODEL]", help="videos, or what makes them")
    ] = None,
    model: Annotated[str | None, flag("the same as MODEL; without either the shipped one")] = None,
    out: Annotated[str, flag("folder of the scores; the same folder resumes", OUTPUT)] = "eval",
    engine: Engine = "local",
    workers: Workers = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score videos: of a folder, or of a model, with intervals, and beside another run."""
    settings = EvaluateOptions.parse(options)
    if subject is not None and model is not None:
        raise ConfigError(f"{subject!r} and --model {model!r}: give one of them")
    from cogvideox.engines import JobEngine
    from cogvideox.evaluate_model.run import evaluate as run

    where = JobEngine(engine, workers)
    evaluation = run(subject or model or "tiny", out, options=settings, engine=where, reporter=TERMINAL)
    result_json(evaluation.to_dict()) if as_json else result(evaluation.table())
    report = evaluation.report
    say(f"{report.counted}; the page is {out}/report.html, the numbers are {out}/report.json")
    if all(score.value is None for score in report.scores):
        raise InputError(
            f"{report.subject}: nothing could be measured by suite {report.suite}; the reasons stand above"
        )
