"""Texts for clients: adapters and models as clients know them, no path of this machine, no switch they do not have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

PATH = re.compile(r"(?<![\w./\\:~])(?:~\w*|[A-Za-z]:)?(?:[/\\][^\s/\\:;,'\"()]+)+")
"""An absolute path of Linux, macOS or Windows, or one from a home folder."""
ANYWAY = re.compile(r"; \S*anyway\S* makes it all the same")
"""What only who runs the program can ask for."""


def model_names(models: Sequence[str]) -> dict[str, str]:
    """What clients call each model -> what the operator gave: a folder by its own name where no other has it."""
    names: dict[str, str] = {}
    for given in dict.fromkeys(models):
        path = Path(given).expanduser()
        called = (path.resolve().name, given, str(path.resolve())) if path.is_dir() else (given,)
        names[next(each for each in called if each not in names)] = given
    return names


class PublicText:
    """Rewrites messages. ``known``: name that clients know -> path or hub id of an adapter or a model."""

    def __init__(self, known: Mapping[str, str]) -> None:
        names = {path: name for name, path in known.items()}
        names |= {str(Path(path).expanduser()): name for path, name in names.items()}
        self.names = sorted(names.items(), key=lambda pair: -len(pair[0]))  # a longer path goes first

    def __call__(self, text: str) -> str:
        """The text with paths of adapters and models by their names, and of any other absolute path only its last name.

        What clients cannot ask for (``anyway``) is left out.
        """
        text = ANYWAY.sub("", text)
        for path, name in self.names:
            text = text.replace(path, name)
        return PATH.sub(lambda path: re.split(r"[/\\]", path[0])[-1], text)
