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
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cogvideox.errors import CogVideoXError, ConfigError, InputError, MediaError, OutputError, describe
from cogvideox.files import read_json, short
from cogvideox.generation.batch_file import read_lines
from cogvideox.generation.job import (
    Job,
    Prepared,
    Saved,
    check_beside,
    check_free,
    load,
    make,
    parse_options,
    prepare,
    read_adapter_flag,
    save,
)
from cogvideox.generation.options import GenerateOptions
from cogvideox.generation.plan import read_given
from cogvideox.generation.preflight import DTYPES, check_adapters, choose
from cogvideox.generation.record import FILES, Generation
from cogvideox.files.digest import sha256_of
from cogvideox.memory import Policy
from cogvideox.model import CogVideoX
from cogvideox.progress import SILENT, Reporter, duration, on_one_line
from cogvideox.files.atomic import write_json
from cogvideox.video import check_output, sidecar_of

MOST_NAME = 200  # bytes; file systems allow 255
MOST_WORDS = 40  # characters of a prompt in the name of its file
FAILURES = "failed.json"


@dataclass(frozen=True, kw_only=True)
class Item:
    """One line: its number (from 1), its settings, their hash, its job (model, adapters) and the file it becomes.

    ``named``: the file has a name that the line gives. ``fault``: what is wrong with the line; nothing is made of it.
    """

    line: int
    settings: dict[str, Any]
    path: Path
    key: str
    job: Job
    named: bool = False
    fault: CogVideoXError | None = None

    @property
    def weights(self) -> tuple[Any, ...]:
        """What must be loaded for it: lines with equal weights are made one after the other."""
        job = self.job
        return job.model_for(self.settings.get("image")), job.adapters, job.alpha, job.dtype


@dataclass(frozen=True)
class Failure:
    """A line that was not made: its number, the name of its file, and why."""

    line: int
    out: str
    error: str


@dataclass(frozen=True)
class BatchOutcome:
    """How many lines there are, and those that failed."""

    lines: int
    failures: list[Failure]


class BatchEvents:
    """What a batch tells as it goes on; every method does nothing unless it is overridden."""

    def checked(self, item: Item, options: GenerateOptions) -> None:
        """A line has passed a dry run."""

    def saved(self, item: Item, made: Generation, files: Saved) -> None:
        """A video was written."""

    def failed(self, item: Item, error: Exception) -> None:
        """A line cannot be made, or was not."""


def run_batch(
    source: Path,
    folder: Path,
    settings: Mapping[str, Any],
    job: Job,
    *,
    dry_run: bool = False,
    reporter: Reporter = SILENT,
    events: BatchEvents | None = None,
) -> BatchOutcome:
    """Check every line that is not made yet, then make the good ones; the bad ones are listed in ``failed.json``.

    ``settings``: options of every line that does not say otherwise. Raises MediaError, ConfigError or OutputError for
    what is wrong with the file or the folder; what is wrong with a line is a failure of that line.
    """
    items = read_items(source, folder, settings, job)
    check_output(folder / FAILURES, overwrite=True)
    _check_failures(folder / FAILURES)
    waiting = [item for item in items if job.overwrite or item.fault or not _is_made(item, reporter)]
    reporter.note(
        f"{source}: {len(items)} items, {len(items) - len(waiting)} made before, {len(waiting)} to make"
    )
    run = _Run(dry_run, reporter, events or BatchEvents())
    good = run.check(waiting)
    if run.seconds:
        reporter.note(f"estimated time of all: about {duration(run.seconds)}")
    if not dry_run:
        if run.failures and good:
            reporter.note(
                f"{len(run.failures)} of {len(waiting)} lines cannot be made; the other {len(good)} are made now"
            )
        run.make(good)
        failures = sorted(run.failures, key=lambda failure: failure.line)
        if failures:
            write_json(folder / FAILURES, [asdict(failure) for failure in failures], overwrite=True)
            reporter.note(
                f"{len(failures)} of {len(items)} items failed; the reasons are in {folder / FAILURES}"
            )
        else:  # _check_failures has seen that it is a list of failures
            (folder / FAILURES).unlink(missing_ok=True)
    return BatchOutcome(len(items), run.failures)


