"""The test of the world: 200 prompts about combinations that training never shows.

The list is a file of the package, ``held_out.jsonl``, that of the rich style ``held_out_rich.jsonl``;
``make_held_out_prompts`` makes them again, line by line.
Every prompt belongs to a scene of the "held_out" split, and ``sample_scene`` refuses such scenes for "train".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

from cogvideox.world.captions import Check, caption, facts
from cogvideox.world.scene import Scene, sample_scene
from cogvideox.world.style import STYLES, get_style

HELD_OUT_SEED = 20_240_812
HELD_OUT_PROMPTS = 200


@dataclass(frozen=True, slots=True)
class Prompt:
    """One line of a prompt file: what to ask for, and what must then be seen.

    ``seed``, ``index`` and ``style`` give the scene it was written about: ``sample_scene(seed, index, "held_out")``.
    """

    id: str
    prompt: str
    tier: str
    checks: tuple[Check, ...]
    seed: int
    index: int
    style: str = "plain"

    @property
    def scene(self) -> Scene:
        """The scene this prompt was written about; its render is what a perfect model could answer."""
        return sample_scene(self.seed, self.index, "held_out", style=self.style)

    def to_json(self) -> str:
        """One line of JSON."""
        record: dict[str, Any] = {"id": self.id, "prompt": self.prompt, "tier": self.tier}
        record["checks"] = [check.to_dict() for check in self.checks]
        record |= {"seed": self.seed, "index": self.index}
        return json.dumps(record if self.style == "plain" else record | {"style": self.style})

    @classmethod
    def from_json(cls, line: str) -> Prompt:
        """The inverse of ``to_json``."""
        record = json.loads(line)
        record["checks"] = tuple(Check.from_dict(check) for check in record["checks"])
        return cls(**record)


def held_out_prompts(style: str = "plain") -> list[Prompt]:
    """The 200 prompts of a style that come with the package. Raises InputError for an unknown style."""
    file = "held_out.jsonl" if get_style(style) is STYLES["plain"] else f"held_out_{style}.jsonl"
    text = (resources.files("cogvideox.world") / file).read_text(encoding="utf-8")
    return [Prompt.from_json(line) for line in text.splitlines()]


def make_held_out_prompts(
    num: int = HELD_OUT_PROMPTS, seed: int = HELD_OUT_SEED, style: str = "plain"
) -> list[Prompt]:
    """Prompts with the tiers' shares of training, no sentence twice, in the order of their scenes."""
    wanted = {tier: round(num * share) for tier, share in get_style(style).tiers.items()}
    seen: set[str] = set()
    prompts: list[Prompt] = []
    index = -1
    while any(wanted.values()):
        index += 1
        scene = sample_scene(seed, index, "held_out", style=style)
        text = caption(scene, seed, index)
        if not wanted[scene.tier] or text.lower().rstrip(".") in seen:
            continue
        seen.add(text.lower().rstrip("."))
        wanted[scene.tier] -= 1
        name = f"held-out-{len(prompts):03d}"
        prompts.append(Prompt(name, text, scene.tier, facts(scene), seed, index, style))
    return prompts
