"""The model that a run starts from: its folder, and its weights in a network of another size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from cogvideox.checkpoints.adapter import LORA_FILE, PEFT_FILE
from cogvideox.checkpoints.diffusers import component, load_transformer, read_transformer_config
from cogvideox.checkpoints.hub import find_folder
from cogvideox.errors import CheckpointError, ConfigError
from cogvideox.training.tasks.diffusion_settings import WORLD_TEXT, WORLD_VAE, DiffusionSettings
from cogvideox.transformer import Transformer, TransformerConfig


def load_config(folder: Path) -> TransformerConfig:
    """The settings of a model folder's transformer."""
    return read_transformer_config(component(folder, "transformer"))


def model_folders(config: DiffusionSettings) -> dict[str, Path]:
    """The folders of vae, text and, where there is one, start; a hub model is downloaded.

    Raises ConfigError that names every one that is missing, and how to get it, or that is an adapter.
    """
    names = {"start": config.start, "vae": config.vae or config.start or WORLD_VAE}
    names["text"] = config.text or config.start or WORLD_TEXT
    folders, missing = dict[str, Path](), dict[str, str]()
    for setting, name in names.items():
        if name is None:
            continue
        try:
            folders[setting] = find_folder(name)
        except CheckpointError as error:
            missing[setting] = str(error)
            continue
        if any((folders[setting] / file).is_file() for file in (LORA_FILE, PEFT_FILE)):
            raise ConfigError(
                f"task.{setting} {name}: holds an adapter; name the model that it is for, and set "
                f"task.lora.start={name} to go on from the adapter"
            )
    if missing:
        raise ConfigError(_how_to_get(missing, names))
    return folders


def _how_to_get(missing: Mapping[str, str], names: Mapping[str, str | None]) -> str:
    """What is missing, and the two ways to it where a recipe of the world makes it: train it, or take the shipped."""
    recipes = {setting: _recipe_of(str(names[setting])) for setting in missing}
    first = next(iter(missing))
    if not all(recipes.values()):
        settings = " ".join(f"task.{setting}=FOLDER" for setting in missing)
        return f"task.{first}: {missing[first]}; set {settings}"
    absent = ", ".join(f"task.{setting} {names[setting]}" for setting in missing)
    runs = " and ".join(dict.fromkeys(f"`cogvideox train {recipe}`" for recipe in recipes.values()))
    shipped = " ".join(f"task.{setting}=tiny" for setting in missing)
    return f"{absent}: not there yet; run {runs} first, or use the shipped ones: {shipped}"


def _recipe_of(name: str) -> str | None:
    """The recipe whose result is written to this folder by default."""
    path = Path(name).parts
    usual = len(path) == 3 and path[0] == "runs" and path[2] == "model" and path[1].startswith("world-")
    return path[1] if usual else None


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
