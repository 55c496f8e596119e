"""The nodes. Each is a schema and a few calls of the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import folder_paths
import torch
from comfy.cli_args import args
from comfy_api.latest import io

from cogvideox.checkpoints.specs import read_spec
from cogvideox.errors import ConfigError
from cogvideox.files import parse_json
from cogvideox.generation.job import Job
from cogvideox.generation.pipeline import decode, sample
from cogvideox.generation.preflight import DTYPES, check_adapters, model_folder
from cogvideox.memory import RESIDENCES
from cogvideox.memory.weights import Storage
from cogvideox.text import check_prompt
from cogvideox.video import Video

from .steps import StepBar
from .values import (
    ChosenModel,
    Conditions,
    ConditionsType,
    Latents,
    LatentsType,
    ModelType,
    TextType,
    VideoType,
    device_of_comfyui,
    found_in,
    frames_of,
    free_device,
    images_of,
    mask_of,
    picture_of,
    stamp_of,
)

CATEGORY = "cogvideox"
OWN = "auto"
"""The choice that leaves a setting to the model."""
SEEDS = 2**64 - 1


class LoadModel(io.ComfyNode):
    """Chooses a model and how it is kept in memory; the weights are read when a video has been planned."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return io.Schema(
            node_id="OpenCogVideoXLoadModel",
            display_name="CogVideoX: load model",
            category=CATEGORY,
            description="Any checkpoint that cogvideox reads. Weights are loaded when a video has been planned.",
            inputs=[
                io.String.Input(
                    "model",
                    default="tiny",
                    tooltip="A folder (also one in models/diffusers), a name on the hub, or a preset such as 5b; "
                    "tiny, tiny-base and tiny-i2v come with the package",
                ),
                io.Combo.Input(
                    "memory",
                    options=[OWN, *RESIDENCES],
                    default=OWN,
                    tooltip="Where weights wait: auto plans it for each video",
                ),
                io.Combo.Input(
                    "dtype", options=[OWN, *dict.fromkeys(DTYPES.values())], default=OWN, advanced=True
                ),
                io.Combo.Input(
                    "storage",
                    options=[OWN, *get_args(Storage)],
                    default=OWN,
                    advanced=True,
                    tooltip="Weights in fewer bits (needs torchao)",
                ),
                io.String.Input(
                    "memory_limit", default="", advanced=True, tooltip="Such as 12GB; empty: what is free"
                ),
                io.String.Input(
                    "tiny_vae",
                    default="",
                    advanced=True,
                    tooltip="A tiny autoencoder for sharp previews (also a file in models/vae_approx)",
                ),
            ],
            outputs=[ModelType.Output(display_name="model")],
        )

    @classmethod
    def fingerprint_inputs(cls, model: str, tiny_vae: str = "", **more: Any) -> float:
        """Changes when the files of the model do."""
        return max(stamp_of(found_in("diffusers", model)), stamp_of(found_in("vae_approx", tiny_vae)))

    @classmethod
    def execute(
        cls,
        model: str,
        memory: str,
        dtype: str = OWN,
        storage: str = OWN,
        memory_limit: str = "",
        tiny_vae: str = "",
    ) -> io.NodeOutput:
        """The choice, after the model's settings were read. Raises CheckpointError, ConfigError."""
        job = Job(
            model=found_in("diffusers", model),
            device=device_of_comfyui(),
            memory=memory,
            memory_limit=memory_limit.strip() or None,
            dtype=None if dtype == OWN else dtype,
            storage=storage,
            tiny_vae=found_in("vae_approx", tiny_vae) if tiny_vae.strip() else None,
        )
        read_spec(model_folder(job.model))
        return io.NodeOutput(ChosenModel.of(job))