@dataclass
class _Run:
    """One run of a batch: checks lines, then makes them, with one model in memory at a time."""

    dry_run: bool
    reporter: Reporter
    events: BatchEvents
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0  # estimated for all lines that passed
    weights: tuple[Any, ...] = ()
    loaded: tuple[CogVideoX, Policy] | None = None

    def check(self, items: list[Item]) -> list[tuple[Item, Prepared]]:
        """The lines that can be made, planned, before anything is loaded for any of them."""
        good: list[tuple[Item, Prepared]] = []
        with self.reporter.progress("checking") as report:
            for number, item in enumerate(items):
                report("checking the lines", number, len(items))
                with self._failing(item), self._warnings_with_line(item.line):
                    good.append((item, self._prepared(item)))
        return good

    def _prepared(self, item: Item) -> Prepared:
        if item.fault is not None:
            raise item.fault
        _check_free(item)
        prepared = prepare(
            item.job,
            parse_options(item.settings),
            download=not self.dry_run,
            ask=False,
            reporter=self.reporter,
        )
        check_adapters(item.job.adapters, item.job.alpha, prepared.spec)
        self.seconds += prepared.forecast.seconds if prepared.forecast else 0.0
        if self.dry_run:
            self.events.checked(item, prepared.plan.options)
        return prepared.without_given()

    def make(self, good: list[tuple[Item, Prepared]]) -> None:
        """Make lines that passed; lines with equal weights one after the other."""
        first = {item.weights: item.line for item, _ in reversed(good)}
        for item, prepared in sorted(good, key=lambda pair: (first[pair[0].weights], pair[0].line)):
            with self._failing(item), _warnings_were_given():
                _check_free(item)
                prepared = _complete(prepared)
                title = f"{item.line}: {prepared.plan.options.prompt[:40]}"
                made = make(self._model(item, prepared), prepared, title, self.reporter)
                made = made.noted(batch=item.key)
                # a record without its video is the rest of a run that was stopped between the two
                files = save(made.video, item.path, item.job, overwrite=True, reporter=self.reporter)
                self.events.saved(item, made, files)

    def _model(self, item: Item, prepared: Prepared) -> CogVideoX:
        """The model, loaded the way the line's plan says."""
        policy = prepared.policy
        kept = self.loaded[1] if self.loaded and item.weights == self.weights else None
        if kept is None or (kept.residence, kept.storage) != (policy.residence, policy.storage):
            self.loaded = None  # first, so that no model lies beside another
            model = load(item.job, prepared.folder, policy=policy, reporter=self.reporter)
            self.loaded, self.weights = (model, policy), item.weights
        assert self.loaded is not None
        return self.loaded[0]

    @contextmanager
    def _failing(self, item: Item) -> Iterator[None]:
        """Whatever goes wrong with this line is noted: the others are made."""
        try:
            yield
        except BrokenPipeError:  # nobody reads the results any more
            raise
        except Exception as error:
            self.reporter.note(f"line {item.line}: {describe(error)}")
            self.failures.append(Failure(item.line, item.path.name, describe(error)))
            self.events.failed(item, error)

    @contextmanager
    def _warnings_with_line(self, line: int) -> Iterator[None]:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always", UserWarning)
            yield
        texts = (on_one_line(str(each.message)) for each in seen if each.category is UserWarning)
        for text in dict.fromkeys(texts):
            self.reporter.note(f"line {line}: warning: {text}")


def _complete(prepared: Prepared) -> Prepared:
    """The request with what is read and asked at the last moment: the image or video, and the written-out prompt.

    Raises InputError when the image or video has another size than it had when the line was planned.
    """
    options, enhance = prepared.plan.options, prepared.job.enhance
    given = read_given(options, None, None)
    if given.size != prepared.given_size:
        raise InputError(f"{options.image or options.video}: has changed since it was checked; run again")
    if prepared.enhanced is None and enhance.spec is not None:
        enhanced = enhance.apply(options.prompt, prepared.spec.name)
        assert enhanced is not None  # spec is not None
        plan = replace(prepared.plan, options=options.changed(prompt=enhanced.enhanced))
        prepared = replace(prepared, plan=plan, enhanced=enhanced)
    return replace(prepared, given=given)


