"""What a SAT checkpoint cannot hold, kept beside it: settings, schedule, text encoder, tokenizer.

SAT files are weights alone, and a preset's scaling factor is not that of a model trained here. So our SAT folders carry
the small files of the diffusers layout too, which SAT does not look at, and reading them back guesses nothing:

    transformer/  latest, 1/mp_rank_00_model_states.pt, config.json      vae/  3d-vae.pt, config.json
    scheduler/    text_encoder/    tokenizer/    cogvideox.json
"""

from __future__ import annotations

import shutil
from pathlib import Path

from cogvideox.checkpoints.record import NAME, read_record
from cogvideox.checkpoints.sat import SatFile
from cogvideox.checkpoints.specs import read_schedule_config, read_transformer_config, read_vae_config
from cogvideox.checkpoints.tensors import link_root, read_json
from cogvideox.errors import CheckpointError
from cogvideox.files import check_link
from cogvideox.transformer import TransformerConfig
from cogvideox.vae import VAEConfig

TEXT = ("config.json", "*.safetensors", "*.safetensors.index.json")
TOKENS = ("spiece.model", "tokenizer*.json", "special_tokens_map.json", "added_tokens.json")
PLACES = (("text_encoder", "tokenizer"), ("t5-v1_1-xxl", "t5-v1_1-xxl"), ("t5", "t5"))
"""Text encoder and tokenizer: in the diffusers layout, and in the two names of SAT releases."""
SCHEDULE = Path("scheduler") / "scheduler_config.json"
CLASSES = {"transformer": "CogVideoXTransformer3DModel", "vae": "AutoencoderKLCogVideoX"}


def root_of(source: Path) -> Path:
    """The folder that holds what belongs to the whole model, given it or one part of it."""
    around = source.parent
    known = (around / NAME).is_file() or (around / "model_index.json").is_file()
    return around if source.is_dir() and not (source / NAME).is_file() and known else source


def settings_of(file: SatFile) -> TransformerConfig | VAEConfig | None:
    """The settings that stand beside a SAT file, None when there are none."""
    for place in (file.path.parent, file.path.parent.parent):
        config = place / "config.json"
        if config.is_file() and read_json(config).get("_class_name") == CLASSES.get(file.part):
            return read_vae_config(place) if file.part == "vae" else read_transformer_config(place)
    return None


def keep_settings(part: Path, target: Path) -> None:
    """Copy the settings of one part into ``target``, and the record above it without its digests of other files."""
    copy_file(part / "config.json", target / "config.json", link_root(part))
    read_record(part.parent).model_copy(update={"files": {}}).write(target.parent)


def copy_schedule(root: Path, folder: Path) -> bool:
    """Bring the noise schedule along as it is; false when there is none. Raises our errors for one that is wrong."""
    if not (root / SCHEDULE).is_file():
        return False
    read_schedule_config(root / "scheduler")
    (folder / "scheduler").mkdir()
    copy_file(root / SCHEDULE, folder / SCHEDULE, link_root(root))
    return True


def copy_text(root: Path, folder: Path) -> bool:
    """Bring text encoder and tokenizer along when they are there and safe; false when not."""
    for encoder, tokenizer in ((root / one, root / two) for one, two in PLACES):
        if (encoder / "config.json").is_file() and any(encoder.glob("*.safetensors")):
            _copy(encoder, folder / "text_encoder", TEXT)
            _copy(tokenizer, folder / "tokenizer", TOKENS)
            return True
    return False


def _copy(place: Path, target: Path, patterns: tuple[str, ...]) -> None:
    target.mkdir()
    root = link_root(place)
    for file in (found for pattern in patterns for found in sorted(place.glob(pattern))):
        copy_file(file, target / file.name, root)


def copy_file(file: Path, target: Path, root: Path) -> None:
    """Copy the bytes of a regular file that lies in ``root``, its links followed. Raises CheckpointError."""
    check_link(file, root, CheckpointError)
    if not file.is_file():
        raise CheckpointError(f"{file}: not a regular file; remove it")
    shutil.copyfile(file, target)
