"""What stands at a path where other weights are wanted, so that an error can say which flag takes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from cogvideox.checkpoints.adapter_names import is_adapter
from cogvideox.checkpoints.families import family_of_config, family_of_tensors
from cogvideox.checkpoints.network_files import read_network_file
from cogvideox.checkpoints.shapes import PATCH, is_vae
from cogvideox.checkpoints.tensors import read_json
from cogvideox.errors import CogVideoXError

CLASSES = {
    "CogVideoXTransformer3DModel": "a transformer alone: give it to --transformer",
    "AutoencoderKLCogVideoX": "a VAE alone: give it to --vae",
    "T5EncoderModel": "a text encoder: give it to --text-encoder",
}
"""What a network's folder is, by the class in its config.json."""


def belongs(path: str | Path) -> str:
    """``it is a LoRA: give it to --lora``; "" for what is not known. Reads names of files and headers alone."""
    try:
        what = _of_folder(Path(path)) if Path(path).is_dir() else _of_file(Path(path))
    except (CogVideoXError, OSError):  # whoever asks has an error of their own
        return ""
    return f"it is {what}" if what else ""


def belongs_after(path: str | Path, otherwise: str) -> str:
    """The end of an error: where what stands at ``path`` belongs, or else what to do."""
    return belongs(path) or otherwise


def _of_folder(folder: Path) -> str:
    if (folder / "model_index.json").is_file():
        return "a model folder: give it to --model"
    if (folder / "config.json").is_file():
        values = read_json(folder / "config.json")
        if (family := family_of_config(values)) is not None:
            return f"{family.name}: {family.do}"
        return CLASSES.get(str(values.get("_class_name") or (values.get("architectures") or [""])[0]), "")
    files = sorted(folder.glob("*.safetensors"))
    return _of_file(files[0]) if len(files) == 1 else ""


def _of_file(file: Path) -> str:
    tensors: Mapping[str, Tensor] = read_network_file(file)
    if (family := family_of_tensors(tensors)) is not None:
        return f"{family.name}: {family.do}"
    if is_adapter(tensors):
        return "a LoRA: give it to --lora"
    if is_vae(tensors):
        return CLASSES["AutoencoderKLCogVideoX"]
    if PATCH in tensors:
        return CLASSES["CogVideoXTransformer3DModel"]
    return CLASSES["T5EncoderModel"] if "shared.weight" in tensors else ""
