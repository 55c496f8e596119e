"""Weights in and out: model folders, SAT files, adapters; recognised, checked, converted, never run."""

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
