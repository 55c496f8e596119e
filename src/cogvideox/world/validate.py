"""Is the judge right? Rendered clips, whose truth is known, spoilt in known ways, against what the judge reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cogvideox.errors import InputError, suggest
from cogvideox.world.captions import facts
from cogvideox.world.distortions import CORRUPTIONS, Corruption
from cogvideox.world.fact_check import check_facts
from cogvideox.world.rendering import render
from cogvideox.world.scene import SPLITS, random_source, sample_scene


@dataclass
class Agreement:
    """How often the judge agreed with the truth, per kind of fact; ``confusion[kind][(true, seen)]`` counts the
    cases."""

    name: str
    confusion: dict[str, Counter] = field(default_factory=dict)
    right: Counter = field(default_factory=Counter)
    asked: Counter = field(default_factory=Counter)

    def share(self, kind: str) -> float:
        """Share of right findings for colour, shape, ... or "all" (every fact of a clip)."""
        return self.right[kind] / self.asked[kind]


KINDS = ("colour", "shape", "count", "direction", "speed", "change", "camera")


def validate(
    n: int,
    corruption: str | Corruption = "clean",
    seed: int = 1,
    split: str | None = None,
    on_clip: Callable[[int], Any] | None = None,
) -> Agreement:
    """Judge ``n`` rendered clips after a corruption (a name in CORRUPTIONS, or a function such as a VAE round
    trip).

    Half of the clips come from each split unless one is named. Raises InputError for an unknown corruption.
    """
    name = corruption if isinstance(corruption, str) else getattr(corruption, "__name__", "function")
    if isinstance(corruption, str) and corruption not in CORRUPTIONS:
        raise InputError(
            f"corruption {name!r}: not one of {', '.join(CORRUPTIONS)}{suggest(name, CORRUPTIONS)}"
        )
    spoil = CORRUPTIONS[corruption] if isinstance(corruption, str) else corruption
    result = Agreement(name)
    for index in range(n):
        scene = sample_scene(seed, index, split or SPLITS[index % 2])
        checks = facts(scene)
        verdict = check_facts(spoil(render(scene), random_source(seed, "corruption", index)), checks)
        for found in verdict.findings:
            kind, true, into = found.check.kind, found.check.value, found.check.into
            true = true if into is None else f"{true} into {into}"
            result.confusion.setdefault(kind, Counter())[(true, found.seen)] += 1
            result.right[kind] += found.holds
            result.asked[kind] += 1
        result.right["all"] += verdict.all_hold
        result.asked["all"] += 1
        if on_clip is not None:
            on_clip(index + 1)
    return result


def agreement_table(results: list[Agreement]) -> str:
    """One Markdown row per corruption, one column per kind of fact."""
    kinds = [*KINDS, "all"]
    lines = ["| setting | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for result in results:
        cells = [f"{result.share(kind):.3f}" if result.asked[kind] else "-" for kind in kinds]
        lines.append(f"| {result.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def confusion_table(result: Agreement, kind: str) -> str:
    """Markdown: rows are the truth, columns what the judge saw."""
    counts = result.confusion.get(kind, Counter())
    seen = sorted({str(pair[1]) for pair in counts})
    lines = [f"| {kind}: true \\ seen | " + " | ".join(seen) + " |", "|---" * (len(seen) + 1) + "|"]
    for true in sorted({pair[0] for pair in counts}, key=str):
        row = [str(sum(c for (a, b), c in counts.items() if a == true and str(b) == name)) for name in seen]
        lines.append(f"| {true} | " + " | ".join(row) + " |")
    return "\n".join(lines)
