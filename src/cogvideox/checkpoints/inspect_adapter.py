"""What an adapter's file holds, for ``inspect``: layers, rank, alpha, origin, what is applied and what is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cogvideox.checkpoints.adapter import (
    Adapter,
    AlphaUnknownError,
    OddSettingsError,
    read_adapter,
)
from cogvideox.checkpoints.adapter_names import other_kind


def kind_of_adapter(names: Iterable[str]) -> str:
    """LoRA, or what else an adapter with these tensor names is."""
    kinds = Counter(kind for name in names if (kind := other_kind(name)))
    return kinds.most_common(1)[0][0] if kinds else "LoRA"


def facts_of(file: Path) -> tuple[dict[str, Any], list[str]]:
    """Facts for the report, and problems. Raises CheckpointError for what is not run at all."""
    problems: list[str] = []
    try:
        adapter, said = read_adapter(file), True
    except AlphaUnknownError as error:  # a fact about the file, not a fault of it
        adapter, said = read_adapter(file, alpha=1.0), False
        if isinstance(error, OddSettingsError):
            problems.append(str(error))
    if adapter.does_nothing():
        problems.append(f"{file}: this LoRA changes nothing; was it trained?")
    return _as_facts(adapter, said), problems


def _as_facts(adapter: Adapter, said: bool) -> dict[str, Any]:
    leaves = Counter(_leaf(layer) for layer in adapter.pairs)
    return {
        "layers": len(adapter.pairs),
        "ranks": adapter.ranks,
        "alphas": adapter.alphas if said else [],
        "norm_of_changes": adapter.delta_norm() if said else None,
        "origin": adapter.origin,
        "alpha_from": adapter.alpha_from if said else "",
        "variants": adapter.variants,
        "applied": dict(leaves),
        "passed_over": list(adapter.passed_over),
    }


def as_text(facts: Mapping[str, Any]) -> list[str]:
    """The facts in a few lines for people."""
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


def _leaf(layer: str) -> str:
    """The same layer of all blocks under one name."""
    words = layer.split(".")
    return ".".join(words[2:]) if words[0] == "transformer_blocks" else layer
