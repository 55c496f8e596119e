"""Many prompts from a file. Running the same command again makes only what is missing or has changed.

A line is a prompt, a JSON object or a CSV row whose keys are the names of the flags (``{"prompt": ..., "seed": ...,
"name": ...}``). A result is named by ``name``, or by the words of its prompt and a hash of its settings and of the
files they name: where the line stands does not matter. A changed line is made anew; under its own ``name`` when the
record beside the video says that it was another, and kept when there is no such record (``--no-metadata``).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cogvideox.engines import HERE, JobEngine, WorkerSpec
from cogvideox.errors import ConfigError, InputError, OutputError, describe
from cogvideox.files import read_json
from cogvideox.files.atomic import write_json
from cogvideox.generation.batch_file import FAILURES, Item, read_items
from cogvideox.generation.given import Given, read_given
from cogvideox.generation.job import Job, Prepared, load, make, parse_options, prepare
from cogvideox.generation.options import GenerateOptions
from cogvideox.generation.preflight import check_adapters
from cogvideox.generation.video_files import SavedVideo, check_beside, check_free, save
from cogvideox.memory import Policy
from cogvideox.model import CogVideoX
from cogvideox.progress import SILENT, Reporter, duration, on_one_line
from cogvideox.video import check_output, sidecar_of
from cogvideox.worker_pool import CostedJob

LINE_WORKER = f"{__name__}:LineWorker"


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

    def saved(self, item: Item, saved: SavedVideo) -> None:
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
    engine: JobEngine = HERE,
    reporter: Reporter = SILENT,
    events: BatchEvents | None = None,
) -> BatchOutcome:
    """Check every line that is not made yet, then make the good ones; the bad ones are listed in ``failed.json``.

    ``settings``: options of every line that does not say otherwise. ``engine``: where the lines are made. Raises
    MediaError, ConfigError or OutputError for what is wrong with the file or the folder; what is wrong with a line is
    a failure of that line.
    """
    items = read_items(source, folder, settings, job, download=not dry_run)
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
    if dry_run:
        return BatchOutcome(len(items), run.failures)
    if run.failures and good:
        bad = f"{len(run.failures)} of {len(waiting)} lines cannot be made"
        reporter.note(f"{bad}; the other {len(good)} are made now")
    run.make(good) if engine.is_here else run.make_elsewhere(good, engine, folder)
    failures = sorted(run.failures, key=lambda failure: failure.line)
    if failures:
        write_json(folder / FAILURES, [asdict(failure) for failure in failures], overwrite=True)
        reporter.note(f"{len(failures)} of {len(items)} items failed; the reasons are in {folder / FAILURES}")
    else:  # _check_failures has seen that it is a list of failures
        (folder / FAILURES).unlink(missing_ok=True)
    return BatchOutcome(len(items), run.failures)


@dataclass
class _Run:
    """One run of a batch: checks lines, then makes them."""

    dry_run: bool
    reporter: Reporter
    events: BatchEvents
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0  # estimated for all lines that passed

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
        options, download = parse_options(item.settings), not self.dry_run
        prepared = prepare(item.job, options, download=download, ask=False, reporter=self.reporter)
        check_adapters(item.job.adapters, item.job.alpha, prepared.spec)
        self.seconds += prepared.forecast.seconds if prepared.forecast else 0.0
        if self.dry_run:
            self.events.checked(item, prepared.plan.options)
        return replace(prepared, given=Given())  # without pixels many requests fit into memory

    def make(self, good: list[tuple[Item, Prepared]]) -> None:
        """Make lines that passed; lines with equal weights one after the other."""
        first = {item.weights: item.line for item, _ in reversed(good)}
        maker = _LineMaker(self.reporter)
        for item, prepared in sorted(good, key=lambda pair: (first[pair[0].weights], pair[0].line)):
            with self._failing(item):
                self.events.saved(item, maker.make(item, prepared))

    def make_elsewhere(self, good: list[tuple[Item, Prepared]], engine: JobEngine, folder: Path) -> None:
        """Make lines that passed in other processes or on other machines, the longest first."""
        items = {item.line: item for item, _ in good}
        jobs = [CostedJob(item.to_plain(), _cost(each), repr(item.weights)) for item, each in good]
        devices = {item.job.device for item, _ in good}  # of the run, so that there is one
        spec = WorkerSpec(target=LINE_WORKER, config={}, shared=folder, device=next(iter(devices), None))
        with self.reporter.progress("making") as report:
            for done, outcome in enumerate(engine.run(jobs, spec), 1):
                item = items[outcome.job["line"]]
                with self._failing(item):
                    if outcome.error:
                        raise InputError(outcome.detail)
                    self.events.saved(item, SavedVideo(**{**outcome.answer, "path": str(item.path)}))
                report("videos made", done, len(jobs))

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


def _cost(prepared: Prepared) -> float:
    """Seconds that a line is expected to take, or a number that grows with them."""
    if prepared.forecast is not None:
        return prepared.forecast.seconds
    return float(math.prod(prepared.plan.latent_shape) * prepared.plan.steps)


class LineWorker:
    """Makes lines of a batch in a process of its own; the model of the last line stays loaded."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.maker = _LineMaker(SILENT)

    def do(self, job: dict[str, Any]) -> dict[str, Any]:
        """Make one line, planned anew for the device that is here: the facts about its video."""
        item = Item.from_plain(job)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            prepared = prepare(item.job, parse_options(item.settings), ask=False)
            return asdict(self.maker.make(item, replace(prepared, given=Given())))


@dataclass
class _LineMaker:
    """Makes one line after the other, with one model in memory at a time."""

    reporter: Reporter
    weights: tuple[Any, ...] = ()
    loaded: tuple[CogVideoX, Policy] | None = None

    def make(self, item: Item, prepared: Prepared) -> SavedVideo:
        """Make and save a line that passed the check."""
        with _warnings_were_given():
            _check_free(item)
            prepared = _complete(prepared)
            title = f"{item.line}: {prepared.plan.options.prompt[:40]}"
            generation = make(self._model(item, prepared), prepared, title, self.reporter, item.path)
            generation = generation.noted(batch=item.key)
            # a record without its video is the rest of a run that was stopped between the two
            files = save(generation.video, item.path, item.job, overwrite=True, reporter=self.reporter)
            return SavedVideo.of(generation, files)

    def _model(self, item: Item, prepared: Prepared) -> CogVideoX:
        """The model, loaded the way the line's plan says."""
        policy = prepared.policy
        nets = prepared.plan.options.control_nets
        kept = self.loaded[1] if self.loaded and item.weights == self.weights else None
        if kept is None or _weights_of(kept) != _weights_of(policy):
            self.loaded = None  # first, so that no model lies beside another
            model = load(item.job, prepared.folder, policy=policy, control_nets=nets, reporter=self.reporter)
            self.loaded, self.weights = (model, policy), item.weights
        assert self.loaded is not None
        return self.loaded[0]


def _weights_of(policy: Policy) -> tuple[str, ...]:
    """What of a policy is decided when a model is loaded."""
    return policy.residence, policy.storage, policy.products


def _complete(prepared: Prepared) -> Prepared:
    """The request with what is read and asked at the last moment: the image or video, and the written-out prompt.

    Raises InputError when the image or video has another size than it had when the line was planned.
    """
    options, enhance = prepared.plan.options, prepared.job.enhance
    given = read_given(options)
    if given.size != prepared.given_size:
        names = ", ".join(str(getattr(options, name)) for name in sorted(given.names))
        raise InputError(f"{names}: has changed since it was checked; run again")
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
