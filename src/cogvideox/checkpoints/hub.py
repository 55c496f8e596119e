"""From what a person typed to a folder on disk: a path, a preset name, or a hub id, nothing else."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path

from cogvideox.errors import CheckpointError, suggest
from cogvideox.files import short
from cogvideox.presets import PRESETS
from cogvideox.spec import ModelSpec

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
OWNER, OLD_OWNER = "zai-org", "THUDM"
"""Who publishes the released models, and the name they were published under until 2025; the hub knows both."""
ALLOWED = ["*.safetensors", "*.json", "*/spiece.model", "spiece.model"]
PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED = (PACKAGE / "shipped", PACKAGE.parents[1] / "models")
"""Where models that come with the package lie: inside it, or at the top of a source checkout."""


def find_folder(path_or_id: str | Path, revision: str | None = None, *, download: bool = True) -> Path:
    """The folder of a model: a local path first, then a shipped preset, then a preset's or any hub id.

    The hub is asked only for an id that nothing local is near, and once; only safetensors, JSON and the tokenizer model
    are downloaded, and an earlier download is used without a network. download: False looks on this computer only.
    Raises CheckpointError that says which of these failed, and how to get the model.
    """
    name, path = str(path_or_id), Path(path_or_id).expanduser()
    if exists(path):
        if not (path.is_dir() or path.is_file()):
            raise CheckpointError(
                f"{path}: a pipe or a device, not a folder or file of weights; check the path"
            )
        return path
    if name in PRESETS:
        shipped = shipped_folder(name)
        if shipped is not None:
            return shipped
        if PRESETS[name].hub is None:
            raise CheckpointError(
                f"{name}: this model does not come with this installation; train it, or name a folder"
            )
        return _fetch(PRESETS[name].hub or "", revision, name, download)
    if HUB_ID.fullmatch(name) and not path.is_absolute() and len(name) <= 200:
        row = released(name)
        if row is None and (near := _near(path)):
            raise CheckpointError(f"{name}: no such folder: {near}")
        return _fetch(row.hub if row is not None and row.hub else name, revision, name, download)
    known = ", ".join(preset for preset, row in PRESETS.items() if row.hub or shipped_folder(preset))
    shown = name if len(name) <= 200 else short(name)
    raise CheckpointError(
        f"{shown}: no such folder, preset or hub id{suggest(name.lower()[:80], PRESETS)}; give a folder, owner/name, "
        f"or one of {known}"
    )


def released(name: str) -> ModelSpec | None:
    """The preset that is published under a hub id, of the present owner or the old one; None for any other."""
    wanted = name.lower().replace(f"{OLD_OWNER.lower()}/", f"{OWNER}/", 1)
    return next((row for row in PRESETS.values() if row.hub and row.hub.lower() == wanted), None)


def exists(path: Path) -> bool:
    """Whether something stands there; false for what cannot be a path."""
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long or holds a NUL
        return False


def shipped_folder(name: str) -> Path | None:
    """The folder of a model that comes with the package, or None."""
    return next((place / name for place in SHIPPED if (place / name / "model_index.json").is_file()), None)


def is_shipped(folder: str | Path) -> bool:
    """Whether a folder is a model that comes with the package, under whatever path it was named."""
    name = Path(folder).resolve().name
    found = shipped_folder(name) if name in PRESETS else None
    return found is not None and found.resolve() == Path(folder).resolve()


def cached(repository: str, revision: str | None = None) -> Path | None:
    """The folder of an earlier download, under the repository's present owner or the old one; asks nobody."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    old = repository.replace(f"{OWNER}/", f"{OLD_OWNER}/", 1)
    for name in dict.fromkeys((repository, old)):
        try:
            return Path(
                snapshot_download(name, revision=revision, allow_patterns=ALLOWED, local_files_only=True)
            )
        except (LocalEntryNotFoundError, HFValidationError):
            continue
    return None


def _near(path: Path) -> str:
    """Why a name is taken for a mistyped path: what stands where it would be; '' when nothing does."""
    parent = path.parent
    if exists(parent):
        return f"{parent}/ exists and does not hold it{suggest(path.name, _names(parent))}; check the path"
    like = get_close_matches(parent.name, _names(parent.parent), n=1, cutoff=0.75)
    if like and (parent.parent / like[0]).is_dir():
        return f"nor {parent}/ (did you mean {like[0]}/{path.name}?); check the path"
    return ""


def _names(folder: Path) -> list[str]:
    try:
        return [child.name for child in folder.iterdir()][:10_000] if folder.is_dir() else []
    except OSError:
        return []


def _fetch(repository: str, revision: str | None, name: str, download: bool) -> Path:
    """The snapshot of a hub repository, downloaded where that is wanted; CheckpointError when it cannot be had."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    if not download:
        if (found := cached(repository, revision)) is not None:
            return found
        raise CheckpointError(
            _how_to_get(repository, name, "not on this computer, and nothing is downloaded here")
        )
    # all that the hub's client and the network under it raise
    failures: tuple[type[BaseException], ...] = (*HfHubHTTPError.__bases__, OSError, ValueError, RuntimeError)
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=ALLOWED))
    except failures as error:
        if (found := cached(repository, revision)) is not None:
            return found
        reason = (" ".join(str(error).split()) or type(error).__name__)[:120]
        raise CheckpointError(
            _how_to_get(repository, name, f"no such folder, and not available from the hub ({reason})")
        ) from None


def _how_to_get(repository: str, name: str, why: str) -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    row = released(repository)
    size = f", about {row.download_gb:g} GB," if row is not None and row.download_gb else ""
    local = repository.split("/")[-1]
    return (
        f"{name}: {why}; looked for {repository}{size} in {HF_HUB_CACHE}: where there is a network, run "
        f"`hf download {repository} --local-dir {local}`, copy that folder here and pass its path"
    )
