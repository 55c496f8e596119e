"""Settings of training the transformer, and the refusal of those that would change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator

from cogvideox.checkpoints.lora import TARGETS
from cogvideox.config import Config
from cogvideox.data.masks import Mask, check_shares
from cogvideox.diffusion import ScheduleConfig
from cogvideox.errors import ConfigError
from cogvideox.training.task import MayChange, TaskConfig
from cogvideox.training.tasks.folder import FolderData, check_folder
from cogvideox.training.tasks.sizes import SizeSetting
from cogvideox.transformer import TransformerConfig
from cogvideox.world import GUIDES

WORLD_VAE, WORLD_TEXT = "runs/world-vae/model", "runs/world-text/model"
"""Where the recipes that train a VAE and a text encoder for the tiny world leave them."""
SHIPPED_MODELS = {"start": "tiny-base", "vae": "tiny", "text": "tiny"}
"""Setting -> the shipped model to take in place of one that is not trained yet."""


TrainedKind = Literal["t2v", "i2v", "i2v-every-frame", "inpaint", "control"]
"""Kinds of model that are trained; the other, removal, needs every clip twice, with and without what goes."""
MASKS_PER_CLIP = 4

OF_THE_WORLD = {
    "frames": "task.data.size.frames",
    "size": "task.data.size.short_side, or .height and .width",
    "clips": "task.data.best, or fewer files in the folder",
    "scene_mix": "task.data.folder",
    "scene_style": "task.data.folder",
    "clips_seed": "seed",
    "object_weight": "task.data.folder",
    "scene_targets": "task.data.folder",
}
"""Settings of the tiny world's clips -> what does the same for a folder."""
OF_KINDS: dict[str, TrainedKind] = {"masks": "inpaint", "masks_per_clip": "inpaint", "control": "control"}
"""Settings that one kind of model has alone."""


class LoraTuning(Config):
    """An adapter on a frozen model."""

    rank: int = Field(64, gt=0, description="rank; the authors recommend 64 or more")
    alpha: float | None = Field(None, gt=0, description="scale is alpha / rank; null: alpha = rank")
    targets: tuple[str, ...] = Field(TARGETS, min_length=1, description="endings of the layers' names")
    start: str | None = Field(None, description="adapter to go on from, with its layers and ranks; null: new")
    base: Literal["float32", "bfloat16", "int8", "fp8"] | None = Field(
        None,
        description="how the frozen weights are stored; int8 and fp8 need torchao; null: bfloat16 for a billion "
        "weights or more, else float32",
    )


class SceneTargets(Config):
    """An auxiliary loss: the tokens of one block say what their cells show (the tiny world, whose scenes are known)."""

    block: int = Field(3, ge=0, description="the block, counted from 0, whose output is read")
    weight: float = Field(0.2, gt=0, description="weight of its loss beside the velocity's")
    until: float = Field(
        0.67, gt=0, le=1, description="share of the steps, the first ones, in which it takes part"
    )


