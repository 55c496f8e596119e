"""The verbs of human evaluation: serve the rating page, report what was said."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogvideox.cli.flags import Debug, Json, flag
from cogvideox.cli.terminal import result, result_json, verb
from cogvideox.errors import ConfigError, DependencyError, suggest
from cogvideox.files.lock import folder_lock
from cogvideox.progress import progress, say

if TYPE_CHECKING:
    from cogvideox.rating.ledger import RatingEntry
    from cogvideox.rating.study import Study

MODES = ("grades", "pairs")
REMARKS = 10  # lines about changed videos, at most


rate = typer.Typer(help="People rate videos on a page of this machine.", no_args_is_help=True)


@rate.command("serve")
@verb
def serve_ratings(
    folders: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=FOLDER]...", help="videos of each model, equal names")
    ] = None,
    out: Annotated[str, flag("folder of the study; the same folder goes on")] = "study",
    mode: Annotated[str, flag("grades (the paper's) or pairs (which one is better)")] = "grades",
    port: Annotated[int, flag("on this machine only")] = 8642,
    allow_host: Annotated[
        list[str] | None, flag("name it may be reached by through a tunnel or proxy; repeatable")
    ] = None,
    dry_run: Annotated[bool, flag("prepare the study and stop", None, "--dry-run")] = False,
    debug: Debug = False,
) -> None:
    """Serve the rating page: blind, in an order of each rater's own, durable."""
    if mode not in MODES:
        raise ConfigError(f"mode {mode!r}: unknown{suggest(mode, MODES)}; grades or pairs")
    if not 0 <= port <= 65535:
        raise ConfigError(f"port {port}: must lie between 0 and 65535")
    try:
        from cogvideox.rating.rating_app import ratings_app
        from cogvideox.web.listening import address, listen, serve
    except ImportError:
        raise DependencyError("fastapi and uvicorn are not installed; install cogvideox[serve]") from None
    from cogvideox.rating.study import Study, make_private

    named, folder = _named(folders or []), Path(out)
    if not named:
        Study.read(folder)  # nothing is made for a mistyped folder
    make_private(folder)
    with ExitStack() as held:
        held.enter_context(folder_lock(folder, "a rating server is at work there", "choose another --out"))
        server = None if dry_run else held.enter_context(listen(port))
        study = _study(named, folder, mode)
        if server is not None:
            result(address(server))
            serve(ratings_app(study, folder, allow_host or []), server)


def _study(named: dict[str, Path], out: Path, mode: Any) -> Study:
    """Made, or opened again; what was left out or changed is said."""
    from cogvideox.rating.study import Study, make_study

    if named:
        with progress("preparing") as show:
            study = make_study(named, out, mode, lambda done, total: show("videos coded", done, total))
    else:
        study = Study.read(out)
    for each in study.refused:
        say(f"left out: {each.name}: {each.kind}, {each.why}")
    for remark in study.remarks[:REMARKS]:
        say(f"note: {remark}")
    if len(study.remarks) > REMARKS:
        say(f"note: {len(study.remarks) - REMARKS} more in {out / 'study.json'}")
    bare = sum(not unit.prompt for unit in study.units)
    if bare:
        say(f"{bare} of {len(study.units)} units have no prompt: raters see none; write metadata.csv")
    say(f"{len(study.units)} units of {study.mode} in {out}")
    return study


@rate.command("report")
@verb
def report_ratings(
    out: Annotated[str, typer.Argument(help="folder of the study")] = "study",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Means with intervals, a table like the paper's Table 4, agreement of raters; for pairs Bradley-Terry."""
    from cogvideox.rating.ledger import RatingLedger
    from cogvideox.rating.study import LEDGER, Study

    study, ledger = Study.read(Path(out)), Path(out) / LEDGER
    entries = list(RatingLedger(ledger).entries()) if ledger.exists() else []
    units = {unit.id for unit in study.units}
    strange = sum(entry.unit not in units for entry in entries)
    if strange:
        say(f"{strange} ratings are of videos that this study does not have: they are not counted")
    raters = len({entry.rater for entry in entries})
    counted = f"{len(entries)} ratings by {raters} raters, {len(study.units)} units"
    report = _pairs_report if study.mode == "pairs" else _grades_report
    values, paragraphs = report(study, entries)
    if as_json:
        result_json({"counted": counted, **values})
    else:
        result("\n\n".join([f"{counted}.", *filter(None, paragraphs)]))


def _pairs_report(study: Study, entries: Sequence[RatingEntry]) -> tuple[dict[str, Any], list[str]]:
    """Elo points, who beat whom and preferences in words, as plain values and as paragraphs."""
    from cogvideox.rating import pairwise

    battles = study.battles(entries)
    scores, preferences = pairwise.bradley_terry(battles), pairwise.preferences(battles)
    values = {
        "ratings": {name: score.to_dict() for name, score in scores.items()},
        "preferences": preferences,
    }
    lines = [f"| {score.name} | {_score(score)} | {score.videos} battles |" for score in scores.values()]
    table = "\n".join(["| model | Elo points | |", "|---|---|---|", *lines])
    return values, [table, pairwise.win_table(battles), "\n".join(preferences)] if battles else []


def _grades_report(study: Study, entries: Sequence[RatingEntry]) -> tuple[dict[str, Any], list[str]]:
    """Means of each model, differences and agreement of raters, as plain values and as paragraphs."""
    from cogvideox.rating import grades

    ratings = study.ratings(entries)
    alphas, differences = grades.rater_agreement(ratings), grades.differences(ratings)
    models = {
        model: {name: score.to_dict() for name, score in grades.model_scores(ratings, model).items()}
        for model in sorted({rating.model for rating in ratings})
    }
    values = {"models": models, "alpha": alphas, "differences": differences}
    if not ratings:
        return values, ["\n".join(differences)]
    shown = [f"{name} {'no overlap' if value is None else f'{value:.3f}'}" for name, value in alphas.items()]
    agreement = f"Krippendorff's alpha: {', '.join(shown)} (below .667 conclude little)."
    return values, [grades.table_4(ratings), "\n".join(differences), agreement]


def _score(score: Any) -> str:
    return f"{score.value:.0f}" + ("" if score.low is None else f" ({score.low:.0f} to {score.high:.0f})")


def _named(folders: Sequence[str]) -> dict[str, Path]:
    """``NAME=FOLDER`` each; without a name the folder's own."""
    named: dict[str, Path] = {}
    for text in folders:
        name, equals, folder = text.partition("=")
        path = Path(folder if equals else text)
        name = name if equals else path.resolve().name
        if not name or name in named:
            raise ConfigError(f"{text!r}: write NAME=FOLDER, each name once")
        named[name] = path
    return named
