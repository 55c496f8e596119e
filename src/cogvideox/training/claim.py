"""Whose folder it is, and when to stop: what a run asks before it begins and listens to while it lasts."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cogvideox.checkpoints.atomic import atomic_file
from cogvideox.errors import ConfigError
from cogvideox.training.state import has_state

if TYPE_CHECKING:
    from cogvideox.training.loop import TrainConfig

PREEMPTED = 143
"""Exit code after SIGTERM: the state was saved, and the same command resumes."""


def same_run(config: TrainConfig, out: Path) -> None:
    """A folder with states belongs to one configuration; resuming it with another would mix two runs.

    Only how processes share the work may change (``mesh``). Raises ConfigError.
    """
    file, text = out / "run.yaml", config.to_yaml()
    if not has_state(out):
        return
    if not file.exists():
        raise ConfigError(
            f"{out}: holds states of a run, but no {file.name} that says which; choose another out=, or remove "
            "the folder"
        )
    if (old := file.read_text(encoding="utf-8")) != text and not _means(file, config):
        before, now = old.splitlines(), text.splitlines()
        changed = next(
            (f"{b.strip()} -> {n.strip()}" for b, n in zip(before, now, strict=False) if b != n), "its length"
        )
        raise ConfigError(
            f"{file}: holds a run with other settings ({changed}); choose another out=, or remove the folder {out}"
        )


def _means(file: Path, config: TrainConfig) -> bool:
    """Whether an older file says the same, but for the mesh: settings that are new since then have their defaults."""
    now = yaml.safe_load(config.to_yaml())
    try:
        before = yaml.safe_load(file.read_text(encoding="utf-8"))
        if {**before, "mesh": now["mesh"]} == now:
            return True
        return type(config).from_yaml(file).model_copy(update={"mesh": config.mesh}) == config
    except (ConfigError, yaml.YAMLError, TypeError):
        return False


def claim(config: TrainConfig, out: Path) -> None:
    """Write what is about to run."""
    with atomic_file(out / "run.yaml", overwrite=True) as work:
        work.write_text(config.to_yaml(), encoding="utf-8")


@contextmanager
def term_is_noted() -> Iterator[list[int]]:
    """Inside, the first SIGTERM is only noted, in the list; a second one ends the process at once."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(number: int, frame: Any) -> None:
        noted.append(number)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGTERM, before)