class Adapter(io.ComfyNode):
    """Puts a LoRA on a model; several stand one behind the other."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return io.Schema(
            node_id="OpenCogVideoXAdapter",
            display_name="CogVideoX: adapter",
            category=CATEGORY,
            description="A LoRA of any trainer that cogvideox reads.",
            inputs=[
                ModelType.Input("model"),
                io.String.Input(
                    "adapter", tooltip="A file or folder (also one in models/loras), or a name on the hub"
                ),
                io.Float.Input("strength", default=1.0, min=-10.0, max=10.0, step=0.05),
            ],
            outputs=[ModelType.Output(display_name="model")],
        )

    @classmethod
    def fingerprint_inputs(cls, adapter: str, **more: Any) -> float:
        """Changes when the file of the adapter does."""
        return stamp_of(found_in("loras", adapter))

    @classmethod
    def execute(cls, model: ChosenModel, adapter: str, strength: float) -> io.NodeOutput:
        """The model with the adapter, after its shapes were compared. Raises CheckpointError."""
        chosen = model.with_adapter(found_in("loras", adapter), strength)
        check_adapters(chosen.job.adapters, chosen.job.alpha, read_spec(model_folder(chosen.job.model)))
        return io.NodeOutput(chosen)


class Text(io.ComfyNode):
    """What the video shows, and what guidance leads away from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return io.Schema(
            node_id="OpenCogVideoXText",
            display_name="CogVideoX: text",
            category=CATEGORY,
            inputs=[
                io.String.Input("prompt", multiline=True, default="a red circle moves to the right"),
                io.String.Input("negative_prompt", multiline=True, default=""),
            ],
            outputs=[TextType.Output(display_name="text")],
        )

    @classmethod
    def execute(cls, prompt: str, negative_prompt: str) -> io.NodeOutput:
        """Both texts as options. Raises PromptError for what is no text."""
        check_prompt(prompt)
        check_prompt(negative_prompt, "negative prompt")
        return io.NodeOutput({"prompt": prompt, "negative_prompt": negative_prompt})


class Condition(io.ComfyNode):
    """Pictures, a video, masks and a control video; what the model does not take is refused when it is planned."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return io.Schema(
            node_id="OpenCogVideoXConditions",
            display_name="CogVideoX: conditions",
            category=CATEGORY,
            description="What the video is made from besides its text. Connect what the model takes.",
            inputs=[
                io.Image.Input("image", optional=True, tooltip="The first frame"),
                io.Image.Input("last_image", optional=True, tooltip="The last frame"),
                io.Image.Input(
                    "video", optional=True, tooltip="Frames to change, to fill (mask) or to carry on from"
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="Where the video is made anew: one for all, or each"
                ),
                io.Mask.Input(
                    "remove", optional=True, tooltip="What is removed from the video (models that remove)"
                ),
                io.Image.Input(
                    "control", optional=True, tooltip="Poses, edges or depth (control models, ControlNets)"
                ),
                io.Float.Input(
                    "fps", default=8.0, min=0.01, max=240.0, step=1.0, tooltip="Rate of what is given"
                ),
                io.Combo.Input("video_use", options=["change", "continue"], default="change"),
                io.Float.Input(
                    "strength",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How much of the video is remade; 0: 0.8, with a mask 1",
                ),
                io.Combo.Input("fit", options=["cover", "contain", "stretch"], default="cover"),
            ],
            outputs=[ConditionsType.Output(display_name="conditions")],
        )

    @classmethod
    def execute(
        cls,
        fps: float,
        video_use: str,
        strength: float,
        fit: str,
        image: torch.Tensor | None = None,
        last_image: torch.Tensor | None = None,
        video: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        remove: torch.Tensor | None = None,
        control: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        """All that is connected, as the package takes it. Raises InputError."""
        brought: dict[str, Any] = {}
        for name, picture in (("image", image), ("last_image", last_image)):
            if picture is not None:
                brought[name] = picture_of(name, picture)
        for name, images in (("video", video), ("control", control)):
            if images is not None:
                brought[name] = Video(frames_of(images), fps)
        for name, where in (("mask", mask), ("remove", remove)):
            if where is not None:
                brought[name] = mask_of(where)
        options: dict[str, Any] = {"video_use": video_use, "fit": fit}
        return io.NodeOutput(Conditions(brought, options | ({"strength": strength} if strength else {})))


class Sample(io.ComfyNode):
    """Plans the video, loads the model as planned, and makes its latents, with a bar and a picture at every step."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        own = "0: the model's own"
        return io.Schema(
            node_id="OpenCogVideoXSample",
            display_name="CogVideoX: sample",
            category=CATEGORY,
            description="Makes the latents of a video. What cannot be made is refused before weights are loaded.",
            inputs=[
                ModelType.Input("model"),
                TextType.Input("text"),
                ConditionsType.Input("conditions", optional=True),
                io.Int.Input("seed", default=0, min=0, max=SEEDS, control_after_generate=True),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="0: what model and adapters recommend, mostly 50",
                ),
                io.Float.Input(
                    "guidance",
                    default=-1.0,
                    min=-1.0,
                    max=100.0,
                    step=0.5,
                    tooltip="-1: the model's own, mostly 6",
                ),
                io.Int.Input("width", default=0, min=0, max=8192, step=16, tooltip=own),
                io.Int.Input("height", default=0, min=0, max=8192, step=16, tooltip=own),
                io.Int.Input("frames", default=0, min=0, max=4096, tooltip=own),
                io.Combo.Input("sampler", options=[OWN, "ddim", "dpmpp_2m", "dpmpp_sde"], default=OWN),
                io.Boolean.Input("preview", default=True),
                io.String.Input(
                    "options",
                    default="",
                    multiline=True,
                    optional=True,
                    advanced=True,
                    tooltip='Further options of cogvideox generate as JSON, such as {"cache": "tea:0.2"}',
                ),
            ],
            outputs=[LatentsType.Output(display_name="latents")],
        )

    @classmethod
    def execute(
        cls,
        model: ChosenModel,
        text: dict[str, str],
        preview: bool,
        conditions: Conditions | None = None,
        options: str = "",
        **settings: Any,
    ) -> io.NodeOutput:
        """The latents and their plan. Raises the package's errors."""
        further = parse_json(options, "options") if options.strip() else {}
        if not isinstance(further, dict):
            raise ConfigError(f'options {options[:40]!r}: write a JSON object, such as {{"steps": 20}}')
        device = model.job.target_device
        with torch.inference_mode(
            False
        ):  # ComfyUI's mode makes weights that nothing may change in place later
            free_device(device)
            prepared = model.prepare({**text, **_asked(settings), **further}, conditions or Conditions())
            loaded, plan = model.load(prepared), prepared.plan
            bar = StepBar(plan.steps, plan.frames.padding, loaded.previewer if preview else None)
            sampled = sample(loaded.model, plan, prepared.given, bar)
        return io.NodeOutput(Latents(sampled, prepared, model))