class DiffusionSettings(TaskConfig):
    """Latents and captions -> velocity."""

    renamed_settings: ClassVar[dict[str, str]] = {
        "parts": "accumulation",
        "stories": "scene_mix",
        "image_dropout": "condition_dropout",
    }

    kind: Literal["diffusion"] = Field("diffusion", description="the task: train the transformer")
    preset: str | None = Field(None, description="preset of the folder that is written; null: that of start")
    transformer: TransformerConfig | None = Field(None, description="the network; null: that of start")
    schedule: ScheduleConfig | None = Field(None, description="noise levels; null: those of start")
    start: str | None = Field(None, description="model to start from: a preset, a folder or a hub id")
    vae: str | None = Field(None, description=f"model or folder with vae/; null: start, else {WORLD_VAE}")
    text: str | None = Field(
        None,
        description=f"model or folder with text_encoder/ and tokenizer/; null: start, else {WORLD_TEXT}",
    )
    lora: LoraTuning | None = Field(None, description="train an adapter on a frozen start; null: all weights")
    cache: Annotated[str, MayChange] = Field("runs/latents", description="folder of encoded clips and texts")
    data: FolderData | None = Field(None, description="a folder of clips; null: the tiny world")
    clips: int = Field(12000, gt=0, description="clips of the tiny world, encoded once and drawn from")
    scene_mix: dict[str, float] | None = Field(
        None, description="share of each kind of scene among the world's clips; null: that of its test"
    )
    scene_style: Literal["plain", "rich"] = Field(
        "plain", description="style of the tiny world: rich has more shapes and stories, on patterned ground"
    )
    clips_seed: int | None = Field(None, ge=0, description="seed of the world's clips; null: the run's seed")
    object_weight: float = Field(
        0.0,
        ge=0,
        description="what a latent that an object covers counts more than one of the ground, whose weight is 1 (tiny "
        "world); errors on objects are then measured story by story",
    )
    scene_targets: SceneTargets | None = Field(
        None, description="teach a middle block what each cell shows (tiny world); null: the velocity alone"
    )
    size: int = Field(64, gt=0, description="height and width of a clip of the tiny world, in pixels")
    frames: int = Field(17, gt=0, description="frames of a clip of the tiny world")
    batch: int = Field(32, gt=0, description="clips of a micro-step (tiny world, and batching: batch)")
    text_dropout: float = Field(0.1, ge=0, le=1, description="share of clips without their caption")
    model_kind: TrainedKind | None = Field(
        None,
        description="what the model makes a video from besides a prompt: t2v (nothing), i2v, i2v-every-frame, inpaint "
        "or control; a text-to-video start is widened to it; null: as start",
    )
    masks: dict[Mask, float] | None = Field(
        None,
        description="inpaint: share of each way to hide some of a clip: box, moving-box, silhouette (tiny world), "
        "outside (all but a box), and whole frames, all but: first, last, ends, beginning, keyframes; null: a mixture",
    )
    masks_per_clip: int | None = Field(
        None, gt=0, description="inpaint: different masks of a clip, each encoded once; null: 4"
    )
    control: str | None = Field(
        None,
        description="control: what the control video shows: canny (edges), path or silhouette (tiny world), or a "
        "folder of control videos of the clips' names",
    )
    condition_dropout: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of clips without their image (appendix), or without another condition",
    )
    uniform: Literal["explicit", "plain"] = Field(
        "explicit",
        description="how timesteps are drawn: stratified over a step (section 2.4), or independent",
    )
    intervals: int | None = Field(
        None,
        gt=0,
        description="virtual ranks: so many samples one after the other cover all times, as time_shift spreads "
        "them; null: those of a step",
    )
    time_shift: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="above 1 training times lean towards noise: with 3 half of them are above 3/4 of all; 1: evenly",
    )
    kernel: Annotated[str | None, MayChange] = Field(
        None,
        description="attention kernel; null: the fastest right one on a GPU, torch-float32 on a CPU, where it saves a "
        "quarter of a bf16 step",
    )
    recompute: Annotated[bool | None, MayChange] = Field(
        None,
        description="activation checkpointing of the blocks: a third more work, less memory; null: for a billion "
        "weights or more",
    )
    compile: Annotated[bool, MayChange] = Field(False, description="compile the blocks with torch.compile")
    device: Annotated[str | None, MayChange] = Field(
        None, description="where the network is: cpu, cuda; null: cuda where there is one, else cpu"
    )
    samples: Annotated[int, MayChange] = Field(4, ge=0, description="sample videos, of held-out prompts")
    sample_steps: Annotated[int, MayChange] = Field(25, gt=0, description="denoising steps of a sample video")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.start is None:
            for name, given in (("transformer", self.transformer), ("schedule", self.schedule)):
                if not given:
                    raise ConfigError(f"start null, {name} null: give a model to start from")
            if self.lora:
                raise ConfigError("start null, lora set: give a model to start from")
        self._check_conditions()
        fields = type(self).model_fields
        self.refuse_without_effect(
            name for name, field in fields.items() if getattr(self, name) != field.default
        )
        return self

    def _check_conditions(self) -> None:
        """Raise ConfigError for shares of masks that are none, and for what only the tiny world tells of a clip."""
        if self.masks is not None:
            check_shares(self.masks)
        if self.data is not None and (self.masks or {}).get("silhouette"):
            raise ConfigError(
                "masks silhouette: nobody says where the things of a folder's clips are; take moving-box instead"
            )
        if self.data is not None and self.control in GUIDES:
            raise ConfigError(
                f"control {self.control}: the tiny world alone tells it; take canny, or a folder of control videos"
            )
        if self.control is not None and self.data is None and self.control not in ("canny", *GUIDES):
            raise ConfigError(
                f"control {self.control!r}: for the tiny world one of canny, {', '.join(GUIDES)}; control videos of a "
                "folder go with task.data.folder"
            )

    def without_effect(self) -> dict[str, str]:
        reasons = {
            name: f"has no effect with task.model_kind={self.model_kind}; set task.model_kind={kind}"
            for name, kind in OF_KINDS.items()
            if self.model_kind not in (None, kind)
        }
        return reasons | (self._without_effect_on(self.data) if self.data is not None else {})

    def _without_effect_on(self, data: FolderData) -> dict[str, str]:
        """Settings without effect where a folder of clips is read."""
        size, lora = data.size, self.lora
        reasons = {
            name: f"speaks of the tiny world and has no effect for {data.folder or 'a folder'}; set {instead}"
            for name, instead in OF_THE_WORLD.items()
        }
        if data.batching != "batch":
            reasons["batch"] = (
                f"has no effect with task.data.batching={data.batching}; set task.data.budget (tokens of a micro-step) "
                "and task.accumulation (micro-steps of a step), or task.data.batching=batch"
            )
        else:
            reasons["data.budget"] = (
                "has no effect with task.data.batching=batch; set task.batch (clips of a micro-step)"
            )
        if data.videos is None:
            reasons["data.recipe"] = (
                "says how raw videos are curated, and there are none; set task.data.videos"
            )
        if isinstance(size, SizeSetting) and size.height is not None:
            why = "has no effect beside task.data.size.height and .width; set those to null to use it"
            reasons |= {"data.size.short_side": why, "data.size.longest": why}
        if lora is not None and lora.start is not None:
            why = "the layers and ranks of task.lora.start are kept; leave it out, or begin a fresh adapter"
            reasons |= {"lora.rank": why, "lora.targets": why}
        return reasons

    def check(self, *, out: Path, precision: str) -> None:
        """Raise ConfigError when the folder of clips is not named or holds ``out``, and for frozen weights in half
        precision under arithmetic in float32."""
        if precision == "fp32" and self.lora is not None and self.lora.base == "bfloat16":
            raise ConfigError(
                "precision fp32: the frozen weights are bfloat16; set precision=bf16, or task.lora.base=float32"
            )
        check_folder(self.data, out)

    @property
    def data_folder(self) -> str | None:
        return self.data.folder if self.data is not None else None

    @property
    def compute_device(self) -> str:
        """The device that the network is trained on: ``device``, or the default of this machine."""
        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")
