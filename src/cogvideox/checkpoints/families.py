"""Weights of the CogVideoX world that this version does not run, each named as what it is.

Files of 4-bit training, models with other condition channels, ControlNets and tiny autoencoders look like a damaged
release to a strict reader. They are told apart by a few tensor names, shapes, types and settings; nothing is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cogvideox.checkpoints.tensors import dtypes_of, shapes_of
from cogvideox.errors import CheckpointError
from cogvideox.files import short

FULL = "take the full-precision release (bf16, fp16 or fp32)"
BASE = "take the text-to-video or image-to-video model of the same size, or a program made for this one"


@dataclass(frozen=True)
class Family:
    """A kind of weights that is known by name and not run: what it is called, what that is, what to do instead."""

    name: str
    what: str
    do: str
    is_part: bool = False
    """Whether it is used as a part of a model, as ``do`` says, so that nothing is wrong with it."""

    def refusal(self, where: str | Path) -> CheckpointError:
        """The error for a place that holds it."""
        return CheckpointError(
            f"{where}: {self.name}: {self.what}; this version loads no model from it: {self.do}"
        )


def _quantised(name: str, what: str) -> Family:
    return Family(name, what, FULL)


QVGEN = _quantised(
    "QVGen W4A4 weights", "weights with the quantisers of 4-bit training, activations in 4 bits too"
)
UNKNOWN_QUANT = _quantised("quantised weights", "config.json has a quantization_config of another library")
READ_METHODS = ("bitsandbytes", "bnb", "torchao", "quanto", "gguf", "fp8")
"""Libraries whose quantised weights are read (``checkpoints.quantised``), by words of ``quant_method``."""

CONTROLNET = Family(
    "a CogVideoX ControlNet",
    "an add-on network that steers a base model, not a model by itself",
    "give it to generate --control-net, beside the --model it was trained for",
)
TINY_VAE = Family(
    "a tiny autoencoder (taecvx)",
    "a small stand-in for the VAE, no model by itself",
    "give it to generate --tiny-vae",
    is_part=True,
)
BESIDE = "give it to --transformer, beside --model with the model it was made from"
FUN_INP = Family("CogVideoX-Fun InP", "a transformer alone: noisy latents, a mask, the masked video", BESIDE)
FUN_CONTROL = Family(
    "CogVideoX-Fun Control or Pose", "a transformer alone: noisy latents, a control video", BESIDE
)
VOID = Family("Netflix VOID", "a transformer alone: noisy latents, a coded mask, the video", BESIDE)
VOID_STACKED = Family(
    "Netflix VOID with a stacked mask", "36 channels: noisy latents, 4 of mask, the video", BASE
)
REPEATED = Family(
    "a 2B model of 32 channels",
    "a transformer alone: CogVideoX-Fun Control or Pose, or an image model that repeats its image in every frame (its "
    "weights do not say)",
    BESIDE,
)
ALONE = (FUN_INP, FUN_CONTROL, VOID, REPEATED)
"""Transformers that are run beside the rest of another model."""
THE_MATRIX = Family("TheMatrix, stage 4", "a control branch beside the blocks", BASE)

CONTROL_CLASSES = ("CogVideoXControlnet", "CogVideoXControlNetModel", "CogVideoXControlnetModel")
FAMILY_NAMES = frozenset(value.name for value in list(globals().values()) if isinstance(value, Family))


def family_of_config(values: Mapping[str, Any]) -> Family | None:
    """The family that a network's ``config.json`` describes, None for one that is run."""
    if (quantised := _quantisation_of(values)) is not None:
        return quantised
    if values.get("_class_name") in CONTROL_CLASSES or "vae_channels" in values:
        return CONTROLNET
    if values.get("_class_name") not in (None, "CogVideoXTransformer3DModel"):
        return None
    if values.get("control_dim") is not None or values.get("cond_proj_dim") is not None:
        return THE_MATRIX
    inside, outside = values.get("in_channels", 16), values.get("out_channels", 16)
    if type(inside) is not int or type(outside) is not int:
        return None  # refused where the settings are read
    return _by_channels(inside, outside)


def family_of_tensors(tensors: Mapping[str, Tensor]) -> Family | None:
    """The family of a set of tensors by their names, shapes and types, None for one that is run or not known."""
    shapes = shapes_of(tensors)
    if (quantised := _quantisation_in(tensors)) is not None:
        return quantised
    if any(name.startswith(("controlnet_encode_first.", "controlnet_encode_second.")) for name in shapes):
        return CONTROLNET
    if "encoder.0.weight" in shapes and len(shapes["encoder.0.weight"]) == 4:
        return TINY_VAE
    names = [n for n in shapes if n.endswith("patch_embed.proj.weight") and "mixins." not in n]
    if len(names) != 1:
        return None
    shape, prefix = shapes[names[0]], names[0].removesuffix("patch_embed.proj.weight")
    in_time = len(shape) == 2
    channels = shape[1] // 8 if in_time else shape[1]
    if channels <= 16 or (in_time and shape[1] % 8):
        return None
    if channels == 32:
        read_as_image = in_time or f"{prefix}patch_embed.pos_embedding" in shapes
        return None if read_as_image else {3072: FUN_CONTROL, 1920: REPEATED}.get(shape[0])
    return {33: FUN_INP, 48: VOID}.get(channels) or _by_channels(channels, 16)


def _quantisation_of(values: Mapping[str, Any]) -> Family | None:
    """What ``quantization_config`` in a network's config says, None when there is none, or one that is read."""
    config = values.get("quantization_config")
    if config is None:
        return None
    method = str(config.get("quant_method", "")).lower() if isinstance(config, Mapping) else ""
    return None if any(word in method for word in READ_METHODS) else UNKNOWN_QUANT


def check_config(values: Mapping[str, Any], where: str | Path) -> None:
    """Raise CheckpointError for a config of a family that is not run, see ``family_of_config``."""
    if (family := family_of_config(values)) is not None:
        raise family.refusal(where)


def check_floats(tensors: Mapping[str, Tensor], where: str | Path) -> None:
    """Raise CheckpointError for weights that are not plain floats, naming what they are or the first that is not."""
    if (quantised := _quantisation_in(tensors)) is not None:
        raise quantised.refusal(where)
    dtypes = dtypes_of(tensors)
    wrong = [name for name, dtype in dtypes.items() if not dtype.is_floating_point]
    if wrong:
        kind = str(dtypes[wrong[0]]).removeprefix("torch.")
        raise CheckpointError(
            f"{where}: {len(wrong)} weights are not floats: {short(wrong[0])} is {kind}; take the original weights"
        )


def _by_channels(inside: int, outside: int) -> Family | None:
    """The family of a transformer with these channels in and out, None for those of a kind that is run."""
    if outside < 1 or inside in (outside, 2 * outside, 2 * outside + 1, 3 * outside):
        return None
    return {2 * outside + 4: VOID_STACKED, 4 * outside: CONTROLNET}.get(inside) or Family(
        f"a transformer with in_channels {inside} and out_channels {outside}",
        f"{inside - outside} channels of a condition that no known model has",
        "use the in_channels of a kind that is known (16 noisy ones and 16, 17 or 32 more)",
    )


def _quantisation_in(tensors: Mapping[str, Tensor]) -> Family | None:
    return QVGEN if any(name.endswith(".wquantizer.scale") for name in tensors) else None