def _asked(settings: dict[str, Any]) -> dict[str, Any]:
    """The widgets whose value is not the one that leaves a setting to the model."""
    own = {"guidance": -1.0, "sampler": OWN, "seed": None}
    return {name: value for name, value in settings.items() if value != own.get(name, 0)}


class Decode(io.ComfyNode):
    """Latents to pixels."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return io.Schema(
            node_id="OpenCogVideoXDecode",
            display_name="CogVideoX: decode",
            category=CATEGORY,
            inputs=[LatentsType.Input("latents")],
            outputs=[
                VideoType.Output(display_name="video", tooltip="With the record of how it was made"),
                io.Image.Output(display_name="images"),
                io.Float.Output(display_name="fps"),
            ],
        )

    @classmethod
    def execute(cls, latents: Latents) -> io.NodeOutput:
        """The video with its record, and its frames for other nodes."""
        with torch.inference_mode(False):
            loaded = latents.model.load(latents.prepared)
            generation = latents.prepared.noted(decode(loaded.model, latents.sampled, StepBar(1)))
        video = generation.video
        return io.NodeOutput(video, images_of(video.frames), video.fps)


class Save(io.ComfyNode):
    """Writes a video with the record of how it was made, and ComfyUI's workflow, in its tags."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return io.Schema(
            node_id="OpenCogVideoXSave",
            display_name="CogVideoX: save",
            category=CATEGORY,
            description="Drop the file on ComfyUI for its workflow, on the studio's page for its settings.",
            inputs=[
                VideoType.Input("video"),
                io.String.Input("filename_prefix", default="cogvideox/video"),
                io.Combo.Input("format", options=["mp4", "mkv", "gif", "png"], default="mp4"),
                io.Boolean.Input(
                    "record", default=True, tooltip="Prompt and settings in the tags and beside it"
                ),
            ],
            outputs=[],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, video: Video, filename_prefix: str, format: str, record: bool) -> io.NodeOutput:
        """Nothing but the file, which ComfyUI shows. Raises OutputError."""
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory(), video.width, video.height
        )
        record = record and not args.disable_metadata
        path = Path(folder) / f"{name}_{counter:05}_.{format}"
        video.save(
            path, metadata=record, tags=cls._workflow() if record and format in ("mp4", "mkv") else None
        )
        shown = {"filename": path.name, "subfolder": subfolder, "type": "output"}
        return io.NodeOutput(ui={"images": [shown], "animated": (format != "png",)})

    @classmethod
    def _workflow(cls) -> dict[str, str]:
        """ComfyUI's own tags, which it reads back from a file."""
        found = {**(cls.hidden.extra_pnginfo or {}), "prompt": cls.hidden.prompt}
        return {name: json.dumps(value) for name, value in found.items() if value is not None}


NODES = (LoadModel, Adapter, Text, Condition, Sample, Decode, Save)
