"""Many prompts from a file. Running the same command again makes only what is missing or has changed.

A line is a prompt, a JSON object or a CSV row whose keys are the names of the flags (``{"prompt": ..., "seed": ...,
"name": ...}``). A result is named by ``name``, or by the words of its prompt and a hash of its settings and of the
files they name: where the line stands does not matter. A changed line is made anew; under its own ``name`` when the
record beside the video says that it was another, and kept when there is no such record (``--no-metadata``).
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cogvideox.cli import checks
from cogvideox.cli.batch_file import read_lines
from cogvideox.cli.job import (
    Job,
    check_beside,
    check_free,
    fit_memory,
    foresee,
    limit_of,
    load,
    make,
    read_lora,
    resolve,
    save,
)
from cogvideox.cli.plan import follow
from cogvideox.cli.terminal import PARTIAL, result_json
from cogvideox.errors import CogVideoXError, ConfigError, MediaError, OutputError, describe
from cogvideox.files import read_json, short
from cogvideox.progress import duration, on_one_line, progress, say

if TYPE_CHECKING:
    from cogvideox.generation.options import GenerateOptions
    from cogvideox.memory import MemoryPlan, Policy
    from cogvideox.model import CogVideoX

MOST_NAME = 200  # bytes; file systems allow 255
MOST_WORDS = 40  # characters of a prompt in the name of its file
FAILURES = "failed.json"
KEY = "batch"  # in the record: the hash of what was asked for


@dataclass(frozen=True)
class Item:
    """One line: its number (from 1), its settings, their hash, its job (model, adapters) and the file it becomes.

    ``fault``: what is wrong with the line; nothing is made of it.
    """

    line: int
    settings: dict[str, Any]
    path: Path
    key: str
    job: Job
    named: bool = False
    fault: CogVideoXError | None = None

    @property
    def model(self) -> str:
        """The model of this line."""
        return self.job.model_for(self.settings)

    @property
    def weights(self) -> tuple[Any, ...]:
        """What must be loaded for it: lines with equal weights are made one after the other."""
        return self.model, self.job.adapters, self.job.alpha, self.job.dtype


def run_batch(source: Path, folder: Path, settings: dict[str, Any], job: Job, dry_run: bool) -> None:
    """Check every line that is not made yet, then make the good ones; the bad ones are recorded (exit code 3)."""
    from cogvideox.files.atomic import write_json
    from cogvideox.video import check_output

    items = read_items(source, folder, settings, job)
    check_output(folder / FAILURES, overwrite=True)
    _check_failures(folder / FAILURES)
    waiting = [item for item in items if job.overwrite or item.fault or not _is_made(item)]
    say(f"{source}: {len(items)} items, {len(items) - len(waiting)} made before, {len(waiting)} to make")
    checker, failed, good = _Checker(dry_run), [], []
    with progress("checking") as show:
        for number, item in enumerate(waiting):
            show("checking the lines", number, len(waiting))
            failure = checker.check(item)
            failed += [failure] if failure else []
            good += [] if failure else [item]
    if checker.seconds:
        say(f"estimated time of all: about {duration(checker.seconds)}")
    if not dry_run:
        if failed and good:
            say(f"{len(failed)} of {len(waiting)} lines cannot be made; the other {len(good)} are made now")
        first = {item.weights: item.line for item in reversed(good)}
        maker = _Maker()
        for item in sorted(good, key=lambda item: (first[item.weights], item.line)):
            failure = maker.make(item)
            failed += [failure] if failure else []
        if failed:
            failed.sort(key=lambda failure: failure["line"])
            write_json(folder / FAILURES, failed, overwrite=True)
            say(f"{len(failed)} of {len(items)} items failed; the reasons are in {folder / FAILURES}")
        else:
            (folder / FAILURES).unlink(
                missing_ok=True
            )  # _check_failures has seen that it is a list of failures
    if failed:
        raise typer.Exit(PARTIAL)


@contextmanager
def _failing(item: Item) -> Iterator[list[dict[str, Any]]]:
    """Whatever goes wrong with this item is told and noted: the others are not to blame."""
    noted: list[dict[str, Any]] = []
    try:
        yield noted
    except BrokenPipeError:  # nobody reads the results any more
        raise
    except Exception as error:
        if item.job.debug and not isinstance(error, CogVideoXError):
            traceback.print_exc()
        say(f"line {item.line}: {describe(error)}")
        noted.append({"line": item.line, "out": item.path.name, "error": describe(error)})


@dataclass
class _Checker:
    """Finds what is wrong with a line before anything is loaded for any of them; a dry run prints what is right."""

    dry_run: bool
    seconds: float = 0.0  # estimated for all that passed

    def check(self, item: Item) -> dict[str, Any] | None:
        """None, or what is wrong with it. Warnings are told with the number of the line."""
        with _failing(item) as noted, _told_with_the_line(item.line):
            if item.fault is not None:
                raise item.fault
            options = resolve(item.settings)
            ready = checks.check_request(item.model, options, download=not self.dry_run)
            checks.check_adapters(item.job.adapters, item.job.alpha, ready.folder)
            _check_free(item)
            enhance = item.job.enhance
            if self.dry_run or enhance.is_rules:
                options, enhanced = enhance.apply(options, ready.folder, self.dry_run, quiet=not self.dry_run)
            else:
                enhanced = None
            if enhance.spec is None or enhanced:
                checks.warn_of_unknown(ready, options, item.job.adapters)
            options = checks.with_calibration(options, ready.folder)
            found = foresee(item.job, options, ready)
            fit_memory(item.job, options, ready, limit_of(item.job, options.anyway))
            self.seconds += found.seconds if found else 0.0
            if self.dry_run:
                settings = item.settings | ({"prompt": options.prompt} if enhanced else {})
                result_json({"line": item.line, "out": str(item.path), "options": settings})
        return noted[0] if noted else None


@contextmanager
def _told_with_the_line(line: int) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        yield
    for text in dict.fromkeys(
        on_one_line(str(each.message)) for each in told if each.category is UserWarning
    ):
        say(f"line {line}: warning: {text}")


@dataclass
class _Maker:
    """Makes items that passed; one model is loaded at a time, when the first item needs it."""

    weights: tuple[Any, ...] = ()
    loaded: tuple[CogVideoX, Policy] | None = None
    limit: int | None = field(default=None)

    def make(self, item: Item) -> dict[str, Any] | None:
        """None, or what went wrong with this item."""
        job = item.job
        with _failing(item) as noted, _warnings_were_told():
            options = resolve(item.settings)
            ready = checks.check_request(item.model, options)
            options = checks.with_calibration(options, ready.folder)
            _check_free(item)
            options, enhanced = job.enhance.apply(options, ready.folder)
            model, fitted = self._fitted(item, options, ready)
            found = foresee(job, options, ready)
            options = follow(options, fitted.choice)
            title = f"{item.line}: {options.prompt[:40]}"
            video = make(model, options, ready, title, fitted, enhanced, found)
            video = replace(video, manifest={**video.manifest, KEY: item.key})
            # a record without its video is the rest of a run that was stopped between the two
            save(video, item.path, job, options, replace=True)
        return noted[0] if noted else None

    def _fitted(
        self, item: Item, options: GenerateOptions, ready: checks.Ready
    ) -> tuple[CogVideoX, MemoryPlan]:
        """The model, loaded the way the item's plan says; planned against what was free before it was loaded."""
        if item.weights != self.weights:
            self.loaded, self.weights = None, item.weights  # first, so that no model lies beside another
            self.limit = limit_of(item.job, options.anyway)
        fitted = fit_memory(item.job, options, ready, self.limit)
        policy = fitted.choice.policy
        before = self.loaded[1] if self.loaded else None
        if before is None or (before.residence, before.storage) != (policy.residence, policy.storage):
            self.loaded = None
            self.loaded = load(item.job, ready.folder, policy=policy), policy
        assert self.loaded is not None
        return self.loaded[0], fitted


