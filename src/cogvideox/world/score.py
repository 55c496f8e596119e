"""Verdicts -> a table: how often each kind of fact holds, with 95 % Wilson intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

from cogvideox.world.fact_check import Verdict

KINDS = (
    "colour", "shape", "colour and shape", "accent", "thing", "relation", "moves", "front", "count", "direction",
    "speed", "change", "camera", "all facts",
)  # fmt: skip
PAIR_KINDS = ("thing", "relation", "accent", "moves", "front")
"""Asked of two different things, or of things of two colours, only."""
_Z = 1.959964  # two-sided 95 %


@dataclass(frozen=True, slots=True)
class FactScore:
    """``right`` of ``asked`` clips have a kind of fact right; ``low`` and ``high`` bound the true share."""

    kind: str
    right: int
    asked: int
    share: float
    low: float
    high: float


def wilson(right: float, asked: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a share; (0, 1) when nothing was asked."""
    if asked == 0:
        return 0.0, 1.0
    share, z2 = right / asked, _Z**2 / asked
    middle = share + z2 / 2
    half = _Z * sqrt(share * (1 - share) / asked + z2 / (4 * asked))
    return max(0.0, (middle - half) / (1 + z2)), min(1.0, (middle + half) / (1 + z2))


def report(results: Iterable[Verdict | dict]) -> list[FactScore]:
    """A score for each kind of fact that was asked, from verdicts or their records (``Verdict.to_dict``)."""
    right, asked = Counter[str](), Counter[str]()
    for result in results:
        holds = outcomes(result.to_dict() if isinstance(result, Verdict) else result)
        right.update(kind for kind, held in holds.items() if held)
        asked.update(holds.keys())
    return [_score(kind, right[kind], asked[kind]) for kind in KINDS if asked[kind]]


def report_by_tier(results: Iterable[tuple[str, Verdict | dict]]) -> list[FactScore]:
    """A score for each tier, from (tier, verdict) pairs: the share of clips in which all facts hold."""
    right, asked = Counter[str](), Counter[str]()
    for tier, result in results:
        record = result.to_dict() if isinstance(result, Verdict) else result
        asked[tier] += 1
        right[tier] += bool(record["all"])
    return [_score(tier, right[tier], asked[tier]) for tier in asked]


def _score(kind: str, right: int, asked: int) -> FactScore:
    return FactScore(kind, right, asked, right / asked, *wilson(right, asked))


def score_table(scores: Iterable[FactScore]) -> str:
    """The scores as a Markdown table, shares in percent."""
    lines = ["| fact | right | of | % | 95 % interval |", "|---|---|---|---|---|"]
    for s in scores:
        interval = f"{100 * s.low:.1f} - {100 * s.high:.1f}"
        lines.append(f"| {s.kind} | {s.right} | {s.asked} | {100 * s.share:.1f} | {interval} |")
    return "\n".join(lines)


def outcomes(record: dict) -> dict[str, bool]:
    """Whether each kind of fact holds in one clip, from a verdict's record; one asked twice must hold twice."""
    holds: dict[str, bool] = {}
    for check in record["checks"]:
        holds[check["kind"]] = holds.get(check["kind"], True) and check["holds"]
    if "colour" in holds and "shape" in holds:
        holds["colour and shape"] = holds["colour"] and holds["shape"]
    holds["all facts"] = record["all"]
    return holds