@contextmanager
def _warnings_were_given() -> Iterator[None]:
    """Settings without effect were warned of when the line was checked, with its number."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*has no effect.*", UserWarning)
        yield


def _is_made(item: Item, reporter: Reporter) -> bool:
    """Whether the video is there and this line is what it was made from."""
    if not item.path.exists():
        return False
    if not item.named:
        return True  # its name says what it was made from
    try:
        record = read_json(sidecar_of(item.path))
    except ConfigError:
        record = None
    if not isinstance(record, dict) or "batch" not in record:
        reporter.note(
            f"line {item.line}: {item.path} has no record of a batch to compare with, so it is kept; "
            "--overwrite makes it anew"
        )
        return True
    return bool(record["batch"] == item.key)


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


def read_items(source: Path, folder: Path, settings: Mapping[str, Any], job: Job) -> list[Item]:
    """Every line as an item; flags are defaults, the line decides. Raises MediaError, ConfigError."""
    lines = read_lines(source)
    digest = functools.cache(_digest)
    if "prompt" in settings and all("prompt" in values for _, values in lines if isinstance(values, dict)):
        warnings.warn("--prompt has no effect: every line has its own", stacklevel=2)
    copies: Counter[str] = Counter()
    items = [_item(number, values, settings, folder, job, digest, copies) for number, values in lines]
    names: dict[str, int] = {}
    for item in items:
        name = item.path.name.casefold()
        if item.fault is None and name in names:
            raise ConfigError(f"{source}: lines {names[name]} and {item.line} have one name; change one")
        names[name] = item.line
    return items


def _item(
    number: int,
    line: dict[str, Any] | CogVideoXError,
    flags: Mapping[str, Any],
    folder: Path,
    job: Job,
    digest: Callable[[str], str],
    copies: Counter[str],
) -> Item:
    path = folder / f"line-{number}.mp4"
    if isinstance(line, CogVideoXError):
        return Item(line=number, settings={}, path=path, key="", job=job, fault=line)
    values = {**flags, **line}
    name = values.pop("name", None)
    try:
        job = _job_of(values, job)
        _check_name(name)
    except CogVideoXError as error:
        return Item(line=number, settings=values, path=path, key="", job=job, fault=error)
    begins = {what: digest(file) for what in FILES if isinstance(file := values.get(what), str)}
    adapters = [(digest(file), scale) for file, scale in job.adapters]
    asked = [values, begins, job.model_for(values.get("image")), adapters, job.alpha, job.dtype]
    asked += [job.enhance.spec, job.enhance.model] if job.enhance.spec else []
    text = json.dumps(asked, sort_keys=True, default=str)
    if name is None:
        copies[text] += 1
        text += f" {copies[text]}" if copies[text] > 1 else ""  # equal lines are several videos
    key = hashlib.sha256(text.encode(errors="replace")).hexdigest()
    if name is not None:
        return Item(line=number, settings=values, path=folder / f"{name}.mp4", key=key, job=job, named=True)
    words = str(values.get("prompt") or "").lower() if job.metadata else ""
    words = "-".join(re.findall("[a-z0-9]+", words))[:MOST_WORDS].strip("-") or "video"
    return Item(line=number, settings=values, path=folder / f"{words}-{key[:8]}.mp4", key=key, job=job)


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
        changes["dtype"] = choose("dtype", dtype, DTYPES)
    if lora is not None:
        each = lora if isinstance(lora, list) else [lora]
        if not all(isinstance(text, str) for text in each):
            raise ConfigError(f"lora {short(lora)}: write PATH or PATH:SCALE, or a list of them")
        changes["adapters"] = tuple(read_adapter_flag(text) for text in each)
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
    try:
        return sha256_of(path) if Path(path).is_file() or Path(path).is_dir() else ""
    except (MediaError, OSError, ValueError):
        return ""
