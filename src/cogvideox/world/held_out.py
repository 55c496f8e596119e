"""The test of the world: 200 prompts about combinations that training never shows.

The list is a file of the package, ``held_out.jsonl``; ``make_held_out_prompts`` makes it again, line by line.
Every prompt belongs to a scene of the "held_out" split, and ``sample_scene`` refuses such scenes for "train".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

from cogvideox.world.captions import Check, caption, facts
from cogvideox.world.scene import TIERS, Scene, sample_scene

HELD_OUT_SEED = 20_240_812
HELD_OUT_PROMPTS = 200


@dataclass(frozen=True, slots=True)
class Prompt:
    """One line of a prompt file: what to ask for, and what must then be seen.

    ``seed`` and ``index`` give the scene it was written about: ``sample_scene(seed, index, "held_out")``.
    """

    id: str
    prompt: str
    tier: str
    checks: tuple[Check, ...]
    seed: int
    index: int

    @property
    def scene(self) -> Scene:
        """The scene this prompt was written about; its render is what a perfect model could answer."""
        return sample_scene(self.seed, self.index, "held_out")

    def to_json(self) -> str:
        """One line of JSON."""
        record: dict[str, Any] = {"id": self.id, "prompt": self.prompt, "tier": self.tier}
        record["checks"] = [check.to_dict() for check in self.checks]
        return json.dumps({**record, "seed": self.seed, "index": self.index})

    @classmethod
    def from_json(cls, line: str) -> Prompt:
        """The inverse of ``to_json``."""
        record = json.loads(line)
        record["checks"] = tuple(Check.from_dict(check) for check in record["checks"])
        return cls(**record)


def held_out_prompts() -> list[Prompt]:
    """The 200 prompts that come with the package."""
    text = (resources.files("cogvideox.world") / "held_out.jsonl").read_text(encoding="utf-8")
    return [Prompt.from_json(line) for line in text.splitlines()]


def make_held_out_prompts(num: int = HELD_OUT_PROMPTS, seed: int = HELD_OUT_SEED) -> list[Prompt]:
    """Prompts with the tiers' shares of training, no sentence twice, in the order of their scenes."""
    wanted = {tier: round(num * share) for tier, share in TIERS.items()}
    seen: set[str] = set()
    prompts: list[Prompt] = []
    index = -1
    while any(wanted.values()):
        index += 1
        scene = sample_scene(seed, index, "held_out")
        text = caption(scene, seed, index)
        if not wanted[scene.tier] or text.lower().rstrip(".") in seen:
            continue
        seen.add(text.lower().rstrip("."))
        wanted[scene.tier] -= 1
        prompts.append(Prompt(f"held-out-{len(prompts):03d}", text, scene.tier, facts(scene), seed, index))
    return prompts
