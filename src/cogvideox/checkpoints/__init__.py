"""Weights in and out: model folders, SAT files, adapters; recognised, checked, converted, never run.

| file | what it does |
|---|---|
| ``hub`` | from what a person typed to a folder on disk: a path, a preset, a hub id |
| ``tensors`` | safetensors files and folders, read tensor by tensor, written whole |
| ``pickled`` | PyTorch's pickled files, read without running anything in them |
| ``families`` | weights of the CogVideoX world that are known and not run |
| ``record`` | ``cogvideox.json``: what the diffusers layout cannot say about a model |
| ``specs`` | the spec of a model from its config files, no weight loaded |
| ``fill`` | tensors into networks, every name and shape checked |
| ``precision`` | which precision a CPU computes in |
| ``text`` | text encoder and tokenizer |
| ``diffusers`` | whole models: load and save |
| ``overwrite`` | what may be replaced by a new checkpoint |
| ``keymap`` | names of SAT weights and ours |
| ``sat`` | SAT files and folders |
| ``beside`` | what stands beside SAT weights: settings, schedule, text encoder |
| ``trainers`` | what trainers leave: recognised, and what to do with it |
| ``adapter`` | LoRA files: read, checked, as pairs of matrices |
| ``adapter_names`` | names of adapters' layers in all spellings |
| ``adapter_pairs`` | pairs of matrices from the tensors of a file |
| ``adapter_settings`` | rank and alpha, from wherever a file keeps them |
| ``adapter_writing`` | adapters in diffusers' form and in SAT's |
| ``adapted`` | a linear layer with low-rank pairs beside it |
| ``lora`` | adapters on a network: put on, scaled, merged, taken off |
| ``convert`` | one format to another |
| ``inspect`` | what a file or folder is, and what is wrong with it |
| ``inspect_adapter`` | the same for adapters |
"""

from cogvideox.checkpoints.adapter import Adapter, Pair, read_adapter, write_adapter
from cogvideox.checkpoints.convert import convert
from cogvideox.checkpoints.diffusers import load_model, load_schedule, load_transformer, load_vae, save_model
from cogvideox.checkpoints.hub import find_folder
from cogvideox.checkpoints.inspect import CheckpointReport, inspect
from cogvideox.checkpoints.lora import (
    add_lora,
    attach_lora,
    extract_lora,
    load_lora,
    lora_names,
    merge_lora,
    save_lora,
    scale_lora,
    unload_lora,
)
from cogvideox.checkpoints.sat import SatFile, read_sat, write_sat
from cogvideox.checkpoints.specs import find_spec, read_spec

__all__ = [
    "Adapter",
    "Pair",
    "CheckpointReport",
    "SatFile",
    "add_lora",
    "attach_lora",
    "convert",
    "extract_lora",
    "find_folder",
    "find_spec",
    "inspect",
    "load_lora",
    "load_model",
    "load_schedule",
    "load_transformer",
    "load_vae",
    "lora_names",
    "merge_lora",
    "read_adapter",
    "read_sat",
    "read_spec",
    "save_lora",
    "save_model",
    "scale_lora",
    "unload_lora",
    "write_adapter",
    "write_sat",
]
