"""A worker process: makes one video after the other, models stay loaded; ``python -m cogvideox.studio.worker``.

Lines of JSON come in: the settings, then ``{"make": {...}}``, ``{"cancel": ID}``, and the questions ``{"plan": {...}}``
and ``{"enhance": {...}}``, which have numbers; lines of JSON go out. A video is written into a folder that gets its
name when all of it is on disk. The worker dies with its server.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from cogvideox.checkpoints.specs import read_spec
from cogvideox.errors import CogVideoXError, OutputError, describe
from cogvideox.files import parse_json
from cogvideox.files.atomic import atomic_file, atomic_folder, write_json
from cogvideox.generation.given import TAKES
from cogvideox.generation.job import Job, Prepared, load, make, parse_options, prepare, settled
from cogvideox.generation.plan import Plan
from cogvideox.generation.preflight import check_adapters, model_folder
from cogvideox.generation.prompt_enhance import AskedEnhancer, Enhance, RuleEnhancer
from cogvideox.generation.prompt_times import texts_of, with_texts
from cogvideox.generation.record import Generation
from cogvideox.generation.turn import Progress
from cogvideox.generation.video_files import SavedVideo, save
from cogvideox.model import CogVideoX
from cogvideox.progress import SILENT, Report, Reporter, StageClock
from cogvideox.spec import ModelSpec
from cogvideox.strength import Strength
from cogvideox.studio.folder import FACTS, StudioFolder
from cogvideox.studio.loaded_models import LoadedModel, LoadedModels
from cogvideox.studio.provenance import check_signing, sign
from cogvideox.studio.public_text import PublicText, model_names
from cogvideox.studio.request import check_planned
from cogvideox.studio.variants import write_variants
from cogvideox.studio.worker_settings import WorkerSettings
from cogvideox.text import Tokenizer
from cogvideox.text.tokenizer import END
from cogvideox.video.saving import label, write_gif

PARENT_DEATH = 1  # PR_SET_PDEATHSIG of Linux
PREVIEWS = 8  # pictures of a video while it is made, at most
ROOM_LOOKS = 2.0  # seconds between two tries to write a video to a full disk
FULL_DISK = "wait for room on the disk"
OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError")


class CancelledError(Exception):
    """Raised inside a run whose video was cancelled."""


class StudioWorker:
    """Makes and plans videos. ``send`` takes plain values for the server; ``cancelled`` holds ids that it named."""

    def __init__(self, settings: WorkerSettings, send: Callable[[Mapping[str, Any]], None]) -> None:
        self.settings, self.send, self.folder = settings, send, StudioFolder(Path(settings.root))
        self.reporter: Reporter = _Stages(self)
        self.names = model_names(settings.models)
        self.models = LoadedModels(self._job({}).target_device, self._load)
        self.cancelled: set[str] = set()
        self.current, self.previews = "", 0
        self.expected: dict[str, float] = {}
        self.clock = StageClock()
        self.writers: dict[str, AskedEnhancer | RuleEnhancer] = {}
        self.tokenizers: dict[Path, Tokenizer] = {}
        self.public = PublicText({**self.names, **settings.adapters})

    def facts(self) -> dict[str, Any]:
        """What the server is told when the worker is ready: its models, and how many devices of its kind there are."""
        device = self.models.device
        count = torch.cuda.device_count() if device == "cuda" else 1
        models = {name: facts_of(read_spec(model_folder(given))) for name, given in self.names.items()}
        return {"models": models, "device": device, "devices": count, "process": os.getpid()}

    def _job(self, request: Mapping[str, Any]) -> Job:
        own, scales, model = self.settings, request.get("adapters", {}), request.get("model", "")
        return Job(
            model=self.names.get(model, model),
            adapters=tuple((own.adapters[name], Strength.of(each)) for name, each in scales.items()),
            alpha=own.lora_alpha,
            device=own.device,
            dtype=own.dtype,
            memory=own.memory,
            memory_limit=own.memory_limit,
            storage=own.storage,
            products=own.products,
            tiny_vae=own.tiny_vae,
            text_device=own.text_device,
            text_cache=own.text_cache,
            overwrite=True,
        )

    def _load(self, job: Job, prepared: Prepared) -> CogVideoX:
        return load(job, prepared.folder, policy=prepared.policy, reporter=self.reporter)

    def _prepared(self, message: Mapping[str, Any], reporter: Reporter, download: bool) -> Prepared:
        """The request with what is recommended for it, checked and planned. Raises our errors."""
        request = message["request"]
        job, settings = settled(self._job(request), {**request["settings"], **message["files"]})
        limit = self.models.limit(self.settings.memory_limit)
        prepared = prepare(
            job, parse_options(settings), download=download, ask=download, limit=limit, reporter=reporter
        )
        check_planned(prepared.plan, self.settings.limits)
        if not download:
            check_adapters(job.adapters, job.alpha, prepared.spec)
        return prepared

    def plan(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """What a request would need, without loading a weight: size, memory, time. Raises our errors."""
        with _Warnings() as texts:
            prepared = self._prepared(message, SILENT, download=False)
        plan, choice, forecast = prepared.plan, prepared.memory.choice, prepared.forecast
        return {
            "model": self.public(prepared.name),
            "height": plan.height,
            "width": plan.width,
            "frames": plan.frames.asked,
            "fps": plan.fps,
            "seconds": plan.frames.asked / plan.fps,
            "steps": plan.steps,
            "why": plan.frames.why,
            "memory": {
                "bytes": choice.peak if choice else None,
                "limit": prepared.memory.limit,
                "policy": choice.policy.name if choice else None,
                "why": prepared.memory.why,
            },
            "prompt": self._prompt_facts(prepared),
            "estimated_seconds": round(forecast.seconds, 2) if forecast else None,
            "basis": forecast.basis if forecast else None,
            "warnings": [*map(self.public, texts)],
        }

    def _prompt_facts(self, prepared: Prepared) -> dict[str, Any] | None:
        """Tokens of the longest text of a prompt, how many the model reads, and what it leaves out of it; None where
        the model's tokenizer is not in its folder."""
        folder = prepared.folder / "tokenizer"
        if not folder.is_dir():
            return None
        if folder not in self.tokenizers:
            self.tokenizers[folder] = Tokenizer.read(folder)
        tokenizer, most = self.tokenizers[folder], prepared.spec.text_tokens
        texts = texts_of(prepared.plan.options.prompt)
        ids = max(([*tokenizer.encode(text), END] for text in texts), key=len)
        return {"tokens": len(ids), "budget": most, "left_out": tokenizer.beyond(ids, most)}

    def enhance(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A prompt written out for a model. Raises our errors."""
        asked = Enhance(self.settings.enhance, self.settings.enhance_model)
        name = read_spec(model_folder(self.names.get(message["model"], message["model"]))).name
        if name not in self.writers:
            self.writers[name] = asked.writer(name)
        write = self.writers[name]
        return {"prompt": with_texts(message["prompt"], write), "by": write.name}

    def make(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Make one video and write its folder, whole; the facts about it. Raises our errors and CancelledError."""
        self.current, self.clock, self.expected, self.previews = message["id"], StageClock(), {}, 0
        with _Warnings() as texts:
            prepared = self._prepared(message, self.reporter, download=True)
            self.expected = dict(prepared.forecast.stages) if prepared.forecast else {}
            self.clock = StageClock(self.expected)
            loaded = self.models.get(prepared.job, prepared)
            self.check_cancelled()

            def watch(progress: Progress) -> None:
                self._preview(progress, loaded, prepared.plan)

            generation = make(loaded.model, prepared, self.current, self.reporter, then=watch)
            self.report("write", 0, 1)
            facts = self._write_when_there_is_room(generation, prepared)
        return facts | {"warnings": [*map(self.public, texts)]}

    def _write_when_there_is_room(self, generation: Generation, prepared: Prepared) -> dict[str, Any]:
        """Write a video; while the disk is full try again: hours of work are not lost. Raises CancelledError."""
        while True:
            try:
                return self._write(generation, prepared)
            except OutputError as error:
                if not is_full(error):
                    raise
            self.report(FULL_DISK, 0, 1)
            time.sleep(ROOM_LOOKS)

    def _write(self, generation: Generation, prepared: Prepared) -> dict[str, Any]:
        """The video and what is shown of it, in a folder that gets its name when all of it is on disk."""
        certificate, key = self.settings.c2pa_certificate, self.settings.c2pa_key
        with atomic_folder(self.folder.video(self.current)) as folder:
            files = save(generation.video, folder / "video.mp4", prepared.job)
            if certificate is not None and key is not None:
                sign(folder / "video.mp4", Path(certificate), Path(key))
            write_variants(generation.video, folder)
            facts = asdict(SavedVideo.of(generation, files))
            for name in ("path", "previews", "video"):
                del facts[name]
            facts |= {"model": self.public(prepared.name), "memory": prepared.memory.why}
            write_json(folder / FACTS, facts)
        return facts

    # what the server is told meanwhile

    def report(self, stage: str, done: int, total: int) -> None:
        """Tell where the current video is. Raises CancelledError when it was cancelled."""
        self.check_cancelled()
        self.clock.report(stage, done, total)
        percent, left = overall(self.clock, self.expected)
        facts = {"stage": stage, "done": done, "total": total, "percent": percent, "seconds_left": left}
        self.send({"progress": self.current, "facts": facts | {"preview": self.previews}})

    def check_cancelled(self) -> None:
        """Raises CancelledError when the current video was cancelled."""
        if self.current in self.cancelled:
            raise CancelledError(self.current)

    def _preview(self, progress: Progress, loaded: LoadedModel, plan: Plan) -> None:
        """Show the clean estimate of some steps: a moving picture as small as the latents."""
        due = progress.done % max(1, progress.total // PREVIEWS) == 0 and progress.done < progress.total
        if progress.stage != "denoise" or progress.estimate is None or not due:
            return
        frames = loaded.previewer(progress.estimate[:, :, plan.frames.padding :])
        with (
            suppress(OutputError),  # a full disk is no end of a video that is not written yet
            atomic_file(self.folder.preview(self.current), overwrite=True) as temporary,
        ):
            write_gif(temporary, frames, plan.fps * len(frames) / plan.frames.generated, label(), 96)
            self.previews += 1


def facts_of(spec: ModelSpec) -> dict[str, Any]:
    """What a client is told of a model: what it takes, its own size and length, its defaults."""
    return {
        "kind": spec.kind,
        "takes": sorted(TAKES[spec.kind]),
        "needs_image": spec.needs_image,
        "height": spec.height,
        "width": spec.width,
        "pixel_multiple": spec.pixel_multiple,
        "any_size": not spec.transformer.use_learned_positional_embeddings,
        "frames": spec.frames,
        "fps": spec.fps,
        "steps": spec.steps,
        "guidance": spec.guidance,
        "sampler": spec.sampler,
        "text_tokens": spec.text_tokens,
        "licence": spec.licence,
        "about": spec.about,
    }


def is_full(error: BaseException | None) -> bool:
    """Whether an error comes from a disk without room, or from a quota of it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


class _Stages(Reporter):
    """A reporter that tells the server of every stage of the current video."""

    def __init__(self, worker: StudioWorker) -> None:
        self.worker = worker

    def progress(
        self, title: str, expected: Mapping[str, float] | None = None
    ) -> AbstractContextManager[Report]:
        """Yields the worker's own report; see ``Reporter.progress``."""
        return nullcontext(self.worker.report)


def overall(clock: StageClock, expected: Mapping[str, float]) -> tuple[int, float | None]:
    """Percent of the whole run that is done, and seconds left where they are known, by the stage that runs now."""
    if clock.stage not in expected:
        return (99 if clock.stage == "write" else 0), None
    names = list(expected)
    index = names.index(clock.stage)
    before, after = (sum(expected[name] for name in some) for some in (names[:index], names[index + 1 :]))
    within = expected[clock.stage] * min(1.0, clock.done / max(1, clock.total))
    percent = 100 * (before + within) / (sum(expected.values()) or 1.0)
    return min(99, int(percent)), None if clock.left is None else round(clock.left + after, 1)


class _Warnings:
    """Our warnings of this thread as a list of texts; they go to whoever asked, not into a log."""

    _of_thread = threading.local()

    def __enter__(self) -> list[str]:
        texts: list[str] = []
        self._of_thread.texts = texts
        return texts

    def __exit__(self, *what: object) -> None:
        self._of_thread.texts = None

    @classmethod
    def install(cls) -> None:
        """Show warnings through this class from now on."""

        def show(message: Warning | str, *rest: object, **more: object) -> None:
            texts = getattr(cls._of_thread, "texts", None)
            text = " ".join(str(message).split())[:1000]
            if texts is not None and text not in texts:
                texts.append(text)

        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show


def outcome_of(error: Exception, public: Callable[[str], str]) -> dict[str, str]:
    """Code and message of a failed video, for people; ``public`` takes paths of this machine out of the message."""
    kind = type(error).__name__
    if kind in OUT_OF_MEMORY:
        return {"code": "out_of_memory", "message": public(describe(error))}
    if isinstance(error, CogVideoXError):
        return {"code": "cannot_be_made", "message": public(describe(error))}
    return {"code": "internal_error", "message": f"{kind}; the log of the worker says more"}


def main() -> None:
    """Serve requests until the server closes the pipe or dies."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints does not get between our lines
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PARENT_DEATH, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C is for the server, which lets running videos end
        signal.signal(number, signal.SIG_IGN)
    writing = threading.Lock()

    def send(values: Mapping[str, Any]) -> None:
        with writing:
            try:
                answers.write(json.dumps(values) + "\n")
            except OSError:
                os._exit(1)  # nobody listens any more

    settings = WorkerSettings.parse(parse_json(sys.stdin.readline(), "the settings of a worker"))
    _Warnings.install()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    try:
        Enhance(settings.enhance, settings.enhance_model).check()
        if settings.c2pa_certificate is not None and settings.c2pa_key is not None:
            check_signing(Path(settings.c2pa_certificate), Path(settings.c2pa_key))
        worker = StudioWorker(settings, send)
        send({"ready": worker.facts()})
    except CogVideoXError as error:
        send({"stop": describe(error), "kind": type(error).__name__})
        return
    makes: SimpleQueue[dict[str, Any]] = SimpleQueue()
    plans: SimpleQueue[dict[str, Any]] = SimpleQueue()
    threading.Thread(target=_read, args=(worker, makes, plans), daemon=True).start()
    threading.Thread(target=_plan, args=(worker, plans), daemon=True).start()
    plans.put(
        {"number": 0, "request": {"model": settings.models[0], "settings": {"prompt": "-"}}, "files": {}}
    )
    while True:
        _make(worker, makes.get())


def _read(
    worker: StudioWorker, makes: SimpleQueue[dict[str, Any]], plans: SimpleQueue[dict[str, Any]]
) -> None:
    """Hand on what the server says; the end of its lines is the end of this process."""
    for line in sys.stdin:
        message = parse_json(line, "a message of the server")
        if "make" in message:
            worker.cancelled.discard(message["make"]["id"])
            makes.put(message["make"])
        elif "plan" in message:
            plans.put(message["plan"])
        elif "enhance" in message:  # a language model may take long: plans do not wait for it
            answer = partial(worker.enhance, message["enhance"])
            threading.Thread(
                target=_answer, args=(worker, message["enhance"]["number"], answer), daemon=True
            ).start()
        elif "cancel" in message:
            worker.cancelled.add(message["cancel"])
    os._exit(0)


def _plan(worker: StudioWorker, plans: SimpleQueue[dict[str, Any]]) -> None:
    """Answer requests for plans, beside the video that is being made."""
    while True:
        message = plans.get()
        _answer(worker, message["number"], partial(worker.plan, message))


def _answer(worker: StudioWorker, number: int, answer: Callable[[], dict[str, Any]]) -> None:
    """Send what a question of the server is answered with."""
    try:
        worker.send({"answered": number, "answer": answer()})
    except CogVideoXError as error:
        worker.send({"answered": number, "refused": outcome_of(error, worker.public)})
    except Exception as error:  # a plan that cannot be had is no reason to refuse a video
        worker.send({"answered": number, "answer": None, "why": type(error).__name__})


def _make(worker: StudioWorker, message: dict[str, Any]) -> None:
    """Make one video and answer for it; whatever goes wrong is of this video alone."""
    name, began = message["id"], time.monotonic()
    try:
        facts = worker.make(message)
        worker.send({"done": name, "facts": facts | {"total_seconds": round(time.monotonic() - began, 3)}})
        return
    except CancelledError:
        worker.send({"cancelled": name})
        return
    except Exception as error:
        outcome = outcome_of(error, worker.public)
        if outcome["code"] == "internal_error":
            traceback.print_exc()
    if outcome["code"] == "out_of_memory":  # outside the except block: the error holds what the run held
        worker.models.drop_all()
    worker.send({"failed": name, "error": outcome})


if __name__ == "__main__":
    from cogvideox.studio.worker import main as serve  # the classes of the module, not those of __main__

    serve()