@contextmanager
def _warnings_were_told() -> Iterator[None]:
    """What the check has said of a line is not said again without its number; what is new still is."""
    with warnings.catch_warnings():
        for text in (".*has no effect.*", "prompt: tiny.*", "image: .*", "video: .*"):
            warnings.filterwarnings("ignore", text, UserWarning)
        yield


def _is_made(item: Item) -> bool:
    """Whether the video is there and this line is what it was made from."""
    from cogvideox.video import sidecar_of

    if not item.path.exists():
        return False
    if not item.named:
        return True  # its name says what it was made from
    try:
        record = read_json(sidecar_of(item.path))
    except ConfigError:
        record = None
    if not isinstance(record, dict) or KEY not in record:
        say(
            f"line {item.line}: {item.path} has no record of a batch to compare with, so it is kept; "
            "--overwrite makes it anew"
        )
        return True
    return bool(record[KEY] == item.key)


def _check_free(item: Item) -> None:
    """Only what this program wrote is replaced; with --overwrite also the video that the line names.

    Raises OutputError.
    """
    if not (item.named and item.job.overwrite):
        check_free(item.path)
    check_beside(item.path, item.job)


def _check_failures(file: Path) -> None:
    """The list of failures is replaced and removed, so it must be one. Raises OutputError."""
    if not file.exists() and not file.is_symlink():
        return
    try:
        failures = read_json(file)
    except ConfigError:
        failures = None
    known = {"line", "out", "error"}
    ours = isinstance(failures, list) and all(
        isinstance(each, dict) and set(each) == known for each in failures
    )
    if not ours or not failures:
        raise OutputError(f"{file}: is not a list of failures of a batch; move it or choose another --out")


