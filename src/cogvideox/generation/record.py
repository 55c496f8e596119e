"""What a run was and how it went, as typed values; the manifest of a video is their dump."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cogvideox.conditioning import Conditioning
from cogvideox.diffusion import Guider, SamplerStep, Windows
from cogvideox.errors import MediaError
from cogvideox.generation.control_net_entry import ControlNetEntry
from cogvideox.generation.fast_paths import Engine
from cogvideox.generation.frame_plan import FramePlan
from cogvideox.generation.given import Given, read_keyframe
from cogvideox.generation.options import GenerateOptions
from cogvideox.generation.plan import Plan
from cogvideox.generation.prompt_enhance import Enhanced
from cogvideox.generation.sampling import guidance_of, stg_layers
from cogvideox.generation.windows import noise_of
from cogvideox.manifest import manifest
from cogvideox.memory import MemoryPlan
from cogvideox.model import CogVideoX
from cogvideox.video import Video, probe


@dataclass(frozen=True)
class TextRecord:
    """Tokens of a prompt, the model's budget for them, and the text that was cut off.

    ``device``: where it was read, if not where the video was made; ``source`` is "text cache" where it was not read.
    """

    tokens: int
    budget: int
    cut: str = ""
    device: str = ""
    source: str = ""

    def to_dict(self) -> dict[str, Any]:
        """These facts for the manifest; those that are empty stand there not."""
        return {name: value for name, value in asdict(self).items() if value != ""}


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """How one video was made.

    ``provenance`` is the part that every record of this package has (``manifest.manifest``): settings, hashes of
    inputs, versions. ``model`` holds its configs, weights' digests and adapters. ``times`` and ``guidance`` have one
    value for each denoising step, ``stages`` the seconds of text, encode, denoise and decode. ``guider`` is None
    where guidance is off; ``stg_layers`` are the blocks that its third branch left out. ``memory`` and
    ``enhanced`` are set where a memory policy was chosen or the prompt written out, ``batch`` is the hash of a batch's
    line; ``control_nets`` are the facts about each ControlNet; ``recommended`` names, of options that nobody gave, the
    preset or adapter that asks for them. ``windows``: how a long video was divided, and ``window_noise`` the noise they
    began from.
    """

    options: GenerateOptions
    provenance: Mapping[str, Any]
    model: Mapping[str, Any]
    way: str
    height: int
    width: int
    fps: float
    frames: FramePlan
    condition: Mapping[str, Any]
    text: Mapping[str, TextRecord]
    times: Sequence[int]
    guidance: Sequence[float]
    engine: Engine
    seconds: float
    stages: Mapping[str, float]
    peak_memory_bytes: Mapping[str, int]
    noise: str
    guider: Guider | None = None
    stg_layers: Sequence[int] = ()
    memory: MemoryPlan | None = None
    enhanced: Enhanced | None = None
    batch: str = ""
    recommended: Mapping[str, str] = field(default_factory=dict)
    control_nets: Sequence[Mapping[str, Any]] = ()
    windows: Windows | None = None
    window_noise: str = ""

    @property
    def seed(self) -> int | None:
        """The seed, drawn where none was given; None with a generator of the caller's."""
        return self.options.seed

    def manifest(self) -> dict[str, Any]:
        """JSON-ready: what stands beside the video and in it."""
        run: dict[str, Any] = {
            "way": self.way,
            "height": self.height,
            "width": self.width,
            "fps": self.fps,
            "frames": self.frames.to_dict(),
            "condition": dict(self.condition),
            "text": {name: text.to_dict() for name, text in self.text.items()},
            "times": list(self.times),
            "guidance": list(self.guidance),
            "precision_between_steps": self.options.latents,
            "engine": self.engine.to_dict(),
            "seconds": self.seconds,
            "stages": dict(self.stages),
            "peak_memory_bytes": dict(self.peak_memory_bytes),
            "noise": self.noise,
        }
        if self.guider is not None and self.guider != Guider(guidance=self.guider.guidance):
            run["guider"] = self._guider_facts(self.guider)
        if self.memory is not None:
            run["memory"] = self.memory.record()
        if self.control_nets:
            run["control_nets"] = [dict(each) for each in self.control_nets]
        if self.enhanced is not None:
            run["enhance"] = asdict(self.enhanced)
        if self.windows is not None:
            run["windows"] = {
                **asdict(self.windows),
                "count": len(self.windows.at(0)),
                "noise": self.window_noise,
            }
        if self.recommended:
            run["recommended"] = dict(self.recommended)
        batch = {"batch": self.batch} if self.batch else {}
        return {**self.provenance, "model": dict(self.model), "run": run, **batch}

    def _guider_facts(self, guider: Guider) -> dict[str, Any]:
        """What is not plain guidance, and how many answers the network gave."""
        facts = guider.model_dump(mode="json", exclude={"guidance"})
        if guider.stg:
            facts["stg_layers"] = list(self.stg_layers)
        return facts | {"branches": list(guider.branches), "evaluations": guider.evaluations(len(self.times))}


