"""The transformer that is trained: from a model or from scratch, with an adapter where asked, on its device."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from cogvideox.checkpoints.adapter import Adapter, Pair
from cogvideox.checkpoints.adapter_reading import read_adapter
from cogvideox.checkpoints.diffusers import load_transformer
from cogvideox.checkpoints.lora import add_lora, attach_lora, save_lora
from cogvideox.parallel.shard import checkpoint_blocks, compile_blocks
from cogvideox.training.init_from import load_config, widen
from cogvideox.training.tasks.diffusion_settings import DiffusionSettings, LoraTuning
from cogvideox.transformer import Transformer
from cogvideox.transformer.initialise import initialise
from cogvideox.transformer.kernels import use_kernel


def starting_network(config: DiffusionSettings, start: Path | None, seed: int) -> Transformer:
    """The transformer before any step, float32 on the CPU: that of the model folder ``start``, or weights drawn from
    ``seed``, or both where the settings ask for other sizes (see ``init_from.widen``)."""
    if start is not None and config.transformer in (None, load_config(start)):
        return load_transformer(start, dtype="float32")
    assert config.transformer is not None  # without a start the settings must hold it
    network = initialise(Transformer(config.transformer), seed)
    if start is not None:
        widen(network, start)
    return network


def prepare_network(network: Transformer, config: DiffusionSettings, seed: int) -> None:
    """Freeze it under an adapter where asked, move it to its device, choose kernel, recomputation and compilation."""
    if config.lora is not None:
        add_adapter(network, config.lora, seed)
    device = config.compute_device
    network.to(device)
    use_kernel(network, config.kernel or ("torch-float32" if device == "cpu" else "fastest"))
    if config.recompute:
        checkpoint_blocks(network.transformer_blocks)
    if config.compile:
        compile_blocks(network.transformer_blocks)


def add_adapter(transformer: nn.Module, tuning: LoraTuning, seed: int) -> None:
    """Freeze ``transformer``, store it as asked, and add a low-rank adapter; a fresh one changes no output yet.

    Raises DependencyError without torchao where it is needed, ConfigError when no layer matches ``targets``,
    CheckpointError when ``start`` cannot be read or is of another model.
    """
    earlier = read_adapter(tuning.start, tuning.alpha) if tuning.start is not None else None
    if tuning.base == "bfloat16":
        transformer.to(torch.bfloat16)
    elif tuning.base in ("int8", "fp8"):
        from cogvideox.memory.weights import blocks_of, quantise

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
