"""Verdicts -> a table: how often each kind of fact holds, with 95 % Wilson intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

from cogvideox.world.judge import Verdict

KINDS = (
    "colour",
    "shape",
    "colour and shape",
    "thing",
    "relation",
    "count",
    "direction",
    "speed",
    "change",
    "camera",
    "all facts",
)
OF_PAIRS = ("thing", "relation")  # asked of two different things only
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
    """One row per kind of fact that was asked; takes verdicts or what their ``to_dict`` wrote."""
    right, asked = Counter[str](), Counter[str]()
    for result in results:
        holds = outcomes(result.to_dict() if isinstance(result, Verdict) else result)
        right.update(kind for kind, held in holds.items() if held)
        asked.update(holds.keys())
    return [
        FactScore(
            kind, right[kind], asked[kind], right[kind] / asked[kind], *wilson(right[kind], asked[kind])
        )
        for kind in KINDS
        if asked[kind]
    ]


def report_by_tier(results: Iterable[tuple[str, Verdict | dict]]) -> list[FactScore]:
    """One row per tier, for (tier, verdict) pairs: the share of clips in which all facts hold."""
    right, asked = Counter[str](), Counter[str]()
    for tier, result in results:
        record = result.to_dict() if isinstance(result, Verdict) else result
        asked[tier] += 1
        right[tier] += bool(record["all"])
    return [
        FactScore(
            tier, right[tier], asked[tier], right[tier] / asked[tier], *wilson(right[tier], asked[tier])
        )
        for tier in asked
    ]


def score_table(rows: Iterable[FactScore]) -> str:
    """The rows as a Markdown table, shares in percent."""
    lines = ["| fact | right | of | % | 95 % interval |", "|---|---|---|---|---|"]
    for row in rows:
        interval = f"{100 * row.low:.1f} - {100 * row.high:.1f}"
        lines.append(f"| {row.kind} | {row.right} | {row.asked} | {100 * row.share:.1f} | {interval} |")
    return "\n".join(lines)


def outcomes(record: dict) -> dict[str, bool]:
    """Whether each kind of fact holds in one clip, from a verdict's record; one asked twice must hold twice."""
    found: dict[str, bool] = {}
    for check in record["checks"]:
        found[check["kind"]] = found.get(check["kind"], True) and check["holds"]
    if "colour" in found and "shape" in found:
        found["colour and shape"] = found["colour"] and found["shape"]
    found["all facts"] = record["all"]
    return found
