"""The workers of a studio: gives them the videos of the queue, watches them, and replaces those that die.

One thread does it all; it alone changes the states of running videos. A worker that dies costs its video a try; after
``deaths`` of them the video is given up by name and the queue goes on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from signal import Signals
from typing import Any

from cogvideox.engines import JobEngine
from cogvideox.errors import CogVideoXError, ConfigError, InputError, OutputError, describe
from cogvideox.files import parse_json
from cogvideox.files.atomic import discard
from cogvideox.studio.folder import StudioFolder, bytes_below
from cogvideox.studio.limits import StudioLimits
from cogvideox.studio.progress_board import ProgressBoard
from cogvideox.studio.queue import QueuedVideo, State, VideoQueue
from cogvideox.studio.request import file_options
from cogvideox.studio.worker_settings import WorkerSettings
from cogvideox.worker_pool import as_raised

TICK = 0.25  # seconds between two looks at what has no message: time limits, deleted videos, the disk
SLOWEST_START = 30.0  # seconds between two starts of a worker that cannot start, at most


@dataclass(eq=False)
class WorkerProcess:
    """A worker and what it is at. ``video``: the id of the one it makes; ``end``: why it was told to end."""

    number: int
    process: subprocess.Popen[bytes]
    ready: bool = False
    video: str = ""
    heard: float = field(default_factory=time.monotonic)
    cancelled_at: float | None = None
    end: str = ""

    def send(self, values: Mapping[str, Any]) -> None:
        """One line to the worker; one that has died takes none, and the end of its answers says so."""
        assert self.process.stdin is not None, "it is a pipe"
        with suppress(OSError, ValueError):
            self.process.stdin.write(json.dumps(values).encode() + b"\n")
            self.process.stdin.flush()


class VideoWorkers:
    """Workers that make the videos of a queue.

    ``lock``: the descriptor of the folder's lock, which workers hold too. ``engine``: local, or ray for actors of a
    cluster (``ray_worker``). ``on_end`` is called with each video that has
    ended, ``tidy`` once a minute. ``failure`` is the error of a worker that cannot start at all, such as a model that
    is not there; ``paused`` says why nothing new is begun, "" while it is.
    """

    def __init__(
        self,
        queue: VideoQueue,
        folder: StudioFolder,
        settings: WorkerSettings,
        limits: StudioLimits,
        board: ProgressBoard,
        *,
        lock: int,
        workers: int | None = None,
        engine: str = "local",
        on_end: Callable[[QueuedVideo], None] | None = None,
        tidy: Callable[[], None] | None = None,
    ) -> None:
        self.queue, self.folder, self.settings = queue, folder, settings
        self.limits, self.board = limits, board
        self.lock, self.asked, self.on_end, self.tidy = lock, workers, on_end, tidy
        self.is_local = JobEngine(engine).kind == "local"
        self.workers: list[WorkerProcess] = []
        self.messages: SimpleQueue[tuple[WorkerProcess | None, dict[str, Any] | None]] = SimpleQueue()
        self.questions: dict[int, tuple[WorkerProcess, Future[dict[str, Any]]]] = {}
        self.facts: dict[str, Any] = {}
        self.failure: CogVideoXError | None = None
        self.paused, self.failed_starts, self.next_start = "", 0, 0.0
        self.stopping, self._stopped = threading.Event(), threading.Event()
        self.changes: deque[Callable[[], None]] = (
            deque()
        )  # of the queue; those that the disk refuses are tried again
        self._question, self._asking = 0, threading.Lock()
        self._looked = self._tidied = 0.0
        self._thread = threading.Thread(target=self._run, name="workers", daemon=True)

    def start(self) -> None:
        """Start the workers, and with them the work on the queue."""
        self._thread.start()

    def wake(self) -> None:
        """Look into the queue now: a video was added, cancelled or deleted."""
        self.messages.put((None, None))

    def stop(self, seconds: float) -> None:
        """A clean stop: nothing new is begun, running videos have so many seconds to end, the others wait again."""
        self.stopping.set()
        until = time.monotonic() + seconds
        while time.monotonic() < until and any(each.video for each in self.workers):
            self.wake()
            time.sleep(0.05)
        self._stopped.set()
        self.wake()
        if self._thread.is_alive():
            self._thread.join(10)
        for worker in self.workers:
            _kill(worker)
            if worker.video:
                self._decide(worker.video, "", counted=False)
        self.workers.clear()
        self._apply()

    def plan(
        self, request: Mapping[str, Any], files: Mapping[str, Any], seconds: float
    ) -> dict[str, Any] | None:
        """What a request would need; None where no worker can say so in time. Raises InputError for what cannot be."""
        return self._ask("plan", {"request": dict(request), "files": dict(files)}, seconds)

    def enhance(self, prompt: str, model: str, seconds: float) -> dict[str, Any] | None:
        """A prompt written out, and by what; None where no worker does it in time. Raises InputError."""
        return self._ask("enhance", {"prompt": prompt, "model": model}, seconds)

    def _ask(self, kind: str, question: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        worker = next((each for each in [*self.workers] if each.ready), None)
        if worker is None:
            return None
        future: Future[dict[str, Any]] = Future()
        with self._asking:
            self._question += 1
            number = self._question
            self.questions[number] = (worker, future)
        worker.send({kind: {"number": number, **question}})
        try:
            answer = future.result(seconds)
        except TimeoutError:
            return None
        finally:
            self.questions.pop(number, None)
        if "refused" in answer:
            raise InputError(answer["refused"]["message"])
        return answer.get("answer")

    # the thread

    def _run(self) -> None:
        while not self._stopped.is_set() and self.failure is None:
            try:
                with suppress(Empty):
                    worker, message = self.messages.get(timeout=TICK)
                    if worker is not None:
                        self._handle(worker, message)
                self._apply()
                if not self._stopped.is_set():
                    self._go_on()
            except OutputError as error:  # such as a full disk: what runs goes on, the change is tried again
                self.paused = str(error)
            except (
                Exception
            ) as error:  # a mistake of ours: without this thread nothing moves, so the server ends
                self.failure = CogVideoXError(f"workers: {describe(error)}")

    def _go_on(self) -> None:
        """What is to be done besides hearing workers. Raises OutputError."""
        if time.monotonic() - self._looked >= TICK:
            self._looked = time.monotonic()
            self._look()
        self._start_missing()
        self._cancel()
        self._hand_out()

    def _apply(self) -> None:
        """Make the changes of the queue that are due, in their order. Raises OutputError; they stay due then."""
        while self.changes:
            self.changes[0]()
            self.changes.popleft()

    def _start_missing(self) -> None:
        """As many workers as there should be; one until it has said how many devices there are."""
        wanted = self.asked or (self.facts.get("devices", 1) if self.facts else 1)
        if self.stopping.is_set() or self.failure is not None or time.monotonic() < self.next_start:
            return
        numbers = {each.number for each in self.workers}
        for number in range(wanted):
            if number not in numbers:
                self.workers.append(self._started(number))

    def _started(self, number: int) -> WorkerProcess:
        device = self.settings.device or (self.facts.get("device") if self.is_local else None)
        if self.is_local and device == "cuda" and self.facts.get("devices", 1) > 1:
            device = f"cuda:{number}"
        settings = self.settings.changed(device=device, limits=self.limits)
        with open(self.folder.log(number), "wb", opener=_private) as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"cogvideox.studio.{'worker' if self.is_local else 'ray_worker'}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": _import_path()},
                pass_fds=(self.lock,),
                start_new_session=True,  # Ctrl-C of the terminal is the server's
            )
        worker = WorkerProcess(number, process)
        worker.send(settings.model_dump(mode="json"))
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()
        return worker

    def _listen(self, worker: WorkerProcess) -> None:
        """Pass on the lines of one worker, and its end."""
        assert worker.process.stdout is not None, "it is a pipe"
        for line in worker.process.stdout:
            with suppress(ConfigError):
                self.messages.put((worker, parse_json(line.decode("utf-8", "replace"), "a worker's line")))
        self.messages.put((worker, None))

    def _handle(self, worker: WorkerProcess, message: dict[str, Any] | None) -> None:
        worker.heard = time.monotonic()
        if message is None:
            self._died(worker)
        elif "progress" in message:
            self.board.report(message["progress"], **message["facts"])
        elif "ready" in message:
            worker.ready, self.facts, self.failed_starts = True, message["ready"], 0
        elif "stop" in message:
            self.failure = as_raised(message["kind"], message["stop"])
        elif "answered" in message:
            waiting = self.questions.get(message["answered"])
            if waiting is not None and not waiting[1].done():
                waiting[1].set_result(message)
        elif "done" in message:
            self._end(worker, "completed", result=message["facts"])
        elif "cancelled" in message:
            self._end(worker, "cancelled")
        elif "failed" in message:
            self._end(worker, "failed", error=message["error"])

    def _end(self, worker: WorkerProcess, state: State, **facts: Any) -> None:
        """The video of a worker has ended: its state, then its preview goes."""
        name, worker.video, worker.cancelled_at = worker.video, "", None

        def change() -> None:
            size = bytes_below(self.folder.video(name)) if state == "completed" else 0
            self.queue.end(name, state, size=size, **facts)
            self._clear(name)

        self.changes.append(change)

    def _clear(self, name: str) -> None:
        self.board.end(name)
        discard(self.folder.preview(name))
        video = self.queue.get(name)
        if video is not None and video.is_final and self.on_end is not None:
            self.on_end(video)

    def _died(self, worker: WorkerProcess) -> None:
        """Replace a worker that died, and decide about its video."""
        if worker not in self.workers:
            return
        self.workers.remove(worker)
        how = worker.end or _how(worker.process)
        _kill(worker)
        for waiting, future in list(self.questions.values()):
            if waiting is worker and not future.done():
                future.set_result({"answer": None})
        if not worker.ready:
            self.failed_starts += 1
            self.next_start = time.monotonic() + min(SLOWEST_START, 0.5 * 2**self.failed_starts)
        if worker.video:
            self._decide(worker.video, how)

    def _decide(self, name: str, how: str, counted: bool = True) -> None:
        """The worker of a video is dead: the files may be there already, it may have been cancelled, else it waits
        again. ``counted``: whether the video may be at fault."""

        def change() -> None:
            video, there = self.queue.get(name), self.folder.facts_of(name)
            assert video is not None, "it was given to a worker"
            if there is not None:
                self.queue.end(name, "completed", result=there[0], size=there[1])
            elif video.cancelling:
                self.queue.end(name, "cancelled")
            elif counted and video.deaths + 1 >= self.limits.deaths:
                most = self.limits.deaths
                why = (
                    f"{most} workers died of it, the last one: {how}"
                    if most > 1
                    else f"its worker died: {how}"
                )
                self.queue.end(name, "failed", error={"code": "worker_died", "message": why})
            else:
                self.queue.put_back(name, "deaths" if counted else "")
            self._clear(name)

        self.changes.append(change)

    def _cancel(self) -> None:
        """Tell workers whose videos were cancelled; a worker that does not listen in time is killed."""
        if not any(each.video for each in self.workers):
            return
        cancelled = {each.id for each in self.queue.running() if each.cancelling}
        for worker in [each for each in self.workers if each.video in cancelled]:
            if worker.cancelled_at is None:
                worker.cancelled_at = time.monotonic()
                worker.send({"cancel": worker.video})
            elif time.monotonic() - worker.cancelled_at > self.limits.cancel_seconds:
                self._kill(worker, "it did not stop when its video was cancelled")

    def _hand_out(self) -> None:
        if self.stopping.is_set() or self.paused:
            return
        for worker in [each for each in self.workers if each.ready and not each.video]:
            video = self.queue.take()
            if video is None:
                return
            worker.video, worker.heard = video.id, time.monotonic()
            self.board.begin(video.id)
            try:
                files = file_options(video.request, video.owner, self.queue, self.folder, queued=True)
            except InputError as error:
                self._end(worker, "failed", error={"code": "cannot_be_made", "message": str(error)})
                continue
            worker.send({"make": {"id": video.id, "request": video.request, "files": files}})

    def _look(self) -> None:
        """Time limits, the disk, and deleted videos whose time to be brought back is over."""
        now = time.monotonic()
        for worker in self.workers:
            if worker.video and now - worker.heard > self.limits.stall_seconds:
                self._kill(worker, f"nothing was heard of it for {self.limits.stall_seconds:g} s")
        used, free = self.queue.bytes_used(), self.folder.free_bytes()
        if used >= self.limits.disk_bytes:
            self.paused = f"videos and uploads take {used / 1e9:.3g} GB, the quota; delete some"
        elif free < self.limits.free_bytes:
            self.paused = f"only {free / 1e9:.3g} GB of the disk are free; free some space"
        else:
            self.paused = ""
        for name in self.queue.to_purge(self.queue.clock() - self.limits.undo_seconds):
            if self.queue.purge(name):
                discard(self.folder.video(name))
        if self.tidy is not None and now - self._tidied > 60:
            self._tidied = now
            self.tidy()

    def _kill(self, worker: WorkerProcess, why: str) -> None:
        worker.end = worker.end or why
        with suppress(OSError):
            worker.process.kill()


def _kill(worker: WorkerProcess) -> None:
    """End a worker, whatever it is at, and wait for it."""
    with suppress(OSError):
        worker.process.kill()
    worker.process.wait()
    for pipe in (worker.process.stdin, worker.process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


def _how(process: subprocess.Popen[bytes]) -> str:
    """How a process ended, for people."""
    try:
        ended = process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        return "it closed its answers"
    if ended == -9:
        return "killed (SIGKILL), as the system does where memory runs out"
    return Signals(-ended).name if ended < 0 else f"exit code {ended}"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _import_path() -> str:
    """Where this package lies, first: a worker must run the code its server runs."""
    here = str(Path(__file__).resolve().parents[2])
    rest = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join([here, rest]) if rest else here
