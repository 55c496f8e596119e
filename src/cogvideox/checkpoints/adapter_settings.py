"""What an adapter's file says about itself in words: alpha, rank, and PEFT's variants.

PEFT's ``alpha_pattern`` and ``rank_pattern`` are regular expressions. A file's expressions are never run: a key that is
the name of a layer (or its end) is compared as text, any other makes alpha unknown for the layers it might mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cogvideox.checkpoints.adapter_pairs import OddSettingsError, check_alpha
from cogvideox.errors import CheckpointError
from cogvideox.files import parse_json, read_json, short

METADATA = (
    "lora_adapter_metadata"  # of diffusers: PEFT's settings, their names with the part of the model before
)
FINETRAINERS = "lora_config"
FILE = "pytorch_lora_weights.safetensors"
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PLAIN = ("lora_alpha", "alpha", "ss_network_alpha")
_REBASED = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class Said:
    """Settings in a file's metadata or beside it; ``source`` names where they stood, '' for nowhere."""

    source: str = ""
    alpha: float | None = None
    rank: int | None = None
    alphas: Mapping[str, float] = field(default_factory=dict)
    ranks: Mapping[str, float] = field(default_factory=dict)
    patterns: tuple[str, ...] = ()
    rank_stabilised: bool = False

    def alpha_of(self, layer: str) -> float | None:
        """Alpha of a layer of ours, None where nothing is said."""
        return self.alpha if (own := _ending(self.alphas, layer)) is None else own

    def check_rank(self, where: str, layer: str, rank: int) -> None:
        """Raises OddSettingsError when the matrices have another rank than the settings say."""
        own = _ending(self.ranks, layer)
        said = self.rank if own is None else own
        if said is not None and said != rank and (own is not None or not self.patterns):
            raise OddSettingsError(
                f"{where}: {layer} has rank {rank}, {self.source} says {said:g}: they are not of one adapter, so alpha "
                "cannot be trusted; pass alpha (--lora-alpha)"
            )


def read_said(file: Path, metadata: Mapping[str, str], beside: bool) -> Said:
    """The settings of an adapter; ``beside``: PEFT's file may stand next to it. Raises OddSettingsError for
    what alpha given by hand makes good, CheckpointError for adapters of another kind.
    """
    config = file.parent / PEFT_CONFIG
    for key in (METADATA, FINETRAINERS):
        if key in metadata:
            where = f"{file}: metadata {key!r}"
            values = parse_json(metadata[key], where, error=OddSettingsError)
            if not isinstance(values, dict):
                raise OddSettingsError(f"{where}: not a JSON object; pass alpha (--lora-alpha)")
            return _of_peft(_of_transformer(values), f"metadata {key}", where)
    if beside and config.is_file():
        values = read_json(config, error=OddSettingsError)
        if not isinstance(values, dict):
            raise OddSettingsError(f"{config}: not a JSON object; pass alpha (--lora-alpha)")
        return _of_peft(values, PEFT_CONFIG, str(config))
    for key in _PLAIN:
        if metadata.get(key) not in (None, "", "None"):
            return Said(f"metadata {key}", check_alpha(metadata[key], f"{file}: metadata {key!r}"))
    return Said()


def _of_transformer(values: dict[str, Any]) -> dict[str, Any]:
    """Settings of the transformer alone, where the names say of which part of the model they are."""
    own = {
        key.removeprefix("transformer."): value
        for key, value in values.items()
        if key.startswith("transformer.")
    }
    return own or {key: value for key, value in values.items() if "." not in key}


def _of_peft(values: Mapping[str, Any], source: str, where: str) -> Said:
    kind = values.get("peft_type", "LORA")
    if kind != "LORA":
        raise CheckpointError(f"{where}: an adapter of type {short(kind)}, which is not run; LORA is")
    start = values.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_REBASED):
        raise CheckpointError(
            f"{where}: init_lora_weights {short(start)} changes the weights under the adapter; convert it to a plain "
            "LoRA with PEFT (save_pretrained with path_initial_model_for_weight_conversion)"
        )
    alphas, unread = _literal(values.get("alpha_pattern"), f"{where}: alpha_pattern")
    if unread:
        raise OddSettingsError(
            f"{where}: alpha_pattern {short(unread[0])} is a regular expression; those of files are not run: "
            "pass alpha (--lora-alpha)"
        )
    ranks, unread = _literal(values.get("rank_pattern"), f"{where}: rank_pattern")
    alpha, rank = values.get("lora_alpha"), values.get("r")
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        raise OddSettingsError(f"{where}: r {short(rank)} is not a rank; pass alpha (--lora-alpha)")
    for switch in ("use_rslora", "use_dora", "lora_bias"):
        if not isinstance(values.get(switch, False), bool | None):
            raise OddSettingsError(f"{where}: {switch} {short(values[switch])} is neither true nor false")
    return Said(
        source,
        None if alpha is None else check_alpha(alpha, f"{where}: lora_alpha"),
        rank,
        alphas,
        ranks,
        tuple(unread),
        bool(values.get("use_rslora")),
    )


def _literal(pattern: Any, where: str) -> tuple[dict[str, float], list[str]]:
    """Keys that are text, and those that are not. PEFT writes dots as they are or as ``\\.``."""
    if pattern is None:
        return {}, []
    if not isinstance(pattern, dict):
        raise OddSettingsError(f"{where}: {short(pattern)} is not a JSON object; pass alpha (--lora-alpha)")
    found, unread = {}, []
    for key, value in pattern.items():
        number = check_alpha(value, f"{where}: {short(key)}")
        plain = key.removeprefix("^").removesuffix("$").replace("\\.", ".").replace("\\-", "-")
        if all(part.replace("_", "").replace("-", "").isalnum() for part in plain.split(".")):
            found[plain] = number
        else:
            unread.append(key)
    return found, unread


def _ending(values: Mapping[str, float], layer: str) -> float | None:
    """The value whose key is the layer's name or its end after a dot, the longest first."""
    words = layer.split(".") if values else []
    return next((values[end] for at in range(len(words)) if (end := ".".join(words[at:])) in values), None)
