"""Many prompts from a file. Running the same command again makes only what is missing.

A line is a prompt, or a JSON object of options (``{"prompt": ..., "seed": ..., "name": ...}``). A result is
named by ``name``, or by its number and a hash of its settings: a changed line is made anew, others are not.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cogvideox.cli import checks
from cogvideox.cli.generate import Job, fit_memory, limit_of, load, make, resolve, save
from cogvideox.cli.plan import follow
from cogvideox.cli.terminal import PARTIAL, describe, result_json, say
from cogvideox.errors import CogVideoXError, ConfigError, MediaError

if TYPE_CHECKING:
    from cogvideox.generate.options import GenerateOptions
    from cogvideox.memory import MemoryPlan, Policy
    from cogvideox.model import CogVideoX

MOST_BYTES = 64 << 20
FAILURES = "failed.json"


@dataclass(frozen=True)
class Item:
    """One line: its number (from 1), its settings, and the file it becomes."""

    line: int
    settings: dict[str, Any]
    path: Path


def run_batch(source: Path, folder: Path, settings: dict[str, Any], job: Job, dry_run: bool) -> None:
    """Make every item that is not there yet; failures are recorded and do not stop the rest (exit code 3)."""
    from cogvideox.video import check_output, write_json

    items = read_items(source, folder, settings, job)
    check_output(folder / FAILURES, overwrite=True)
    waiting = [item for item in items if job.overwrite or not item.path.exists()]
    say(f"{source}: {len(items)} items, {len(items) - len(waiting)} made before, {len(waiting)} to make")
    if dry_run:
        for item in waiting:
            result_json({"line": item.line, "out": str(item.path), "options": item.settings})
        return
    maker = _Maker(job)
    failed = [failure for item in waiting if (failure := maker.make(item)) is not None]
    if failed:
        write_json(folder / FAILURES, failed, overwrite=True)
        say(f"{len(failed)} of {len(items)} items failed; the reasons are in {folder / FAILURES}")
        raise typer.Exit(PARTIAL)
    (folder / FAILURES).unlink(missing_ok=True)


@dataclass
class _Maker:
    """Makes items with one model, loaded when the first good item needs it."""

    job: Job
    model: CogVideoX | None = field(default=None)
    policy: Policy | None = field(default=None)
    limit: int | None = field(default=None)

    def make(self, item: Item) -> dict[str, Any] | None:
        """None, or what went wrong with this item."""
        try:
            options = resolve(item.settings)
            ready = checks.check_request(self.job.model, options)
            fitted = self._fit(options, ready)
            options = follow(options, fitted.choice)
            video = make(self.model, options, ready, f"{item.line}: {options.prompt[:40]}", fitted)
            # a record without its video is the rest of a run that was stopped between the two
            save(video, item.path, self.job, options, again=True)
        except CogVideoXError as error:
            say(f"line {item.line}: {describe(error)}")
            return {"line": item.line, "out": item.path.name, "error": describe(error)}
        return None

    def _fit(self, options: GenerateOptions, ready: checks.Ready) -> MemoryPlan:
        """Plan an item against the memory that was free at first; load the model the way the plan says."""
        if self.model is None:
            self.limit = limit_of(self.job)
        fitted = fit_memory(self.job, options, ready, self.limit)
        policy = fitted.choice.policy
        loaded_as = (self.policy.residence, self.policy.storage) if self.policy is not None else None
        if loaded_as != (policy.residence, policy.storage):
            self.model = None  # first, so that two models never lie side by side
            self.model, self.policy = load(self.job, ready.folder, policy), policy
        return fitted


def read_items(source: Path, folder: Path, settings: dict[str, Any], job: Job) -> list[Item]:
    """Every line as an item; flags are defaults, the line decides. Raises MediaError, ConfigError."""
    try:
        if source.stat().st_size > MOST_BYTES:
            raise MediaError(f"{source}: larger than {MOST_BYTES >> 20} MiB; split it")
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise MediaError(f"{source}: not UTF-8 text at byte {error.start}; save it as UTF-8") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise MediaError(f"{str(source)!r}: cannot be read ({why}); check the path") from None
    items = [
        _item(source, number, line, folder, settings, job)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not items:
        raise ConfigError(f"{source}: holds no prompts; write one per line")
    names: dict[Path, int] = {}
    for item in items:
        if item.path in names:
            raise ConfigError(f"{source}: lines {names[item.path]} and {item.line} have one name; change one")
        names[item.path] = item.line
    return items


def _item(source: Path, number: int, line: str, folder: Path, settings: dict[str, Any], job: Job) -> Item:
    values: Any = {"prompt": line.strip()}
    if line.lstrip().startswith("{"):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = str(error)[:80]
            raise ConfigError(f"{source}: line {number}: not JSON ({reason}); fix the line") from None
    name = values.pop("name", None)
    values = {**settings, **values}
    if name is None:
        what = json.dumps([values, job.model, job.adapters, job.dtype], sort_keys=True, default=str)
        name = f"{number:04d}-{hashlib.sha256(what.encode(errors='replace')).hexdigest()[:8]}"
    safe = isinstance(name, str) and name and not set(name) & set('/\\:*?"<>|\0') and name.isprintable()
    if not safe or name.startswith(".") or len(name) > 120:
        raise ConfigError(
            f"{source}: line {number}: name {name!r} is not a file name; use letters and digits"
        )
    return Item(number, values, folder / f"{name}.mp4")
