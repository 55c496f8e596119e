"""Many prompts from a file. Running the same command again makes only what is missing or has changed.

A line is a prompt, or a JSON object of options (``{"prompt": ..., "seed": ..., "name": ...}``). A result is
named by ``name``, or by its number and a hash of its settings and of the files they name. A changed line is
made anew; under its own ``name`` when the record beside the video says that it was another, and kept when
there is no such record (``--no-metadata``).
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cogvideox.cli import checks
from cogvideox.cli.job import Job, fit_memory, limit_of, load, make, resolve, save
from cogvideox.cli.plan import follow
from cogvideox.cli.terminal import PARTIAL, describe, result_json, say
from cogvideox.errors import CogVideoXError, ConfigError, MediaError, OutputError
from cogvideox.lines import lines_of

if TYPE_CHECKING:
    from cogvideox.generate.options import GenerateOptions
    from cogvideox.memory import MemoryPlan, Policy
    from cogvideox.model import CogVideoX

MOST_BYTES = 64 << 20
MOST_NAME = 200  # bytes; file systems allow 255
FAILURES = "failed.json"
KEY = "batch"  # in the record: the hash of what was asked for


@dataclass(frozen=True)
class Item:
    """One line: its number (from 1), its settings and their hash, its model, and the file it becomes."""

    line: int
    settings: dict[str, Any]
    path: Path
    key: str
    model: str
    named: bool = False


def run_batch(source: Path, folder: Path, settings: dict[str, Any], job: Job, dry_run: bool) -> None:
    """Make every item that is not there yet; failures are recorded and do not stop the rest (exit code 3)."""
    from cogvideox.video import check_output, write_json

    items = read_items(source, folder, settings, job)
    check_output(folder / FAILURES, overwrite=True)
    _check_failures(folder / FAILURES)
    waiting = [item for item in items if job.overwrite or not _is_made(item)]
    say(f"{source}: {len(items)} items, {len(items) - len(waiting)} made before, {len(waiting)} to make")
    maker = _Maker(job)
    failed = [failure for item in waiting if (failure := maker.make(item, dry_run)) is not None]
    if failed and not dry_run:
        write_json(folder / FAILURES, failed, overwrite=True)
        say(f"{len(failed)} of {len(items)} items failed; the reasons are in {folder / FAILURES}")
    if failed:
        raise typer.Exit(PARTIAL)
    if not dry_run:
        (folder / FAILURES).unlink(missing_ok=True)


@dataclass
class _Maker:
    """Makes items; a model is loaded when the first good item needs it."""

    job: Job
    models: dict[str, tuple[CogVideoX, Policy]] = field(default_factory=dict)
    limit: int | None = field(default=None)

    def make(self, item: Item, dry_run: bool = False) -> dict[str, Any] | None:
        """None, or what went wrong with this item, whatever it was: the others are not to blame."""
        try:
            options = resolve(item.settings)
            ready = checks.check_request(item.model, options)
            options = checks.with_calibration(options, ready.folder)
            _check_free(item, self.job)
            options, enhanced = self.job.enhance.apply(options, ready.folder, dry_run)
            if dry_run:
                settings = item.settings | ({"prompt": options.prompt} if enhanced else {})
                result_json({"line": item.line, "out": str(item.path), "options": settings})
                return None
            model, fitted = self._fitted(item, options, ready)
            options = follow(options, fitted.choice)
            video = make(model, options, ready, f"{item.line}: {options.prompt[:40]}", fitted, enhanced)
            video = replace(video, manifest={**video.manifest, KEY: item.key})
            # a record without its video is the rest of a run that was stopped between the two
            save(video, item.path, self.job, options, replace=True)
        except BrokenPipeError:  # nobody reads the results any more
            raise
        except Exception as error:
            if self.job.debug and not isinstance(error, CogVideoXError):
                traceback.print_exc()
            say(f"line {item.line}: {describe(error)}")
            return {"line": item.line, "out": item.path.name, "error": describe(error)}
        return None

    def _fitted(
        self, item: Item, options: GenerateOptions, ready: checks.Ready
    ) -> tuple[CogVideoX, MemoryPlan]:
        """The model, loaded the way the item's plan says; planned against what was free before the first."""
        if not self.models:
            self.limit = limit_of(self.job)
        fitted = fit_memory(self.job, options, ready, self.limit)
        policy = fitted.choice.policy
        model, before = self.models.get(item.model, (None, policy))
        if model is None or (before.residence, before.storage) != (policy.residence, policy.storage):
            del model
            self.models.pop(item.model, None)  # first, so that a model never lies beside itself
            self.models[item.model] = load(self.job, ready.folder, policy=policy), policy
        return self.models[item.model][0], fitted


