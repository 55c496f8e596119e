"""Folders of checkpoints: replaced as a whole, and what goes along from one to another beside the weights.

Overwriting replaces a whole folder, so it is allowed only where nothing but a checkpoint's own files stand.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from cogvideox.checkpoints.record import RECORD
from cogvideox.checkpoints.specs import read_schedule_config
from cogvideox.checkpoints.tensors import link_root
from cogvideox.errors import CheckpointError, CogVideoXError, OutputError
from cogvideox.files import check_link
from cogvideox.files.atomic import atomic_folder
from cogvideox.files.structured import read_json

MARKS = ("model_index.json", "cogvideox.json", "latest", "3d-vae.pt", "transformer/latest", "vae/3d-vae.pt",
         "pytorch_lora_weights.safetensors", "adapter_model.safetensors", "adapter_config.json")  # fmt: skip
"""Files that only checkpoints have; ``config.json`` is looked into, for every second project has one."""
COMPONENTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler", "1", "transformer/1")
RECOMMENDED = ("pytorch_lora_weights.json", "adapter_model.json")
"""What an adapter of either name is made for (``adapter_settings``)."""
OURS = (*MARKS[:4], *MARKS[6:], *RECOMMENDED, "config.json", "training.json", "scheduler_config.json",
        "mp_rank_00_model_states.pt",
        "diffusion_pytorch_model*.safetensors", "diffusion_pytorch_model*.safetensors.index.json",
        "model*.safetensors", "model*.safetensors.index.json", "spiece.model", "tokenizer*.json",
        "special_tokens_map.json", "added_tokens.json")  # fmt: skip
"""Names of the files that this package writes as a checkpoint, in the folder itself or in one of ``COMPONENTS``."""
HELD = {
    "transformer": ("transformer/*.safetensors", "transformer/latest"),
    "vae": ("vae/*.safetensors", "3d-vae.pt", "vae/3d-vae.pt"),
    "text_encoder": ("text_encoder/*.safetensors",),
}
"""Networks of a whole model, by files of either layout."""
CLASSES = ("CogVideoX", "AutoencoderKLCogVideoX", "T5EncoderModel", "UMT5EncoderModel")
"""How the classes of our configs begin: a folder of anybody else's model is not replaced."""
TRAINING = "training.json"
"""How the weights beside it were trained; in a model folder, and in those of its components."""
SCHEDULE = Path("scheduler") / "scheduler_config.json"
TEXT_FILES = ("config.json", TRAINING, "*.safetensors", "*.safetensors.index.json")
TOKENIZER_FILES = ("spiece.model", "tokenizer*.json", "special_tokens_map.json", "added_tokens.json")
TEXT_FOLDERS = (("text_encoder", "tokenizer"), ("t5-v1_1-xxl", "t5-v1_1-xxl"), ("t5", "t5"))
"""Text encoder and tokenizer: in the diffusers layout, and in the two names of SAT releases."""


