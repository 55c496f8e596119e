"""Training the expert transformer: v-prediction with a zero-terminal-SNR schedule, on latents encoded once.

Clips come from the tiny world or from a folder, in batches, packed rows or buckets. Text is dropped with
probability 0.1 so that guidance has an unconditional branch, and timesteps are stratified (explicit uniform
sampling). Image-to-video adds the first frame, with log-normal pixel noise, as extra channels, and drops it
sometimes. All weights move, or an adapter's.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from cogvideox.checkpoints.adapter import find_adapter
from cogvideox.checkpoints.diffusers import load_transformer, load_vae
from cogvideox.checkpoints.hub import find_folder
from cogvideox.data.clips import FolderClips, WorldClips
from cogvideox.data.latents import EncodedClips, digest_of, embedded, encoded
from cogvideox.data.pack import Row
from cogvideox.data.stream import rows_of
from cogvideox.device import check_device
from cogvideox.diffusion import Schedule, ScheduleConfig
from cogvideox.diffusion.timesteps import explicit_uniform, uniform
from cogvideox.errors import ConfigError
from cogvideox.files.digest import sha256_of
from cogvideox.model import CogVideoX
from cogvideox.parallel.sequence import split_sequence
from cogvideox.parallel.shard import compile_blocks, recompute, shard
from cogvideox.presets import PRESETS
from cogvideox.text import TextEncoder
from cogvideox.training.flops import FlopCounter, Sample
from cogvideox.training.init_from import load_config, model_folders, widen
from cogvideox.training.task import MayChange, Task, TaskConfig
from cogvideox.training.tasks.base_model import WORLD_TEXT, WORLD_VAE, completed, without_effect
from cogvideox.training.tasks.diffusion_batches import DiffusionBatcher, Texts, velocity_errors
from cogvideox.training.tasks.enough import drawn_in, enough
from cogvideox.training.tasks.folder import FolderData, check_folder, check_lost, facts_of, listed, split
from cogvideox.training.tasks.held_out import HeldOut
from cogvideox.training.tasks.lora import LoraTuning, put_on, write_lora
from cogvideox.transformer import Transformer, TransformerConfig
from cogvideox.transformer.initialise import initialise
from cogvideox.transformer.kernels import use_kernel
from cogvideox.video import Video

MEASURED = 64  # held-out clips at most


class DiffusionTraining(TaskConfig):
    """Latents and captions -> velocity."""

    kind: Literal["diffusion"] = "diffusion"
    preset: str | None = Field(
        None, description="preset of the model folder that is written; default: that of start"
    )
    transformer: TransformerConfig | None = Field(None, description="the network; null: that of start")
    schedule: ScheduleConfig | None = Field(None, description="noise levels; null: those of start")
    start: str | None = Field(
        None, description="model to start from: a preset, folder or hub id; new input channels start at zero"
    )
    vae: str | None = Field(
        None, description=f"model or folder that holds vae/; null: start, without one {WORLD_VAE}"
    )
    text: str | None = Field(
        None,
        description=f"model or folder that holds text_encoder/ and tokenizer/; null: start, without one {WORLD_TEXT}",
    )
    lora: LoraTuning | None = Field(None, description="train an adapter on a frozen start; null: all weights")
    cache: Annotated[str, MayChange] = Field("runs/latents", description="where encoded clips are kept")
    data: FolderData | None = Field(None, description="a folder of clips; null: the tiny world")
    clips: int = Field(12000, gt=0, description="clips of the world, encoded once and drawn from")
    stories: dict[str, float] | None = Field(
        None, description="shares of the world's stories among the clips; null: those of its test"
    )
    clips_seed: int | None = Field(
        None, ge=0, description="decides which clips of the world; null: as the run's seed"
    )
    size: int = Field(64, gt=0, description="height and width of a clip of the world")
    frames: int = Field(17, gt=0, description="frames of a clip of the world")
    batch: int = Field(32, gt=0, description="clips of a row (world, and rows: batch)")
    text_dropout: float = Field(0.1, ge=0, le=1, description="share of clips without their caption")
    image_dropout: float = Field(
        0.05, ge=0, le=1, description="share of clips without their image (the paper's appendix)"
    )
    uniform: Literal["explicit", "plain"] = Field("explicit", description="how timesteps are drawn")
    intervals: int | None = Field(
        None,
        gt=0,
        description="virtual ranks: so many samples one after the other cover all times evenly; null: those of a step",
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
        for name, value in (
            ("transformer", self.transformer),
            ("schedule", self.schedule),
            ("lora", not self.lora),
        ):
            if not value and self.start is None:
                raise ConfigError(
                    f"start null, {name} {'set' if name == 'lora' else 'null'}: give a model to start from"
                )
        fields = type(self).model_fields
        self.refuse_without_effect(
            name for name, field in fields.items() if getattr(self, name) != field.default
        )
        return self

    def without_effect(self) -> dict[str, str]:
        """Settings that change nothing as the others stand: name -> why, and what to set instead."""
        return without_effect(self)

    def completed(self, *, fetch: bool = False) -> DiffusionTraining:
        """With everything filled in that the model to start from decides; ``fetch``: download it where needed."""
        return completed(self, fetch)

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
        """The folder of clips; None: the tiny world."""
        return self.data.folder if self.data is not None else None

    @property
    def compute_device(self) -> str:
        """The device that computes."""
        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")

    def build(self, seed: int, steps: int | None = None) -> DiffusionTask:
        """The task; encodes the clips that ``steps`` need (None: all) when the cache does not hold them.

        Raises ConfigError for a device that is not here.
        """
        check_device(self.compute_device)
        return DiffusionTask(self, seed, steps)


class DiffusionTask(Task):
    """See the module's docstring."""

    config: DiffusionTraining
    module: Transformer

    def __init__(self, config: DiffusionTraining, seed: int, steps: int | None = None) -> None:
        from cogvideox.checkpoints.diffusers import load_schedule
        from cogvideox.checkpoints.text import load_text

        # all folders before any is read: a wrong name must not be told after minutes of work
        found = model_folders(config)
        config = config.completed()  # now that downloads are there
        self.config, self.seed, self.accumulation = config, seed, config.accumulation
        vae, text, self.start = found["vae"], found["text"], found.get("start")
        self.vae = load_vae(vae, dtype="float32").eval().requires_grad_(False).to(config.compute_device)
        self.text = load_text(text, dtype="float32")
        self.schedule = Schedule(config.schedule) if config.schedule else load_schedule(self.start)
        self.frozen = {
            "vae": digest_of(self.vae.encoder, self.vae.config),
            "text": digest_of(self.text.model),
        }
        self.module = self._network()
        self.shape = self.module.config
        self.image = self.shape.in_channels == 2 * self.shape.out_channels
        self.examples, measured = self._data(None if steps is None else steps * config.accumulation)
        self.held_out, self.work = HeldOut(measured, self.schedule), FlopCounter(self.shape)
        self.measure_batches, self.measure_width = len(self.held_out.pieces), 2
        self.sample_videos = min(config.samples, len(measured.clips))
        tokens = [self._tokens(one) for one in range(len(self.examples.clips))]
        shapes = [self.examples.clips.shape(one) for one in range(len(tokens))]
        kind, budget = (config.data.rows, config.data.budget) if config.data else ("batch", 0)
        if config.data and kind != "batch" and max(tokens) > budget:
            most = tokens.index(max(tokens))
            raise ConfigError(
                f"task.data.budget {budget}: {self.examples.clips.name(most)} alone has {max(tokens)} tokens; "
                "raise the budget to that or more, or lower frames or sides of task.data.size"
            )
        self.rows = rows_of(kind, shapes, tokens, batch=config.batch, budget=budget, seed=seed)
        self.rows.first_sample(0)  # plans the first epoch: what fits no row is said now

    def losses(self, micro_step: int) -> dict[str, Tensor]:
        """The velocity's squared error, each clip of the step weighing the same whatever row it stands in."""
        row, samples = self._row(micro_step)
        found = self.examples.training(row, samples)
        errors = velocity_errors(self.module, self.schedule, found, self._times(micro_step, samples))
        whole = len(self._samples_of_step(micro_step)) / self.accumulation
        tokens = float(sum(self._tokens(one) for one in row)) * self.accumulation
        return {
            "loss": errors.sum() / whole,
            "tokens": torch.tensor(tokens),
            "clips": torch.tensor(whole * self.accumulation),
        }

    def sample_names(self, micro_step: int) -> list[str]:
        """The names of the clips of one row."""
        return [self.examples.clips.name(one) for one in self.rows[micro_step]]

    def data_facts(self) -> dict[str, Any] | None:
        """What a state keeps: what the clips of both sides are, in the order they are used, and the frozen networks."""
        sides = (self.examples.clips, self.held_out.examples.clips)
        words = self.config.data is not None  # those of the tiny world follow from its clips
        train, test = (
            [[key, s.caption(n, 0) if words else ""] for n, key in enumerate(s.keys)] for s in sides
        )
        return facts_of(train, test, self.frozen)

    def measure_batch(self, module: nn.Module, index: int) -> tuple[float, float]:
        """Velocity error of some held-out clips in one of five bands of timesteps: (sum of errors, clips)."""
        return self.held_out.measure(module, index)

    def combine(self, measured: Sequence[Sequence[float]]) -> dict[str, float]:
        """The mean velocity error in each band and over all, from the numbers of all batches."""
        return self.held_out.figures(measured)

    def sample_video(self, module: nn.Module, index: int) -> Video:
        """A video of held-out caption ``index`` (and its first frame), as ``module`` makes it now."""
        from cogvideox.generation import GenerateOptions, generate

        clips = self.held_out.examples.clips
        words, steps = clips.caption(index, 0), self.config.sample_steps
        image = clips.first(index).numpy() if self.image else None
        options = GenerateOptions(prompt=words, seed=index, steps=steps, attention="torch")
        return generate(self._model(self._parts(module)), options, image=image)

    def shard(self, mesh: DeviceMesh) -> None:
        """Sequences over ``context``, weights in parts over shard and context, copies along data."""
        if self.config.lora is not None and self.config.lora.base in ("int8", "fp8"):
            raise ConfigError(
                f"lora.base {self.config.lora.base}: weights of one byte do not lie in parts; use bfloat16 or mesh.data"
            )
        if mesh["context"].size() > 1:
            split_sequence(self.module, mesh["context"].get_group())
        shard(self.module, self.module.transformer_blocks, mesh)

    def unsharded(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """A network in one piece with these weights."""
        module = self._network()
        module.load_state_dict(weights)
        return module

    def flops(self, step: int) -> float:
        """Of all rows of a step."""
        rows = (self._row(micro_step)[0] for micro_step in self._step_of(step * self.accumulation))
        return sum(self.work.flops(self._samples(row), self.config.lora is not None) for row in rows)

    def activation_bytes(self) -> float:
        """Of the longest row of the first step."""
        rows = [self._row(micro_step)[0] for micro_step in self._step_of(0)]
        longest = max(rows, key=lambda row: sum(map(self._tokens, row)))
        return self.work.activations(self._samples(longest), bool(self.config.recompute))

    def export(self, module: nn.Module, folder: Path) -> None:
        """A whole model folder: this transformer with the VAE, text encoder and schedule it was trained with.

        Stored and computed in as the model it was started from; a new one in float16 and float32. An adapter is
        written alone, in diffusers' form.
        """
        if self.config.lora is not None:
            write_lora(module, folder)
            return
        from cogvideox.checkpoints import save_model
        from cogvideox.checkpoints.record import read_record
        from cogvideox.checkpoints.specs import stored_dtype

        stored, computed = torch.float16, "float32"
        if self.start is not None:
            stored, computed = stored_dtype(self.start), read_record(self.start).dtype
        parts = {name: copy.deepcopy(part).to(stored).cpu() for name, part in self._parts(module).items()}
        save_model(self._model(parts), folder, overwrite=True, dtype=computed)

    def _model(self, parts: Mapping[str, nn.Module]) -> CogVideoX:
        """The whole model that these parts make."""
        from cogvideox.checkpoints.record import read_record

        frames, height, width, fps = self._made()
        start = read_record(find_folder(self.config.start)).preset if self.config.start else ""
        name = self.config.preset or start
        return CogVideoX.assemble(
            transformer=parts["transformer"],
            vae=parts["vae"],
            text=TextEncoder(parts["text"], self.text.tokenizer, self.text.max_tokens),
            schedule=self.schedule,
            kind="i2v" if self.image else "t2v",
            name=name,
            height=height,
            width=width,
            frames=frames,
            fps=fps,
            guidance=PRESETS[name].guidance if name in PRESETS else None,
        )

    def describe(self) -> str:
        """What a step reads."""
        rows = [self._row(micro_step)[0] for micro_step in self._step_of(0)]
        clips, tokens = sum(map(len, rows)), sum(self._tokens(one) for row in rows for one in row)
        return f"{len(self.examples.clips)} clips, effective batch {clips} clips, {tokens:,} tokens a step, "

    def lineage(self) -> dict[str, Any]:
        """Digests of the networks it was made with, and the folders' names."""
        made = {"vae": digest_of(self.vae), "text": digest_of(self.text.model)}
        begun = {"lora.start": self.frozen["lora.start"]} if "lora.start" in self.frozen else {}
        return made | begun | ({"start": self.start.as_posix()} if self.start else {})

    def _row(self, micro_step: int) -> tuple[Row, range]:
        row, first = self.rows[micro_step], self.rows.first_sample(micro_step)
        return row, range(first, first + len(row))

    def _samples(self, row: Row) -> list[Sample]:
        return [(self.examples.clips.shape(one), self.text.max_tokens) for one in row]

    def _step_of(self, micro_step: int) -> range:
        first = micro_step // self.accumulation * self.accumulation
        return range(first, first + self.accumulation)

    def _samples_of_step(self, micro_step: int) -> range:
        """The numbers in the run of a global batch's samples."""
        rows = self._step_of(micro_step)
        first = self.rows.first_sample(rows.start)
        return range(first, first + sum(len(self.rows[row]) for row in rows))

    def _tokens(self, clip: int) -> int:
        _, t, h, w = self.examples.clips.shape(clip)
        pt, ph, pw = self.shape.patch
        return self.text.max_tokens + -(-t // pt) * (h // ph) * (w // pw)

    def _times(self, micro_step: int, samples: range) -> Tensor:
        """Of one row; without ``intervals`` all rows of its step, the global batch, cover the times together."""
        total = self.schedule.config.num_train_timesteps
        if self.config.uniform == "plain":
            return uniform(samples, self.seed, total)
        if self.config.intervals is not None:
            return explicit_uniform(samples, self.seed, self.config.intervals, total)
        whole = self._samples_of_step(micro_step)
        begin = samples.start - whole.start
        return explicit_uniform(whole, self.seed, None, total)[begin : begin + len(samples)]

    def _network(self) -> Transformer:
        config = self.config
        if self.start is not None and config.transformer in (None, load_config(self.start)):
            module = load_transformer(self.start, dtype="float32")
        else:
            module = initialise(Transformer(config.transformer), self.seed)
            if self.start is not None:
                widen(module, self.start)
        if config.lora is not None:
            self.frozen["start"] = digest_of(module)
            if config.lora.start is not None:
                self.frozen["lora.start"] = sha256_of(find_adapter(Path(config.lora.start)))
            put_on(module, config.lora, self.seed)
        module.to(config.compute_device)
        use_kernel(
            module, config.kernel or ("torch-float32" if config.compute_device == "cpu" else "fastest")
        )
        if config.recompute:
            recompute(module.transformer_blocks)
        if config.compile:
            compile_blocks(module.transformer_blocks)
        return module

    def _data(self, rows: int | None) -> tuple[DiffusionBatcher, DiffusionBatcher]:
        """Samples to train on, as many as ``rows`` need, and to measure with."""
        config = self.config
        if config.data is None:
            seed = self.seed if config.clips_seed is None else config.clips_seed
            sources = (
                WorldClips(seed, split, count, config.size, config.frames, shares)
                for split, count, shares in (
                    ("train", config.clips, config.stories),
                    ("held_out", MEASURED, None),
                )
            )
            drawn = drawn_in(rows, config.clips, config.batch, self.seed)
            clips = [
                encoded(each, self.vae, config.cache, each.split, drawn if each.split == "train" else None)
                for each in sources
            ]
            return self._examples(clips[0], self._encode), self._examples(clips[1], self._encode)
        listing = listed(config.data)
        total = len(listing.entries) + len(listing.dropped)
        check_lost(config.data, listing.dropped, total)  # before the work of encoding
        train, test = split(config.data, listing)
        test.entries = test.entries[:MEASURED]
        train = enough(train, config, self.shape, self.text.max_tokens, rows, self.seed)
        memory = Path(config.cache) / "digests.json"
        size = config.data.size.resolved(None)
        parts = [FolderClips(each, size, memory, config.data.colour) for each in (train, test)]
        clips = [encoded(part, self.vae, config.cache, "clips") for part in parts]
        check_lost(config.data, clips[0].dropped | clips[1].dropped, total, len(listing.dropped))
        captions = ["", *(entry.caption for entry in (*train.entries, *test.entries))]
        weights = f"{digest_of(self.text.model)}/{self.text.max_tokens}"
        kept = embedded(captions, self._encode, weights, config.cache)

        def texts(prompts: Sequence[str]) -> list[Tensor]:
            return [kept(prompt) for prompt in prompts]

        return self._examples(clips[0], texts), self._examples(clips[1], texts)

    def _examples(self, clips: EncodedClips, texts: Texts) -> DiffusionBatcher:
        return DiffusionBatcher(
            clips,
            texts,
            self.vae,
            self.seed,
            patch_t=self.shape.patch[0],
            image=self.image,
            text_dropout=self.config.text_dropout,
            image_dropout=self.config.image_dropout,
        )

    def _encode(self, prompts: Sequence[str]) -> Tensor:
        return self.text.encode(list(prompts)).values

    def _parts(self, module: nn.Module) -> dict[str, nn.Module]:
        return {"transformer": module, "vae": self.vae, "text": self.text.model}

    def _made(self) -> tuple[int, int, int, float]:
        """(frames, height, width, fps) of what the model makes by default: the longest clips it has seen."""
        if self.config.data is None:
            return self.config.frames, self.config.size, self.config.size, 8
        clips, ratio = self.examples.clips, self.vae.config.spatial_compression_ratio
        _, t, h, w = max(clips.shape(one) for one in range(len(clips)))
        return self.vae.config.pixel_frames(t), ratio * h, ratio * w, self.config.data.size.resolved(None).fps