def _is_made(item: Item) -> bool:
    """Whether the video is there and this line is what it was made from."""
    from cogvideox.video import sidecar_of

    if not item.path.exists():
        return False
    if not item.named:
        return True  # its name says what it was made from
    try:
        record = json.loads(sidecar_of(item.path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or KEY not in record:
        say(
            f"line {item.line}: {item.path} has no record of a batch to compare with, so it is kept; "
            "--overwrite makes it anew"
        )
        return True
    return bool(record[KEY] == item.key)


def _check_free(item: Item, job: Job) -> None:
    """Without --overwrite only what this program wrote is replaced. Raises OutputError."""
    from cogvideox.video import is_ours, previews_of, sidecar_of

    files = [item.path]
    files += [sidecar_of(item.path)] if job.metadata else []
    files += previews_of(item.path) if job.preview else []
    for file in files:
        if os.path.lexists(file) and not job.overwrite and not is_ours(file):
            raise OutputError(
                f"{file}: exists already and was not made here; choose another name or pass --overwrite"
            )


def _check_failures(file: Path) -> None:
    """The list of failures is replaced and removed, so it must be one. Raises OutputError."""
    try:
        failures = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError):
        failures = None
    ours = isinstance(failures, list) and all(isinstance(each, dict) and "error" in each for each in failures)
    if not ours or not failures:
        raise OutputError(f"{file}: is not a list of failures of a batch; move it or choose another --out")


def read_items(source: Path, folder: Path, settings: dict[str, Any], job: Job) -> list[Item]:
    """Every line as an item; flags are defaults, the line decides. Raises MediaError, ConfigError."""
    try:
        if source.stat().st_size > MOST_BYTES:
            raise MediaError(f"{source}: larger than {MOST_BYTES >> 20} MiB; split it")
        lines = lines_of(source.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise MediaError(f"{source}: not UTF-8 text at byte {error.start}; save it as UTF-8") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise MediaError(f"{str(source)!r}: cannot be read ({why}); check the path") from None
    digest = functools.cache(_digest)
    told = [(number, _values(source, number, line)) for number, line in enumerate(lines, 1) if line.strip()]
    if not told:
        raise ConfigError(f"{source}: holds no prompts; write one per line")
    if "prompt" in settings and all("prompt" in values for _, values in told):
        warnings.warn("--prompt has no effect: every line has its own", stacklevel=2)
    items = [_item(source, number, {**settings, **values}, folder, job, digest) for number, values in told]
    names: dict[str, int] = {}
    for item in items:
        name = item.path.name.casefold()
        if name in names:
            raise ConfigError(f"{source}: lines {names[name]} and {item.line} have one name; change one")
        names[name] = item.line
    return items


def _values(source: Path, number: int, line: str) -> dict[str, Any]:
    """What one line says. Raises ConfigError."""
    if not line.lstrip().startswith("{"):
        return {"prompt": line.strip()}
    try:
        values: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at character {error.colno}"
    except (ValueError, RecursionError) as error:
        reason = str(error)[:80]
    else:
        return values
    raise ConfigError(f"{source}: line {number}: not JSON ({reason}); fix the line")


def _item(
    source: Path, number: int, values: dict[str, Any], folder: Path, job: Job, digest: Callable[[str], str]
) -> Item:
    name = values.pop("name", None)
    model = job.model_for(values)
    files = ("image", "video", "reuse_table")
    begins = {what: digest(path) for what in files if isinstance(path := values.get(what), str)}
    adapters = [(digest(path), scale) for path, scale in job.adapters]
    told = [values, begins, model, adapters, job.alpha, job.dtype]
    told += [job.enhance.spec, job.enhance.model] if job.enhance.spec else []
    what = json.dumps(told, sort_keys=True, default=str)
    key = hashlib.sha256(what.encode(errors="replace")).hexdigest()
    if name is None:
        return Item(number, values, folder / f"{number:04d}-{key[:8]}.mp4", key, model)
    safe = isinstance(name, str) and name and not set(name) & set('/\\:*?"<>|\0') and name.isprintable()
    if not safe or name.startswith(".") or len(name.encode()) > MOST_NAME:
        raise ConfigError(
            f"{source}: line {number}: name {name!r} is not a file name; use letters and digits"
        )
    if f"{name}.json".casefold() == FAILURES:
        raise ConfigError(f"{source}: line {number}: name {name!r} is that of the failures; choose another")
    return Item(number, values, folder / f"{name}.mp4", key, model, named=True)


def _digest(path: str) -> str:
    """What a file or folder holds now; '' for one that cannot be read: it fails when its turn comes."""
    from cogvideox.manifest import sha256_of

    try:
        return sha256_of(path) if Path(path).is_file() or Path(path).is_dir() else ""
    except (MediaError, OSError, ValueError):
        return ""
