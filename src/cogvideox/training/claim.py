"""Whose folder it is, and when to stop: what a run asks before it begins and listens to while it lasts."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideox.errors import ConfigError
from cogvideox.files import read_yaml
from cogvideox.files.atomic import atomic_file
from cogvideox.training.checkpoint.state import has_state

if TYPE_CHECKING:
    from cogvideox.training.loop import TrainConfig

PREEMPTED = 143
"""Exit code after SIGTERM: the state was saved, and the same command resumes."""


FREE = {
    "out", "save_every", "background", "log_every", "measure_every", "sample_every", "peak_tflops", "tensorboard",
    "wandb", "task.cache", "task.compile", "task.device", "task.kernel", "task.recompute", "task.samples",
    "task.sample_steps",
}  # fmt: skip
"""What a resume may change beside ``mesh``: how and where work is done and told; rounding aside, the result stays."""


def same_run(config: TrainConfig, out: Path) -> None:
    """A folder with states belongs to one configuration; resuming it with another would mix two runs.

    Only ``FREE`` settings and how processes share the work (``mesh``) may change. Raises ConfigError.
    """
    file = out / "run.yaml"
    if not has_state(out):
        _check_free(out, type(config))
        return
    if not file.exists():
        raise ConfigError(
            f"{out}: holds states of a run, but no {file.name} that says which; choose another out=, or remove "
            "the folder"
        )
    then, here = _read(file, type(config)), config.model_dump(mode="json")
    before, now = _fixed(then), _fixed(here)
    beside = _start_beside(here)
    if beside is not None and beside == _start_beside(
        then
    ):  # a stage and the one before it were moved together
        now["task.start"] = before["task.start"]
    changed = [
        f"{name}: {_shown(before, name)} -> {_shown(now, name)}"
        for name in {**now, **before}
        if before.get(name, file) != now.get(name, file)  # file: a value that no setting has
    ]
    if (
        changed
        and [line.partition(":")[0] for line in changed] == ["steps"]
        and here["steps"] > then["steps"]
    ):
        raise ConfigError(_more_steps(out, then, here))
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ConfigError(
            f"{file}: holds a run with other settings ({'; '.join(changed[:3])}{more}); set them back to go on, or "
            "choose another out="
        )


def _check_free(out: Path, kind: type[TrainConfig]) -> None:
    """A folder without states may be of a run that ended before its first; other files of those names are not ours."""
    settings, figures = out / "run.yaml", out / "metrics.jsonl"
    ours = not os.path.lexists(settings) and not os.path.lexists(figures)
    if os.path.lexists(settings):
        try:
            ours = set(_read(settings, kind)) >= {"steps", "seed", "task"}
        except ConfigError:
            ours = False
    if not ours:
        name = settings.name if os.path.lexists(settings) else figures.name
        raise ConfigError(
            f"{out / name}: is of no run, so it is not replaced; choose another out=, or move it away"
        )


def _more_steps(out: Path, then: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Steps are not free to change: the learning rate falls to its end at the last one. The ways to go on all the same.

    A run that is not finished has no result to start from.
    """
    before, now = then.get("steps"), here.get("steps")
    head = f"{out}: is a run of {before} steps, {now} asked for"
    task, result = here.get("task") or {}, out / "model"
    if not (result / "training.json").is_file():
        return f"{head}; its learning rate falls to its end at step {before}: set steps={before} to go on to there"
    if "start" not in task:
        return f"{head}; it is finished, train for {now} steps in another out="
    ways = [f"task.lora.start={result}"] if task.get("lora") else [f"task.start={result}"]
    begins = "the optimiser, the learning rate with its warm-up, the average of the weights and the order of the clips"
    return (
        f"{head}; it is finished, and its learning rate is at its end. To train on, start a new run from its result: "
        f"{' '.join(ways)} out=ANOTHER steps=MORE; {begins} begin anew (set another seed=, and a lower optim.lr)"
    )


def _read(file: Path, kind: type[TrainConfig]) -> dict[str, Any]:
    """Its settings; those that are new since it was written have their defaults."""
    try:
        return kind.from_yaml(file).model_dump(mode="json")
    except ConfigError as error:  # of another kind, or of another version
        try:
            values = read_yaml(file)
        except ConfigError:
            values = None
        if not isinstance(values, dict):
            raise ConfigError(
                f"{file}: cannot be read ({error}); put it back, or choose another out="
            ) from None
        return values


def _start_beside(values: Mapping[str, Any]) -> str | None:
    """Where ``task.start`` lies as seen from the folder around the run's; None when it is elsewhere."""
    start, around = (values.get("task") or {}).get("start"), Path(str(values.get("out", ""))).parent
    if not isinstance(start, str) or not Path(start).is_relative_to(around):
        return None
    return Path(start).relative_to(around).as_posix()


def _fixed(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """By dotted name, without what may change; a folder is the same with and without a last slash."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{above}{key}"
        if isinstance(value, dict) and value:
            found |= _fixed(value, f"{name}.")
        elif name not in FREE and not name.startswith("mesh."):
            found[name] = value.rstrip("/") if isinstance(value, str) else value
    return found


def _shown(values: Mapping[str, Any], name: str) -> str:
    text = str(values.get(name, "not set"))
    return text if len(text) < 60 else f"{text[:57]}..."


def claim(config: TrainConfig, out: Path) -> None:
    """Write what is about to run."""
    with atomic_file(out / "run.yaml", overwrite=True) as work:
        work.write_text(config.to_yaml(), encoding="utf-8")


@contextmanager
def stop_is_noted() -> Iterator[list[int]]:
    """Inside, the first SIGTERM or Ctrl-C is only noted, in the list; a second one ends the process at once."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    # where somebody ignores a signal (SIGINT in the background of a shell) it stays ignored
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGTERM, signal.SIGINT)
        if signal.getsignal(number) not in (signal.SIG_IGN, None)
    }

    def note(number: int, frame: Any) -> None:
        noted.append(number)
        if number == signal.SIGINT:  # not print: a handler may run within a write
            os.write(2, b"stopping after this step, with its state saved; Ctrl-C again stops at once\n")
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else before[number])

    for number in before:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
