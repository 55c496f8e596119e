"""Models that come with the package, each as a whole folder in the diffusers layout.

They share one autoencoder and one text encoder, which lie in the folder of ``tiny`` alone; a folder that lacks them is
put together once, in the user's cache.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from cogvideox.errors import CheckpointError, OutputError, few
from cogvideox.files.atomic import atomic_folder
from cogvideox.files.digest import sha256_of_file, sha256_of_values
from cogvideox.files.paths import user_cache
from cogvideox.presets import PRESETS

PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED = (PACKAGE / "shipped", PACKAGE.parents[1] / "models")
"""Where models that come with the package lie: inside it, or at the top of a source checkout."""
LENDER, SHARED = "tiny", ("text_encoder", "tokenizer", "vae")
"""The model whose folder holds what all of them share, and what that is."""


def ships(name: str) -> bool:
    """Whether a model of the table comes with the package."""
    return _own_folder(name) is not None


def shipped_folder(name: str) -> Path | None:
    """The whole folder of a model that comes with the package, or None.

    Raises CheckpointError where a shared part is missing, OutputError where no copy can be written.
    """
    own = _own_folder(name)
    return own if own is None or all((own / part).is_dir() for part in SHARED) else _put_together(own)


def is_shipped(folder: str | Path) -> bool:
    """Whether a folder is a model that comes with the package, under whatever path it was named."""
    name = Path(folder).resolve().name
    shipped = shipped_folder(name) if name in PRESETS else None
    return shipped is not None and shipped.resolve() == Path(folder).resolve()


def _own_folder(name: str) -> Path | None:
    """Where the package keeps what is this model's own, or None."""
    return next((base / name for base in SHIPPED if (base / name / "model_index.json").is_file()), None)


@cache
def _put_together(own: Path) -> Path:
    """A copy of a model's own files and of the parts that it lacks; another one for other bytes."""
    lender = own.with_name(LENDER)
    sources = [own, *(lender / part for part in SHARED if not (own / part).is_dir())]
    if absent := [str(folder) for folder in sources if not folder.is_dir()]:
        raise CheckpointError(f"{own}: it lacks {few(absent)}; install the package anew")
    files = sorted(path for folder in sources for path in folder.rglob("*") if path.is_file())
    facts = {path.relative_to(own.parent).as_posix(): sha256_of_file(path) for path in files}
    name = Path("shipped", sha256_of_values(facts), own.name)
    try:
        return _copied(sources, user_cache() / name)
    except OutputError:  # a home in which nothing can be written
        base = Path(tempfile.mkdtemp(prefix="cogvideox-"))
        atexit.register(shutil.rmtree, base, ignore_errors=True)
        return _copied(sources, base / name)


def _copied(sources: list[Path], target: Path) -> Path:
    """``target``, with what the first folder holds and the others under their names. Raises OutputError."""
    if target.is_dir():
        return target
    try:
        with atomic_folder(target) as staging:
            shutil.copytree(sources[0], staging, dirs_exist_ok=True)
            for part in sources[1:]:
                shutil.copytree(part, staging / part.name)
    except OutputError:
        if not target.is_dir():  # else another process was first
            raise
    return target