@dataclass(frozen=True)
class Generation:
    """A video, whose manifest is the dump of the record beside it."""

    video: Video
    record: RunRecord

    @classmethod
    def of(cls, video: Video, record: RunRecord) -> Generation:
        """The video with the manifest of this record."""
        return cls(replace(video, manifest=record.manifest()), record)

    def noted(self, **facts: Any) -> Generation:
        """The same with further fields of the record."""
        return Generation.of(self.video, replace(self.record, **facts))


def record_of(
    model: CogVideoX,
    plan: Plan,
    given: Given,
    condition: Conditioning,
    path: Sequence[SamplerStep],
    **run: Any,
) -> RunRecord:
    """The record of a run; ``run`` are the fields that were measured."""
    guider = guidance_of(plan.options)
    return RunRecord(
        options=plan.options,
        provenance=_provenance(plan.options, given),
        model=_model_facts(model),
        way=condition.way,
        height=plan.height,
        width=plan.width,
        fps=plan.fps,
        frames=plan.frames,
        condition=condition.facts,
        times=[step.t for step in path],
        guidance=[round(guider.scale_at(step), 6) for step in path],
        guider=guider if len(guider.branches) > 1 else None,
        stg_layers=stg_layers(model.spec, plan.options) if guider.stg else (),
        windows=plan.windows,
        window_noise=noise_of(model.spec, plan.options) if plan.windows is not None else "",
        **run,
    )


def joined_record(records: Sequence[RunRecord], plan: Plan, given: Given) -> RunRecord:
    """The record of a video that was made in segments: that of the first one, with what belongs to the whole."""
    first = records[0]
    names = dict.fromkeys(name for each in records for name in each.peak_memory_bytes)
    return replace(
        first,
        options=plan.options,
        provenance=_provenance(plan.options, given),
        frames=plan.frames,
        text={f"{name} {n + 1}": text for n, each in enumerate(records) for name, text in each.text.items()},
        seconds=round(sum(each.seconds for each in records), 3),
        stages={name: round(sum(each.stages[name] for each in records), 4) for name in first.stages},
        peak_memory_bytes={
            name: max(each.peak_memory_bytes.get(name, 0) for each in records) for name in names
        },
        windows=plan.windows,
    )


def _provenance(options: GenerateOptions, given: Given) -> dict[str, Any]:
    """Of input files only names and hashes are kept: folders tell about people."""
    paths = {name: Path(file) for name in FILES if (file := getattr(options, name)) is not None}
    settings = options.model_dump(mode="json") | {name: file.name for name, file in paths.items()}
    keyframes = dict(read_keyframe(text) for text in options.keyframe)
    settings["keyframe"] = [f"{number}={Path(file).name}" for number, file in keyframes.items()]
    paths |= {f"keyframe {number}": Path(file) for number, file in keyframes.items()}
    settings["control_net"] = [_named(each) for each in options.control_nets]
    paths |= {
        f"control_net {Path(each.path).name}": Path(each.video) for each in options.control_nets if each.video
    }
    inputs: dict[str, Any] = {name: file for name, file in paths.items() if file.exists()}
    if given.shape is not None:
        inputs["given_size"] = list(given.shape)
    if "video" in inputs:
        with suppress(MediaError):  # it was read before; that it is gone since must not cost the result
            inputs["given_colours"] = str(probe(inputs["video"]).colours)
    return manifest("generate", settings, inputs, options.seed)


def _named(entry: ControlNetEntry) -> str:
    """A ControlNet as it is typed, without the folders."""
    video = f"={Path(entry.video).name}" if entry.video is not None else ""
    return f"{Path(entry.path).name}:{entry.strength:g}@{entry.start:g}-{entry.stop:g}{video}"


def _model_facts(model: CogVideoX) -> dict[str, Any]:
    return {
        "name": model.spec.name,
        "kind": model.spec.kind,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "transformer": model.transformer.config.model_dump(mode="json"),
        "vae": model.vae.config.model_dump(mode="json"),
        "schedule": model.schedule.config.model_dump(mode="json"),
        "weights": model.weights,
        "adapters": model.adapters,
    }


FILES = ("image", "last_image", "video", "mask", "remove", "first_pass", "flow", "control", "reuse_table")
"""Options that are paths of files."""
