"""From what a person typed to a folder on disk: a path, a preset name, or a hub id, nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from cogvideox.errors import CheckpointError, suggest
from cogvideox.files.atomic import sweep
from cogvideox.presets import PRESETS

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
ALLOWED = ["*.safetensors", "*.json", "*/spiece.model", "spiece.model"]
PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED = (PACKAGE / "shipped", PACKAGE.parents[1] / "models")
"""Where models that come with the package lie: inside it, or at the top of a source checkout."""


def find_folder(path_or_id: str | Path, revision: str | None = None) -> Path:
    """The folder of a model: a local path first, then a shipped preset, then a preset's or any hub id.

    Only safetensors, JSON and the tokenizer model are downloaded, and only for an id; a complete earlier
    download is used without a network. Raises CheckpointError that says which of these failed.
    """
    path = Path(path_or_id).expanduser()
    if not path.exists() and path.parent.is_dir():
        sweep(path.parent)  # whoever exchanged it may have been killed between two renames
    if path.exists():
        return path
    name = str(path_or_id)
    if name in PRESETS:
        shipped = shipped_folder(name)
        if shipped is not None:
            return shipped
        hub = PRESETS[name].hub
        if hub is None:
            raise CheckpointError(
                f"{name}: this model does not come with this installation; train it, or name a folder"
            )
        return download(hub, revision)
    if HUB_ID.fullmatch(name) and not path.is_absolute():
        return download(name, revision)
    known = ", ".join(preset for preset, row in PRESETS.items() if row.hub or shipped_folder(preset))
    raise CheckpointError(
        f"{name}: no such folder, preset or hub id{suggest(name.lower(), PRESETS)}; give a folder, owner/name, "
        f"or one of {known}"
    )


def shipped_folder(name: str) -> Path | None:
    """The folder of a model that comes with the package, or None."""
    return next((place / name for place in SHIPPED if (place / name / "model_index.json").is_file()), None)


def is_shipped(folder: str | Path) -> bool:
    """Whether a folder is a model that comes with the package, under whatever path it was named."""
    name = Path(folder).resolve().name
    found = shipped_folder(name) if name in PRESETS else None
    return found is not None and found.resolve() == Path(folder).resolve()


def download(repository: str, revision: str | None = None) -> Path:
    """The snapshot of a hub repository; raises CheckpointError when it cannot be had."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=ALLOWED))
    except Exception as error:  # the hub client raises errors of several libraries; all mean "not available"
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(
            f"{repository}: no such folder, and not available from the hub: "
            f"{type(error).__name__}: {reason}; "
            "check the name and the network, or pass the folder of a downloaded copy"
        ) from None