def read_items(source: Path, folder: Path, settings: dict[str, Any], job: Job) -> list[Item]:
    """Every line as an item; flags are defaults, the line decides. Raises MediaError, ConfigError."""
    told = read_lines(source)
    digest = functools.cache(_digest)
    if "prompt" in settings and all("prompt" in values for _, values in told if isinstance(values, dict)):
        warnings.warn("--prompt has no effect: every line has its own", stacklevel=2)
    copies: Counter[str] = Counter()
    items = [_item(number, values, settings, folder, job, digest, copies) for number, values in told]
    names: dict[str, int] = {}
    for item in items:
        name = item.path.name.casefold()
        if item.fault is None and name in names:
            raise ConfigError(f"{source}: lines {names[name]} and {item.line} have one name; change one")
        names[name] = item.line
    return items


def _item(
    number: int,
    told: dict[str, Any] | CogVideoXError,
    flags: dict[str, Any],
    folder: Path,
    job: Job,
    digest: Callable[[str], str],
    copies: Counter[str],
) -> Item:
    if isinstance(told, CogVideoXError):
        return Item(number, {}, folder / f"line-{number}.mp4", "", job, fault=told)
    values = {**flags, **told}
    name = values.pop("name", None)
    try:
        job = _job_of(values, job)
        _check_name(name)
    except CogVideoXError as error:
        return Item(number, values, folder / f"line-{number}.mp4", "", job, fault=error)
    files = ("image", "video", "reuse_table")
    begins = {what: digest(path) for what in files if isinstance(path := values.get(what), str)}
    adapters = [(digest(path), scale) for path, scale in job.adapters]
    asked = [values, begins, job.model_for(values), adapters, job.alpha, job.dtype]
    asked += [job.enhance.spec, job.enhance.model] if job.enhance.spec else []
    what = json.dumps(asked, sort_keys=True, default=str)
    if name is None:
        copies[what] += 1
        what += f" {copies[what]}" if copies[what] > 1 else ""  # equal lines are several videos
    key = hashlib.sha256(what.encode(errors="replace")).hexdigest()
    if name is None:
        words = str(values.get("prompt") or "").lower() if job.metadata else ""
        words = "-".join(re.findall("[a-z0-9]+", words))[:MOST_WORDS].strip("-") or "video"
        return Item(number, values, folder / f"{words}-{key[:8]}.mp4", key, job)
    return Item(number, values, folder / f"{name}.mp4", key, job, named=True)


def _job_of(values: dict[str, Any], job: Job) -> Job:
    """The job with what this line says of model, adapters and precision, which leave ``values``. Raises our errors."""
    model, dtype, alpha = (values.pop(name, None) for name in ("model", "dtype", "lora_alpha"))
    lora = values.pop("lora", None)
    changes: dict[str, Any] = {}
    if model is not None:
        if not isinstance(model, str):
            raise ConfigError(f"model {short(model)}: write its name or folder")
        changes["model"] = model
    if dtype is not None:
        changes["dtype"] = checks.choose("dtype", dtype, checks.DTYPES)
    if lora is not None:
        each = lora if isinstance(lora, list) else [lora]
        if not all(isinstance(text, str) for text in each):
            raise ConfigError(f"lora {short(lora)}: write PATH or PATH:SCALE, or a list of them")
        changes["adapters"] = tuple(read_lora(text) for text in each)
    if alpha is not None:
        try:
            changes["alpha"] = float(alpha)
        except (TypeError, ValueError):
            raise ConfigError(f"lora-alpha {short(alpha)}: write a number") from None
    return replace(job, **changes) if changes else job


def _check_name(name: Any) -> None:
    """Raises ConfigError for what cannot be the name of a file in the folder of the batch."""
    if name is None:
        return
    safe = isinstance(name, str) and name and not set(name) & set('/\\:*?"<>|\0') and name.isprintable()
    if not safe or name.startswith(".") or len(name.encode()) > MOST_NAME:
        raise ConfigError(f"name {short(name)}: is not a file name; use letters and digits")
    if f"{name}.json".casefold() == FAILURES:
        raise ConfigError(f"name {name!r}: is that of the failures; choose another")


def _digest(path: str) -> str:
    """What a file or folder holds now; '' for one that cannot be read: it fails when it is checked."""
    from cogvideox.files.digest import sha256_of

    try:
        return sha256_of(path) if Path(path).is_file() or Path(path).is_dir() else ""
    except (MediaError, OSError, ValueError):
        return ""
