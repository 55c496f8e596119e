"""The transformer that is trained: from a model or from scratch, with an adapter where asked, on its device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from cogvideox.checkpoints.adapter import LORA_FILE, PEFT_FILE, Adapter, Pair
from cogvideox.checkpoints.adapter_reading import read_adapter
from cogvideox.checkpoints.diffusers import component, load_transformer, read_transformer_config
from cogvideox.checkpoints.hub import find_folder
from cogvideox.checkpoints.lora import add_lora, attach_lora, save_lora
from cogvideox.errors import CheckpointError, ConfigError
from cogvideox.parallel.shard import checkpoint_blocks, compile_blocks
from cogvideox.training.tasks.diffusion_settings import (
    SHIPPED_MODELS,
    WORLD_TEXT,
    WORLD_VAE,
    DiffusionSettings,
    LoraTuning,
)
from cogvideox.transformer import Transformer, TransformerConfig
from cogvideox.transformer.initialise import initialise
from cogvideox.transformer.kernels import Fastest, Named, get_attention_fn, use_kernel


def starting_network(config: DiffusionSettings, start: Path | None, seed: int) -> Transformer:
    """The transformer before any step, float32 on the CPU: that of the model folder ``start``, or weights drawn from
    ``seed``, or both where the settings ask for other sizes (see ``widen``)."""
    if start is not None and config.transformer in (None, load_config(start)):
        return load_transformer(start, dtype="float32", dense=True)
    assert config.transformer is not None  # without a start the settings must hold it
    if start is not None and _adds_channels(load_config(start), config.transformer):
        return with_more_channels(start, config.transformer)
    network = initialise(Transformer(config.transformer), seed)
    if start is not None:
        widen(network, start)
    return network


def attention_fn(config: DiffusionSettings) -> Fastest | Named:
    """The attention function to train with; a ``Fastest`` is this run's own, to be fixed before the first step."""
    name = config.kernel or ("torch-float32" if config.compute_device == "cpu" else "fastest")
    attn_fn = get_attention_fn(name)
    return Fastest(attn_fn.approximate, attn_fn.kernels) if isinstance(attn_fn, Fastest) else attn_fn


def prepare_network(
    network: Transformer, config: DiffusionSettings, attn_fn: Fastest | Named, seed: int
) -> None:
    """Freeze it under an adapter where asked, move it to its device; with its attention kernel."""
    if config.lora is not None:
        add_adapter(network, config.lora, seed)
    network.to(config.compute_device)
    use_kernel(network, attn_fn)


def wrap_blocks(network: Transformer, config: DiffusionSettings) -> None:
    """Compilation and recomputation of the blocks, where asked for.

    Compiled blocks read rotary positions as real numbers, since compilers know no complex ones.
    """
    if config.compile:
        compile_blocks(network.transformer_blocks)
        if network.rotary:
            network.rotary.real = True
    if config.recompute:
        checkpoint_blocks(network.transformer_blocks)


def add_adapter(transformer: nn.Module, tuning: LoraTuning, seed: int) -> None:
    """Freeze ``transformer``, store it as asked, and add a low-rank adapter; a fresh one changes no output yet.

    Raises DependencyError without torchao where it is needed, ConfigError when no layer matches ``targets``,
    CheckpointError when ``start`` cannot be read or is of another model.
    """
    earlier = read_adapter(tuning.start, tuning.alpha) if tuning.start is not None else None
    if tuning.base == "bfloat16":
        transformer.to(torch.bfloat16)
    elif tuning.base in ("int8", "fp8"):
        from cogvideox.memory.lowbit import quantise
        from cogvideox.memory.weights import blocks_of

        for block in blocks_of(transformer):
            quantise(block, tuning.base)
    if earlier is None:
        add_lora(transformer, tuning.rank, tuning.alpha, tuning.targets, seed=seed)
        return
    pairs = {path: Pair(pair.a.float(), pair.b.float(), pair.alpha) for path, pair in earlier.pairs.items()}
    transformer.requires_grad_(False)
    attach_lora(transformer, Adapter(pairs))


def write_adapter(transformer: nn.Module, folder: Path) -> Path:
    """``pytorch_lora_weights.safetensors`` in ``folder``, in the form that diffusers loads."""
    folder.mkdir(parents=True, exist_ok=True)
    return save_lora(transformer, folder, overwrite=True)


def load_config(folder: Path) -> TransformerConfig:
    """The settings of a model folder's transformer."""
    return read_transformer_config(component(folder, "transformer"))


def model_folders(config: DiffusionSettings) -> dict[str, Path]:
    """The folders of vae, text and, where there is one, start; a hub model is downloaded. Raises ConfigError that names
    every one that is missing, and how to get it, or that is an adapter."""
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
    shipped = " ".join(f"task.{setting}={SHIPPED_MODELS[setting]}" for setting in missing)
    return f"{absent}: not there yet; run {runs} first, or use the shipped ones: {shipped}"


def _recipe_of(name: str) -> str | None:
    """The recipe whose result is written to this folder by default."""
    path = Path(name).parts
    usual = len(path) == 3 and path[0] == "runs" and path[2] == "model" and path[1].startswith("world-")
    return path[1] if usual else None


def widen(transformer: Transformer, folder: Path) -> None:
    """Start from another model: equal tensors are copied, two projections may have other sizes.

    A patch projection with more input channels than the noisy latents', which the old one read alone, gets zeros for
    them: the widened model gives exactly the old one's output. Smaller patches take the sum of the old projection over
    the old patch, and the average of the old output: tokens of an even region say what they said before.
    """
    old, new = load_transformer(folder, dtype="float32", dense=True).state_dict(), transformer.state_dict()
    if old.keys() != new.keys():
        raise CheckpointError(
            f"{folder}: holds another architecture: {sorted(old.keys() ^ new.keys())[:3]} differ"
        )
    before, now = load_config(folder), transformer.config
    for name, value in new.items():
        source = _repatched(name, old[name], before, now)
        if value.shape == source.shape:
            value.copy_(source)
        elif (
            name == "patch_embed.proj.weight" and before.in_channels == before.out_channels < now.in_channels
        ):
            value.zero_()
            value[:, : source.shape[1]].copy_(source)
        else:
            raise ConfigError(
                f"{name}: {tuple(source.shape)} in {folder}, {tuple(value.shape)} asked for; sizes must agree"
            )


def with_more_channels(folder: Path, config: TransformerConfig) -> Transformer:
    """The network of a model folder with zero columns for further input channels, as ``widen`` makes it, held once."""
    state, name = load_transformer(folder, dtype="float32").state_dict(), "patch_embed.proj.weight"
    with torch.device("meta"):
        network = Transformer(config)
    wide = torch.zeros(network.state_dict()[name].shape)
    wide[:, : state[name].shape[1]] = state[name]
    network.load_state_dict(state | {name: wide}, assign=True)
    return network


def _adds_channels(before: TransformerConfig, now: TransformerConfig) -> bool:
    """Whether a network is another one that read noisy latents alone, with more input channels and nothing else new."""
    more = before.in_channels == before.out_channels < now.in_channels
    return more and before.changed(in_channels=now.in_channels) == now


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
