"""Is the judge right? Rendered clips, whose truth is known, spoilt in known ways, against what the judge reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cogvideox.errors import InputError, suggest
from cogvideox.world.captions import PASSING, Check, facts
from cogvideox.world.distortions import CORRUPTIONS, Corruption
from cogvideox.world.fact_check import check_facts, find
from cogvideox.world.rendering import render
from cogvideox.world.scene import DIRECTIONS, SPLITS, random_source, sample_scene
from cogvideox.world.style import COLOURS, get_style


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


RICH_KINDS = ("accent", "thing", "relation", "moves", "front")
"""What clips of two things, or of two colours, are asked for besides."""
KINDS = ("colour", "shape", "count", "direction", "speed", "change", "camera")


def validate(
    n: int,
    corruption: str | Corruption = "clean",
    seed: int = 1,
    split: str | None = None,
    on_clip: Callable[[int], Any] | None = None,
    style: str = "plain",
    wrong: bool = False,
) -> Agreement:
    """Judge ``n`` rendered clips of a style after a corruption (a name in CORRUPTIONS, or a function such as a VAE
    round trip).

    Half of the clips come from each split unless one is named. ``wrong``: each clip is judged once more with one of
    its facts stated wrongly; ``right["refused"]`` counts those that do not pass. Raises InputError for an unknown
    corruption or style.
    """
    name = corruption if isinstance(corruption, str) else getattr(corruption, "__name__", "function")
    if isinstance(corruption, str) and corruption not in CORRUPTIONS:
        raise InputError(
            f"corruption {name!r}: not one of {', '.join(CORRUPTIONS)}{suggest(name, CORRUPTIONS)}"
        )
    spoil = CORRUPTIONS[corruption] if isinstance(corruption, str) else corruption
    result = Agreement(name)
    for index in range(n):
        scene = sample_scene(seed, index, split or SPLITS[index % 2], style=style)
        checks = facts(scene)
        frames = spoil(render(scene), random_source(seed, "corruption", index))
        verdict = check_facts(frames, checks, style)
        if wrong:
            stated = wrong_facts(checks, random_source(seed, "wrong", index), style)
            result.right["refused"] += not all(find(check, verdict.reading).holds for check in stated)
            result.asked["refused"] += 1
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


def wrong_facts(checks: Sequence[Check], rng: np.random.Generator, style: str = "plain") -> tuple[Check, ...]:
    """The same facts, but for one that is another value of its kind."""
    changed = int(rng.integers(len(checks)))
    others = [value for value in _values(checks[changed], style) if value != checks[changed].value]
    value = others[int(rng.integers(len(others)))]
    wrong = replace(checks[changed], value=value, into=None)
    return (*checks[:changed], wrong, *checks[changed + 1 :])


def _values(check: Check, style: str) -> list[str | int]:
    """Values of the kind of a check that say something else of the same things."""
    chosen, words = get_style(style), str(check.value).split()
    named: dict[str, list[str | int]] = {
        "colour": list(COLOURS), "accent": list(COLOURS), "shape": list(chosen.shapes), "count": [1, *chosen.numbers],
        "direction": list(DIRECTIONS), "speed": ["slow", "fast"], "change": ["none", "grow", "shrink", "rotate"],
        "camera": ["static", *DIRECTIONS],
    }  # fmt: skip
    if check.kind == "thing":
        colours = [f"{colour} {words[1]}" for colour in COLOURS]
        return [*colours, *(f"{words[0]} {shape}" for shape in chosen.simple)]
    if check.kind == "moves":
        return [" ".join([*words[:2], way]) for way in DIRECTIONS]
    if check.kind == "front":
        return [f"{' '.join(words[:2])} {passing} {' '.join(words[-2:])}" for passing in PASSING.values()]
    if check.kind == "relation":
        return [
            f"{' '.join(words[:2])} {way} {' '.join(words[-2:])}"
            for way in ("left of", "right of", "above", "below")
        ]
    return named[check.kind]


def agreement_table(results: list[Agreement]) -> str:
    """One Markdown row per corruption, one column per kind of fact."""
    kinds = [*KINDS, "all"]
    if any(result.asked.keys() - set(kinds) for result in results):
        kinds = [*KINDS, *RICH_KINDS, "all", "refused"]
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
