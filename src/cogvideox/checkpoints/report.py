"""What was found out about a checkpoint, as text for people and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cogvideox.errors import few
from cogvideox.files import short


@dataclass(frozen=True)
class TensorSet:
    """One set of tensors: its folder or file, how many there are, what they weigh, and their precision."""

    name: str
    tensors: int
    parameters: int
    bytes: int
    dtypes: dict[str, int]
    files: list[str]


@dataclass
class CheckpointReport:
    """What was found, ready to be shown as text or JSON; ``problems`` is empty for a sound checkpoint."""

    path: str
    kind: str = "unknown"
    preset: str = ""
    task: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    tensor_sets: list[TensorSet] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    todo: str = ""
    """What the person has to do before this can be used, such as a command; "" where nothing is needed."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.problems

    def to_json(self) -> str:
        """The whole report as a JSON object; its tensor sets stand under ``parts``."""
        names = {"tensor_sets": "parts"}
        values = {names.get(name, name): value for name, value in asdict(self).items()}
        return json.dumps({**values, "ok": self.ok}, indent=2, default=str)

    def to_text(self) -> str:
        """A few lines for people."""
        lines = [f"{self.path}", f"  {'kind':<10}{self.kind}"]
        lines += [f"  {'preset':<10}{self.preset}"] if self.preset else []
        lines += [f"  {'task':<10}{self.task}"] if self.task else []
        for each in self.tensor_sets:
            types = ", ".join(f"{name} x {count}" for name, count in each.dtypes.items())
            lines.append(
                f"  {each.name:<14}{each.tensors:>5} tensors {each.parameters:>15,} values "
                f"{each.bytes / 2**20:>11,.1f} MiB  {types}  in {len(each.files)} file(s)"
            )
        lines += _adapter_as_text(self.config["lora"]) if "lora" in self.config else []
        lines += _made_for_as_text(self.config.get("sampling") or self.config.get("recommended"))
        lines += _distilled_as_text(self.config.get("distilled"))
        provenance = self.config.get("record", {}).get("provenance", {})
        lines += _fused_as_text(provenance.get("fused")) + _blended_as_text(provenance.get("blended"))
        lines += [f"  {'checked':<10}{', '.join(self.checked)}"] if self.checked else []
        lines += [f"  problem   {problem}" for problem in self.problems] or [
            f"  to use it {self.todo}" if self.todo else "  no problems found"
        ]
        return "\n".join(lines)

    __str__ = to_text


def _made_for_as_text(settings: Any) -> list[str]:
    """What a model or an adapter is to be sampled with; anyone may have written it."""
    if not isinstance(settings, Mapping) or not settings:
        return []
    times, rest, texts = settings.get("times"), dict(settings), list[str]()
    if isinstance(times, list | tuple):
        texts = [f"{len(times)} steps (times {few([_plain(each) for each in times], 12)})"]
        rest = {name: value for name, value in rest.items() if name not in ("times", "steps")}
    elif "steps" in rest:
        texts = [f"{_plain(rest.pop('steps'))} steps"]
    named = [f"{_plain(name).replace('_', ' ')} {_plain(value)}" for name, value in rest.items()]
    return [f"  {'made for':<10}{few([*texts, *named], 12)}"]


def _distilled_as_text(facts: Any) -> list[str]:
    """The teacher of a distilled model and the method, by its record of training."""
    return [f"  {'distilled':<10}from {facts['teacher']} by {facts['method']}"] if facts else []


def _plain(value: Any) -> str:
    """A value of somebody's file: numbers short, texts without quotes and in one line."""
    if isinstance(value, float):
        return f"{value:g}"
    return short(value).strip("'") if isinstance(value, str) else short(value)


def _fused_as_text(notes: Any) -> list[str]:
    """The adapters in the weights of a model folder (``convert --lora``), by its record, which anyone may write."""
    named = _noted(notes, "{} at {}", "scale")
    return [f"  {'adapters':<10}in the weights: {few(named)}"] if named else []


def _blended_as_text(notes: Any) -> list[str]:
    """The models whose weights are in a blended one (``convert --blend``), by its record."""
    named = _noted(notes, "{}, share {}", "share")
    return [f"  {'blended':<10}with {few(named)}"] if named else []


def _noted(notes: Any, line: str, amount: str) -> list[str]:
    """Name and amount of each note of a list that anyone may have written."""
    notes = [note for note in notes if isinstance(note, Mapping)] if isinstance(notes, list) else []
    return [line.format(short(note.get("name")), short(note.get(amount))) for note in notes]


def _adapter_as_text(facts: Mapping[str, Any]) -> list[str]:
    ranks = ", ".join(map(str, facts["ranks"]))
    alphas = ", ".join(f"{alpha:g}" for alpha in facts["alphas"])
    alphas = f"{alphas} ({facts['alpha_from']})" if alphas else "not said (to use it, pass --lora-alpha)"
    applied = ", ".join(
        f"{leaf} x {count}" if count > 1 else leaf for leaf, count in facts["applied"].items()
    )
    lines = [
        f"  {'lora':<10}{facts['layers']} layers, rank {ranks}, alpha {alphas}",
        f"  {'from':<10}{facts['origin']}" + "".join(f", {variant}" for variant in facts["variants"]),
        f"  {'applied':<10}{applied}",
    ]
    if facts["passed_over"]:
        lines.append(f"  {'passed':<10}over: {', '.join(facts['passed_over'])}")
    if facts["origin"] == "VideoX-Fun":
        lines.append(f"  {'note':<10}VideoX-Fun itself uses such a file at 0.55: --lora FILE:0.55")
    return lines
