"""Overwriting replaces a whole folder, so it is allowed only where nothing but a checkpoint's own files stand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from cogvideox.errors import CogVideoXError, OutputError
from cogvideox.files.atomic import atomic_folder
from cogvideox.files.structured import read_json

MARKS = ("model_index.json", "cogvideox.json", "latest", "3d-vae.pt", "transformer/latest", "vae/3d-vae.pt",
         "pytorch_lora_weights.safetensors", "adapter_model.safetensors", "adapter_config.json")  # fmt: skip
"""Files that only checkpoints have; ``config.json`` is looked into, for every second project has one."""
PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler", "1", "transformer/1")
OURS = (*MARKS[:4], *MARKS[6:], "config.json", "training.json", "scheduler_config.json", "mp_rank_00_model_states.pt",
        "diffusion_pytorch_model*.safetensors", "diffusion_pytorch_model*.safetensors.index.json",
        "model*.safetensors", "model*.safetensors.index.json", "spiece.model", "tokenizer*.json",
        "special_tokens_map.json", "added_tokens.json")  # fmt: skip
"""Names of the files that this package writes as a checkpoint, in the folder itself or in one of ``PARTS``."""
HELD = {
    "transformer": ("transformer/*.safetensors", "transformer/latest"),
    "vae": ("vae/*.safetensors", "3d-vae.pt", "vae/3d-vae.pt"),
    "text_encoder": ("text_encoder/*.safetensors",),
}
"""Parts of a whole model, by files of either layout."""
CLASSES = ("CogVideoX", "AutoencoderKLCogVideoX", "T5EncoderModel", "UMT5EncoderModel")
"""How the classes of our configs begin: a folder of anybody else's model is not replaced."""


@contextmanager
def checkpoint_folder(target: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a new folder that becomes ``target``; with ``overwrite`` it takes the place of a checkpoint, never of
    anything else. Raises OutputError, see ``atomic_folder``."""
    with atomic_folder(target, overwrite, why_not) as folder:
        yield folder
        lost = [name for name in HELD if _holds(Path(target), name) and not _holds(folder, name)]
        if lost:
            raise OutputError(
                f"{target}: is not replaced, since it holds a {' and a '.join(lost)} that the new one has not; choose "
                "another folder"
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
    """Whether a folder looks like a model, a part of one, a SAT checkpoint or an adapter."""
    whole = folder / "model_index.json"
    if whole.exists():
        return _is_of_ours(whole)
    return any((folder / mark).is_file() for mark in MARKS) or _is_of_ours(folder / "config.json")


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


def _holds(folder: Path, part: str) -> bool:
    return any(next(folder.glob(pattern), None) is not None for pattern in HELD[part])


def _foreign(folder: Path) -> Iterator[str]:
    """What stands in a checkpoint's folder and is none of its files."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        around = "" if "/" not in name else name.rpartition("/")[0]
        if path.is_dir() and not path.is_symlink():
            continue
        if around not in ("", *PARTS) or not any(fnmatchcase(path.name, pattern) for pattern in OURS):
            yield name
