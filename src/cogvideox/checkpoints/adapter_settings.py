"""What is recommended beside an adapter, as it stands in its ``.json``: taken along, shown, never read for a run.

``generation.recommended`` knows the settings and reads them; here they are values of a file that others may have
written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cogvideox.checkpoints.adapter import LORA_FILE
from cogvideox.checkpoints.adapter_reading import find_adapter
from cogvideox.checkpoints.sat import SUFFIXES
from cogvideox.errors import ConfigError
from cogvideox.files import read_json, short
from cogvideox.files.atomic import write_json

KEY = "recommended"
"""The key of the file under which the settings stand; a file without it is somebody else's."""
USUAL = Path(LORA_FILE).with_suffix(".json")
"""Where the settings stand in a folder, in diffusers' form and in SAT's."""


def recommended_beside(adapter: Path) -> dict[str, Any] | None:
    """What is recommended beside an adapter, given its file or folder; None where nothing is.

    Raises ConfigError for a file that cannot be read, CheckpointError where there is no adapter.
    """
    file = find_adapter(adapter)
    nearby = [file.with_suffix(".json")]
    if file.suffix in SUFFIXES:  # of SAT, whose weights lie a folder deeper
        nearby += [file.parent / USUAL, file.parent.parent / USUAL]
    for each in nearby:
        values = read_json(each) if each.is_file() else None
        if isinstance(values, dict) and KEY in values:
            if not isinstance(values[KEY], dict):
                raise ConfigError(
                    f'{each}: {KEY} is {short(values[KEY])}; write settings, such as {{"steps": 4}}'
                )
            return values[KEY]
    return None


def copy_recommended(adapter: Path, folder: Path) -> None:
    """Write what is recommended beside an adapter into the folder of another form of it; nothing where nothing is."""
    values = recommended_beside(adapter)
    if values is not None:
        write_json(folder / USUAL, {KEY: values})
