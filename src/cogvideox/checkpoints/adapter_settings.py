"""What is recommended beside an adapter: where its ``.json`` stands, and the values in it.

``generation.recommended`` checks them as settings of a run; here they are values of a file that others may have
written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cogvideox.checkpoints.adapter import LORA_FILE
from cogvideox.checkpoints.adapter_reading import find_adapter
from cogvideox.checkpoints.sat import SUFFIXES
from cogvideox.errors import CheckpointError, ConfigError
from cogvideox.files import read_json, short
from cogvideox.files.atomic import write_json

KEY = "recommended"
"""The key of the file under which the settings stand; a file without it is somebody else's."""
USUAL = Path(LORA_FILE).with_suffix(".json")
"""Where the settings stand in a folder, in diffusers' form and in SAT's."""


def recommended_file(adapter: str | Path) -> Path:
    """Where the settings of an adapter stand, given its file or folder: a .json named as its file is.

    Of SAT's, whose weights lie a folder deeper, also the one that diffusers' form would have in those folders.
    """
    path = Path(adapter)
    try:
        file = find_adapter(path, download=False)
    except CheckpointError:  # not written yet
        file = path / LORA_FILE if path.is_dir() else path
    beside = [file.with_suffix(".json")]
    if file.suffix in SUFFIXES:
        beside += [file.parent / USUAL, file.parent.parent / USUAL]
    return next((each for each in beside if each.is_file()), beside[0])


def recommended_beside(adapter: str | Path) -> dict[str, Any] | None:
    """What is recommended beside an adapter; None where nothing is. Raises ConfigError for a file it cannot read."""
    file = recommended_file(adapter)
    values = read_json(file) if file.is_file() else None
    if not isinstance(values, dict) or KEY not in values:
        return None
    if not isinstance(values[KEY], dict):
        raise ConfigError(f'{file}: {KEY} is {short(values[KEY])}; write settings, such as {{"steps": 4}}')
    return values[KEY]


def copy_recommended(adapter: Path, folder: Path) -> None:
    """Write what is recommended beside an adapter into the folder of another form of it; nothing where nothing is."""
    values = recommended_beside(adapter)
    if values is not None:
        write_json(folder / USUAL, {KEY: values})
