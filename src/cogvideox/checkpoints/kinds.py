"""Which kind of model a folder holds: what it makes a video from, by its channels, its settings and its names.

Most files say it themselves (docs/conditions.md has the table). Where they do not, the person is asked for it by name.
The folders of VideoX-Fun mean more than they say; what that is stands here too.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from cogvideox.checkpoints.tensors import read_json
from cogvideox.diffusion.schedule import ScheduleConfig
from cogvideox.errors import CheckpointError, ConfigError, suggest
from cogvideox.spec import ABOUT_KINDS, Kind, conditions_of, kind_of, kinds_of
from cogvideox.transformer import TransformerConfig
from cogvideox.vae import VAEConfig

OF_FUN: tuple[Kind, ...] = ("inpaint", "control", "removal")
"""Kinds that VideoX-Fun (and Netflix VOID, made from it) trained; a folder without our record is theirs."""
BY_PIPELINE: dict[str, Kind] = {
    "CogVideoXImageToVideoPipeline": "i2v",
    "CogVideoXFunControlPipeline": "control",
    "CogVideoXFunInpaintPipeline": "inpaint",
    "CogVideoX_Fun_Pipeline_Inpaint": "inpaint",
    "CogVideoX_Fun_Pipeline_Control": "control",
}
BY_NAME: dict[str, Kind] = {"control": "control", "pose": "control", "img2vid": "i2v-every-frame"}
"""Words of published names that tell 2B models of 32 channels apart."""
FUN_NOISE = 0.0563
"""Noise on the pixels of a condition, where ``add_noise_in_inpaint_model`` is set (VideoX-Fun's default)."""
FUN_SIZE = (384, 672)


def check_kind(name: str) -> Kind:
    """A kind by its name. Raises ConfigError with the known ones."""
    for kind in ABOUT_KINDS:
        if name == kind:
            return kind
    known = "; ".join(f"{kind} ({about})" for kind, about in ABOUT_KINDS.items())
    raise ConfigError(f"kind {name!r}: unknown{suggest(name, ABOUT_KINDS)}; known: {known}")


def kind_in(
    folder: Path, transformer: TransformerConfig, asked: Kind | None = None, own: bool = False
) -> Kind:
    """The kind of the model in ``folder``, the one ``asked`` for where its files leave it open.

    ``own``: this package wrote it, so that as many channels again as noisy ones are an image. Raises ConfigError for
    channels that no kind has, and for a kind that the files contradict; CheckpointError where they leave it open.
    """
    first = kind_of(transformer)
    possible = kinds_of(transformer)
    evident = first if len(possible) == 1 or own else _evident(folder, transformer)
    if asked is not None and asked not in ((evident,) if evident else possible):
        raise ConfigError(
            f"{folder}: kind {asked!r}: its files are those of {' or '.join([evident] if evident else possible)}; "
            "leave the kind out"
        )
    kind = asked or evident or _named(folder)
    if kind is None:
        raise CheckpointError(
            f"{folder}: a 2B model of {transformer.in_channels} channels is CogVideoX-Fun Control or Pose, or an image "
            "model that repeats its image in every frame; its files do not say which: pass --as control or "
            "--as i2v-every-frame (in Python kind=...)"
        )
    return kind


def check_recorded(kind: Kind | Literal[""], transformer: TransformerConfig, file: Path) -> None:
    """Raises ConfigError for a kind in a model's own ``file`` that its transformer has not the channels for."""
    if kind:
        try:
            conditions_of(transformer, kind)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from None


def fun_settings(
    kind: Kind,
    noisy: bool,
    transformer: TransformerConfig,
    vae: VAEConfig,
    schedule: ScheduleConfig,
) -> dict[str, Any]:
    """The settings by which VideoX-Fun trained a model of this kind, as arguments of ``ModelSpec.of_configs``.

    Its files do not say them, or say something else: the schedule has no SNR shift (also where the file of a 2B says
    3), positions at other sizes are resized another way (1.0), the first latent is decoded by itself, and conditions
    have noise where they are ``noisy`` (``is_noisy``).
    """
    in_pairs = transformer.patch_size_t is not None
    return dict(
        transformer=transformer if in_pairs else transformer.changed(position_mode="fun"),
        vae=vae.changed(first_latent_alone=True),
        schedule=schedule.changed(snr_shift_scale=1.0),
        height=FUN_SIZE[0],
        width=FUN_SIZE[1],
        frames=85 if in_pairs else 49,
        fps=12 if kind == "removal" else 8,
        guidance=1.0 if kind == "removal" else None,
        condition_noise=FUN_NOISE if noisy and kind != "control" else 0.0,
    )


def is_noisy(config: Path) -> bool:
    """Whether conditions get noise: a transformer's ``config.json`` sets ``add_noise_in_inpaint_model``."""
    return read_json(config).get("add_noise_in_inpaint_model") is True


def _evident(folder: Path, transformer: TransformerConfig) -> Kind | None:
    """What the files of a model with as many channels again say; None where they leave it open."""
    index = folder / "model_index.json"
    pipeline = read_json(index).get("_class_name") if index.is_file() else None
    if isinstance(pipeline, str) and pipeline in BY_PIPELINE:
        return BY_PIPELINE[pipeline]
    if transformer.use_learned_positional_embeddings or transformer.ofs_embed_dim or transformer.patch_size_t:
        return "i2v"
    by_width: dict[int, Kind | None] = {3072: "control", 1920: None} if transformer.out_channels == 16 else {}
    return by_width.get(transformer.width, "i2v")


def _named(folder: Path) -> Kind | None:
    """What the name of a folder (or, in the hub's cache, of its repository) says."""
    names = [part.lower() for part in folder.resolve().parts[-3:]]
    words = {word for name in names for word in re.split(r"[^a-z0-9]+", name)}
    found = {kind for word, kind in BY_NAME.items() if word in words}
    return found.pop() if len(found) == 1 else None
