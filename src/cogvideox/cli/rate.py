"""The verbs of human evaluation: serve the rating page, report what was said."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideox.cli.terminal import result, result_json
from cogvideox.errors import ConfigError, DependencyError, suggest
from cogvideox.files.lock import folder_lock
from cogvideox.progress import progress, say

if TYPE_CHECKING:
    from cogvideox.rating.study import Study

MODES = ("grades", "pairs")
REMARKS = 10  # lines about changed videos, at most


def serve_ratings(
    folders: Sequence[str], out: Path, mode: str, port: int, hosts: Sequence[str], dry_run: bool
) -> None:
    """Prepare the study, then answer on this machine's loopback until it is stopped."""
    if mode not in MODES:
        raise ConfigError(f"mode {mode!r}: unknown{suggest(mode, MODES)}; grades or pairs")
    if not 0 <= port <= 65535:
        raise ConfigError(f"port {port}: must lie between 0 and 65535")
    try:
        from cogvideox.rating.loopback import address, listen, serve
        from cogvideox.rating.rating_app import ratings_app
    except ImportError:
        raise DependencyError("fastapi and uvicorn are not installed; install cogvideox[serve]") from None
    from cogvideox.rating.study import Study, make_private

    named = _named(folders)
    if not named:
        Study.read(out)  # nothing is made for a mistyped folder
    make_private(out)
    with ExitStack() as held:
        held.enter_context(folder_lock(out, "a rating server is at work there", "choose another --out"))
        server = None if dry_run else held.enter_context(listen(port))
        study = _study(named, out, mode)
        if server is None:
            return
        result(address(server))
        serve(ratings_app(study, out, hosts), server)


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


def report_ratings(out: Path, as_json: bool) -> None:
    """A table like the paper's, differences in words, agreement; for pairs Bradley-Terry and who beat whom."""
    from cogvideox.rating import grades, pairwise
    from cogvideox.rating.ledger import RatingLedger
    from cogvideox.rating.study import LEDGER, Study

    study = Study.read(out)
    entries = list(RatingLedger(out / LEDGER).entries()) if (out / LEDGER).exists() else []
    strange = len(entries) - sum(entry.unit in {unit.id for unit in study.units} for entry in entries)
    if strange:
        say(f"{strange} ratings are of videos that this study does not have: they are not counted")
    raters = len({entry.rater for entry in entries})
    counted = f"{len(entries)} ratings by {raters} raters, {len(study.units)} units"
    if study.mode == "pairs":
        battles = study.battles(entries)
        scores = pairwise.bradley_terry(battles)
        if as_json:
            found = {name: score.to_dict() for name, score in scores.items()}
            result_json({"counted": counted, "ratings": found, "preferences": pairwise.preferences(battles)})
            return
        lines = [f"| {score.name} | {_score(score)} | {score.videos} battles |" for score in scores.values()]
        table = "\n".join(["| model | Elo points | |", "|---|---|---|", *lines])
        said = "\n".join(pairwise.preferences(battles))
        result(
            "\n\n".join(
                [counted + ".", table, pairwise.win_table(battles), said] if battles else [counted + "."]
            )
        )
        return
    ratings = study.ratings(entries)
    alphas = grades.rater_agreement(ratings)
    if as_json:
        models = sorted({rating.model for rating in ratings})
        found = {m: {n: s.to_dict() for n, s in grades.model_scores(ratings, m).items()} for m in models}
        result_json(
            {"counted": counted, "models": found, "alpha": alphas, "differences": grades.differences(ratings)}
        )
        return
    parts = [
        counted + ".",
        grades.table_4(ratings) if ratings else "",
        "\n".join(grades.differences(ratings)),
    ]
    parts.append(_agreement(alphas, ratings))
    result("\n\n".join(part for part in parts if part))


def _agreement(alphas: dict[str, float | None], ratings: Sequence[Any]) -> str:
    if not ratings:
        return ""
    said = [f"{name} {'no overlap' if value is None else f'{value:.3f}'}" for name, value in alphas.items()]
    return f"Krippendorff's alpha: {', '.join(said)} (below .667 conclude little)."


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
