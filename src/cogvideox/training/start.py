"""What a run starts from: folders of other runs and of models, and their weights in a network of another size."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from cogvideox.checkpoints.adapter import FILE, PEFT_FILE
from cogvideox.checkpoints.diffusers import component, load_transformer, read_transformer_config
from cogvideox.checkpoints.hub import find_folder
from cogvideox.errors import CheckpointError, ConfigError
from cogvideox.transformer import Transformer, TransformerConfig


def load_config(folder: Path) -> TransformerConfig:
    """The settings of a model folder's transformer."""
    return read_transformer_config(component(folder, "transformer"))


def model_folder(name: str, place: str, recipe: str) -> Path:
    """The folder that another run left. Raises ConfigError that names that run when there is none, or an adapter."""
    try:
        found = find_folder(place)
    except CheckpointError as error:
        first = f"run `cogvideox train {recipe}` first, or " if place == f"runs/{recipe}/model" else ""
        raise ConfigError(f"task.{name}: {error}; {first}set task.{name}=FOLDER") from None
    if any((found / file).is_file() for file in (FILE, PEFT_FILE)):
        raise ConfigError(
            f"task.{name} {place}: holds an adapter; name the model that it is for, and set task.lora.start={place} to "
            "go on from the adapter"
        )
    return found


def widen(transformer: Transformer, folder: Path) -> None:
    """Start from another model: equal tensors are copied, two projections may have other sizes.

    A patch projection with more input channels gets zeros for them: with zero weights on the image channels
    the widened model gives exactly the old one's output. Smaller patches take the sum of the old projection
    over the old patch, and the average of the old output: tokens of an even region say what they said before.
    """
    old, new = load_transformer(folder, dtype="float32").state_dict(), transformer.state_dict()
    if old.keys() != new.keys():
        raise CheckpointError(
            f"{folder}: holds another architecture: {sorted(old.keys() ^ new.keys())[:3]} differ"
        )
    before, now = load_config(folder), transformer.config
    for name, value in new.items():
        source = _repatched(name, old[name], before, now)
        if value.shape == source.shape:
            value.copy_(source)
        elif name == "patch_embed.proj.weight" and value.shape[1] == 2 * source.shape[1]:
            value.zero_()
            value[:, : source.shape[1]].copy_(source)
        else:
            raise ConfigError(
                f"{name}: {tuple(source.shape)} in {folder}, {tuple(value.shape)} asked for; sizes must agree"
            )


def _repatched(name: str, tensor: Tensor, before: TransformerConfig, now: TransformerConfig) -> Tensor:
    """A tensor of a model with patches of ``before`` as one with the smaller patches of ``now``; else unchanged."""
    p, q = before.patch_size, now.patch_size
    if p == q or p % q or before.patch_size_t is not None or now.patch_size_t is not None:
        return tensor
    if name == "patch_embed.proj.weight":
        return tensor.unflatten(3, (p // q, q)).unflatten(2, (p // q, q)).sum((2, 4))
    if name in ("proj_out.weight", "proj_out.bias"):
        blocks = tensor.unflatten(0, (before.out_channels, p // q, q, p // q, q))
        return blocks.mean((1, 3)).flatten(0, 2)
    return tensor