@contextmanager
def checkpoint_folder(target: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a new folder that becomes ``target``; with ``overwrite`` it takes the place of a checkpoint, never of
    anything else, and warns of a ``training.json``, and of what was recommended beside an adapter, that goes with the
    weights it is about. Raises OutputError, see ``atomic_folder``."""
    target = Path(target)
    with atomic_folder(target, overwrite, why_not) as folder:
        yield folder
        lost = [name for name in HELD if _holds(target, name) and not _holds(folder, name)]
        if lost:
            raise OutputError(
                f"{target}: is not replaced, since it holds a {' and a '.join(lost)} that the new one has not; choose "
                "another folder"
            )
        old = [file.relative_to(target) for file in _training_records(target)]
        had = [name for name in RECOMMENDED if (target / name).is_file()]
    if had and not any((target / name).is_file() for name in RECOMMENDED):
        warnings.warn(
            f"{target}: {' and '.join(had)}, what the replaced adapter is made for, is replaced with it",
            stacklevel=4,
        )
    gone = [str(name) for name in old if not (target / name).exists()]
    if gone:
        warnings.warn(
            f"{target}: {' and '.join(gone)}, how the replaced weights had been trained, is replaced with them",
            stacklevel=4,
        )


def why_not(folder: Path) -> str:
    """Why a folder must not be replaced; "" when it holds a checkpoint and nothing else."""
    if not is_checkpoint(folder):
        held = ", ".join(sorted(path.name for path in folder.iterdir())[:4])
        return f"it is no checkpoint: it holds {held}"
    foreign = sorted(_foreign(folder))
    if not foreign:
        return ""
    more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
    return f"beside a checkpoint it holds {', '.join(foreign[:3])}{more} (move that away first)"


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder looks like a model, a component of one, a SAT checkpoint or an adapter."""
    whole = folder / "model_index.json"
    if whole.exists():
        return _is_of_ours(whole)
    return any((folder / mark).is_file() for mark in MARKS) or _is_of_ours(folder / "config.json")


def keep_apart(source: Path, target: Path) -> None:
    """Writing replaces the whole of ``target``: what is read must not stand there. Raises OutputError."""
    old, new = source.resolve(), target.resolve()
    if old.is_relative_to(new):
        raise OutputError(f"{target}: would take the place of {source}, which is read; choose another folder")
    if new.is_relative_to(old) and new.exists():
        raise OutputError(f"{target}: is a part of {source}, which is read; choose another folder")


def root_of(source: Path) -> Path:
    """The folder that holds what belongs to the whole model, given it or one component of it."""
    around = source.parent
    known = (around / RECORD).is_file() or (around / "model_index.json").is_file()
    return around if source.is_dir() and not (source / RECORD).is_file() and known else source


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
    for encoder, tokenizer in ((root / one, root / two) for one, two in TEXT_FOLDERS):
        if (encoder / "config.json").is_file() and any(encoder.glob("*.safetensors")):
            _copy(encoder, folder / "text_encoder", TEXT_FILES)
            _copy(tokenizer, folder / "tokenizer", TOKENIZER_FILES)
            return True
    return False


def copy_training_records(source: Path, folder: Path) -> None:
    """Bring the ``training.json`` of a checkpoint, and of its components that ``folder`` holds too, along."""
    root = link_root(source)
    for file in _training_records(source):
        target = folder / file.relative_to(source)
        if target.parent.is_dir() and not target.exists():
            copy_file(file, target, root)


def read_training(folder: Path) -> dict[str, Any]:
    """How the weights in a folder were trained, by its ``training.json``; {} without one, or where it is a list or a
    number of another program. Raises ConfigError for one that is no JSON."""
    file = folder / TRAINING
    values = read_json(file) if file.is_file() else None
    return values if isinstance(values, dict) else {}


def copy_file(file: Path, target: Path, root: Path) -> None:
    """Copy the bytes of a regular file that lies in ``root``, its links followed. Raises CheckpointError."""
    check_link(file, root, CheckpointError)
    if not file.is_file():
        raise CheckpointError(f"{file}: not a regular file; remove it")
    shutil.copyfile(file, target)


def _copy(source: Path, target: Path, patterns: tuple[str, ...]) -> None:
    target.mkdir()
    root = link_root(source)
    for file in (path for pattern in patterns for path in sorted(source.glob(pattern))):
        copy_file(file, target / file.name, root)


def _training_records(folder: Path) -> list[Path]:
    """The ``training.json`` of a checkpoint's folder and of its components."""
    folders = [folder, *(folder / name for name in HELD)] if folder.is_dir() else []
    return [path / TRAINING for path in folders if (path / TRAINING).is_file()]


def _is_of_ours(file: Path) -> bool:
    """Whether a config names a class of CogVideoX or of its text encoder."""
    try:
        values = read_json(file)
    except CogVideoXError:
        return False
    if not isinstance(values, dict):
        return False
    listed = values.get("architectures")
    named = [values.get("_class_name"), *(listed if isinstance(listed, list) else [])]
    return any(str(name).startswith(CLASSES) for name in named if name)


def _holds(folder: Path, network: str) -> bool:
    return any(next(folder.glob(pattern), None) is not None for pattern in HELD[network])


def _foreign(folder: Path) -> Iterator[str]:
    """What stands in a checkpoint's folder and is none of its files."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        around = "" if "/" not in name else name.rpartition("/")[0]
        if path.is_dir() and not path.is_symlink():
            continue
        if around not in ("", *COMPONENTS) or not any(fnmatchcase(path.name, pattern) for pattern in OURS):
            yield name
