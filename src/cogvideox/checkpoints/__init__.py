"""Weights in and out: model folders, SAT files, adapters; recognised, checked, converted, never run.

| file | what it does |
|---|---|
| ``hub`` | from what a person typed to a folder or file on disk: a path, a preset, a name on the hub |
| ``shipped`` | the models that come with the package |
| ``tensors`` | safetensors files and folders, read tensor by tensor, written whole |
| ``pickled`` | PyTorch's pickled files, read without running anything in them |
| ``kinds`` | what a model folder makes a video from: its channels, its settings, its names |
| ``families`` | weights of the CogVideoX world that are known and not run |
| ``trainers`` | what trainers leave: recognised, and what to do with it |
| ``misplaced`` | what weights are that were given where others are wanted, and which flag takes them |
| ``components`` | networks in place of those of a model folder: a folder or a file each |
| ``record`` | ``cogvideox.json``: what the diffusers layout cannot say about a model |
| ``specs`` | the spec of a model from its config files and ``cogvideox.json``, no weight loaded |
| ``fill`` | tensors into networks, every name and shape checked; the precision on a CPU |
| ``folders`` | what may be replaced by a new checkpoint, and what goes along beside the weights |
| ``quantised_formats`` | how numbers are made of quantised weights, one format a class |
| ``quantised`` | which tensors of a file are quantised, and where the parts of each are |
| ``gguf_file`` | GGUF containers |
| ``gguf_text`` | a T5 encoder from a GGUF file |
| ``network_files`` | the tensors of one network, from its folder or its single file |
| ``text`` | text encoder and tokenizer |
| ``shapes`` | settings of a network by the shapes of its tensors |
| ``controlnet`` | a ControlNet from its folder or file |
| ``tiny_vae`` | a tiny autoencoder from its file |
| ``diffusers`` | whole models: load and save |
| ``keymap`` | names of SAT weights and ours |
| ``sat`` | SAT files and folders |
| ``adapter`` | a LoRA as a value: pairs of matrices; written in diffusers' form, PEFT's and SAT's |
| ``adapter_names`` | names of adapters' layers in all spellings |
| ``published`` | what others have published for CogVideoX: licence, use, alpha |
| ``adapter_reading`` | LoRA files of all kinds: rank and alpha, from wherever a file keeps them |
| ``adapter_settings`` | what is recommended beside an adapter, taken along and shown |
| ``lora_linear`` | a linear layer with adapters on it: applied, merged |
| ``lora`` | adapters on a network: put on, scaled, merged, taken off |
| ``fuse`` | a model folder with adapters in its weights |
| ``blend`` | a model folder whose transformer is the mean of two |
| ``convert`` | one format to another |
| ``report`` | what was found out about a checkpoint |
| ``inspect`` | what a file or folder is, and what is wrong with it |
"""

from cogvideox.checkpoints.adapter import Adapter, Pair, write_adapter
from cogvideox.checkpoints.adapter_reading import read_adapter
from cogvideox.checkpoints.controlnet import load_controlnet
from cogvideox.checkpoints.convert import convert
from cogvideox.checkpoints.diffusers import load_model, load_schedule, load_transformer, load_vae, save_model
from cogvideox.checkpoints.hub import find_folder
from cogvideox.checkpoints.inspect import inspect
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
from cogvideox.checkpoints.report import CheckpointReport
from cogvideox.checkpoints.sat import SatFile, read_sat, write_sat
from cogvideox.checkpoints.specs import find_spec, read_spec
from cogvideox.checkpoints.tiny_vae import load_tiny_vae

__all__ = [
    "Adapter", "Pair", "CheckpointReport", "SatFile", "add_lora", "attach_lora", "convert", "extract_lora",
    "find_folder", "find_spec", "inspect", "load_controlnet", "load_lora", "load_model", "load_schedule",
    "load_tiny_vae", "load_transformer", "load_vae", "lora_names", "merge_lora", "read_adapter", "read_sat",
    "read_spec", "save_lora", "save_model", "scale_lora", "unload_lora", "write_adapter", "write_sat",
]  # fmt: skip
