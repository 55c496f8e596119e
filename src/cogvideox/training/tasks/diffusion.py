"""Training the expert transformer: v-prediction with a zero-terminal-SNR schedule, on latents encoded once.

Clips come from the tiny world or from a folder, in batches, packed sequences or buckets. Text is dropped with
probability 0.1 so that guidance has an unconditional branch, and timesteps are stratified (explicit uniform
sampling). What a kind of model reads besides (a first frame, a masked clip, a control video) is added as extra
channels, and dropped sometimes: see ``diffusion_conditions``. All weights move, or an adapter's.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from cogvideox.checkpoints.adapter_reading import find_adapter
from cogvideox.checkpoints.diffusers import load_schedule, load_vae
from cogvideox.checkpoints.shipped import is_shipped
from cogvideox.checkpoints.specs import find_spec
from cogvideox.checkpoints.text import load_text
from cogvideox.data.latents import digest_of
from cogvideox.data.pack import Row
from cogvideox.device import check_device
from cogvideox.diffusion import Schedule
from cogvideox.diffusion.timesteps import explicit_uniform, uniform
from cogvideox.errors import CheckpointError, ConfigError
from cogvideox.files.digest import sha256_of
from cogvideox.parallel.sequence import split_sequence
from cogvideox.parallel.shard import shard
from cogvideox.training.memory import FlopCounter
from cogvideox.training.task import Task
from cogvideox.training.tasks.base_model import completed
from cogvideox.training.tasks.diffusion_batches import (
    DiffusionSample,
    HeldOut,
    Measurement,
    fix_kernel,
    velocity_errors,
)
from cogvideox.training.tasks.diffusion_data import DiffusionData
from cogvideox.training.tasks.diffusion_export import TrainedModel
from cogvideox.training.tasks.diffusion_network import (
    attention_fn,
    model_folders,
    prepare_network,
    starting_network,
    wrap_blocks,
    write_adapter,
)
from cogvideox.training.tasks.diffusion_scenes import CellReader, ObjectErrors, SceneCells, block_output
from cogvideox.training.tasks.diffusion_settings import DiffusionSettings
from cogvideox.transformer import Transformer
from cogvideox.transformer.kernels import Fastest
from cogvideox.video import Video
from cogvideox.world.cells import cell_fact_names


class DiffusionTraining(DiffusionSettings):
    """Latents and captions -> velocity."""

    def completed(self, *, fetch: bool = False) -> DiffusionTraining:
        return completed(self, fetch)

    def check(self, *, out: Path, precision: str) -> None:
        super().check(out=out, precision=precision)
        self.check_start()

    def check_start(self) -> None:
        """Warn of a start that takes few steps, which plain training does not keep."""
        times: tuple[int, ...] = ()
        with suppress(CheckpointError):
            times = find_spec(self.start).times if self.start is not None else ()
        if times:
            warnings.warn(
                f"task.start {self.start}: was distilled to {len(times)} steps, which clips do not teach; start "
                "from its teacher, and distil the result",
                stacklevel=2,
            )

    def build(self, seed: int, steps: int | None = None) -> DiffusionTask:
        """The task; encodes the clips that ``steps`` need (None: all) when the cache does not hold them. Raises
        ConfigError for a device that is not here."""
        check_device(self.compute_device)
        return DiffusionTask(self, seed, steps)


class DiffusionTask(Task):
    """One step of the transformer; see the module's docstring."""

    config: DiffusionTraining
    module: Transformer

    def __init__(self, config: DiffusionTraining, seed: int, steps: int | None = None) -> None:
        # all folders before any is read: a wrong name must not be reported after minutes of work
        folders = model_folders(config)
        config = config.completed()  # now that downloads are there
        self.config, self.seed = config, seed
        self.targets_until = (
            0.0 if config.scene_targets is None else config.scene_targets.until * (steps or 0)
        )
        self.start = folders.get("start")
        self.vae = load_vae(folders["vae"], dtype="float32").eval().requires_grad_(False)
        self.vae.to(config.compute_device)
        self.text = load_text(folders["text"], dtype="float32")
        if config.schedule is None:
            assert self.start is not None, "checked when the settings were made"
            self.schedule = load_schedule(self.start)
        else:
            self.schedule = Schedule(config.schedule)
        self.frozen = {
            "vae": digest_of(self.vae.encoder, self.vae.config),
            "text": digest_of(self.text.model),
        }
        self.attn_fn = attention_fn(config)
        self.module = self._network()
        micro_steps = None if steps is None else steps * config.accumulation
        self.data, self.work = self._data(micro_steps), FlopCounter(self.module.config)
        self.measured = self._measured()
        self.measure_batches = sum(len(each.batches) for each in self.measured)
        self.measure_width = max((each.width for each in self.measured), default=0)
        self._add_scenes()
        self.sample_videos = min(config.samples, len(self.data.held_out.clips))

    def losses(self, micro_step: int) -> dict[str, Tensor]:
        """The velocity's squared error; each clip of a step weighs the same, whatever micro-step it is in."""
        clips, samples = self.data.of_micro_step(micro_step)
        batch = self.data.train.training(clips, samples)
        if isinstance(self.attn_fn, Fastest) and self.attn_fn.fixed is None:
            fix_kernel(self.attn_fn, self.module, batch)
        mean_clips = len(self.data.global_batch(micro_step)) / self.config.accumulation
        tokens = float(self.data.token_count(clips)) * self.config.accumulation
        errors, others = self._clip_errors(clips, batch, self.times(micro_step, samples), micro_step)
        report = {name: values.sum() / mean_clips for name, values in others.items()}
        loss = errors.sum() / mean_clips
        if self.config.scene_targets is not None and "cells" in report:
            loss = loss + self.config.scene_targets.weight * report["cells"]
        return {
            "loss": loss,
            **report,
            "tokens": torch.tensor(tokens),
            "clips": torch.tensor(mean_clips * self.config.accumulation),
        }

    def _clip_errors(
        self, clips: Row, batch: Sequence[DiffusionSample], times: Tensor, micro_step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The velocity's error of each clip, and that of what its cells are said to show, while that is taught."""
        weights = self.scenes.weights(clips, self.config.object_weight) if self.config.object_weight else None
        step = micro_step // self.config.accumulation
        if self.config.scene_targets is None or step >= self.targets_until:
            return velocity_errors(self.module, self.schedule, batch, times, weights), {}
        with block_output(self.module, self.config.scene_targets.block) as outputs:
            errors = velocity_errors(self.module, self.schedule, batch, times, weights)
        tokens = outputs[0][:, len(batch[0].text) :]
        truth = torch.stack([self.scenes.of(clip) for clip in clips]).to(tokens.device)
        assert isinstance(self.critic, CellReader)
        return errors, {"cells": self.critic.errors(tokens, truth, self.module.config.patch)}

    def times(self, micro_step: int, samples: range) -> Tensor:
        """Timesteps of a micro-step; without ``intervals`` all samples of a step cover the times together."""
        total, shift = self.schedule.config.num_train_timesteps, self.config.time_shift
        if self.config.uniform == "plain":
            return uniform(samples, self.seed, total, shift)
        if self.config.intervals is not None:
            return explicit_uniform(samples, self.seed, self.config.intervals, total, shift)
        step = self.data.global_batch(micro_step)
        begin = samples.start - step.start
        return explicit_uniform(step, self.seed, None, total, shift)[begin : begin + len(samples)]

    def sample_names(self, micro_step: int) -> list[str]:
        return self.data.names(micro_step)

    def data_facts(self) -> dict[str, Any] | None:
        """What a state keeps of the clips of both sides and of the frozen networks."""
        return self.data.fingerprint(self.frozen)

    def measure_batch(self, module: nn.Module, index: int) -> tuple[float, ...]:
        """What one batch of one of the measurements gives, filled up with zeros."""
        for each in self.measured:
            if index < len(each.batches):
                values = tuple(each.measure(module, index))
                return values + (0.0,) * (self.measure_width - len(values))
            index -= len(each.batches)
        raise IndexError(index)

    def combine(self, measured: Sequence[Sequence[float]]) -> dict[str, float]:
        figures: dict[str, float] = {}
        for each in self.measured:
            own, measured = measured[: len(each.batches)], measured[len(each.batches) :]
            figures |= each.figures([values[: each.width] for values in own])
        return figures

    def sample_video(self, module: nn.Module, index: int) -> Video:
        """A video of held-out caption ``index`` (and the condition of its clip), as ``module`` makes it now."""
        clips, conditions = self.data.held_out.clips, self.data.held_out.conditions
        return self._model().sample(
            module,
            clips.caption(index, 0),
            seed=index,
            steps=self.config.sample_steps,
            given=conditions.given(index) if conditions is not None else {},
        )

    def shard(self, mesh: DeviceMesh) -> None:
        """Sequences over ``context``, weights sharded over shard and context, copies along data."""
        if self.config.lora is not None and self.config.lora.base in ("int8", "fp8"):
            raise ConfigError(
                f"lora.base {self.config.lora.base}: weights of one byte do not lie in parts; use bfloat16 or mesh.data"
            )
        if mesh["context"].size() > 1:
            split_sequence(self.module, mesh["context"].get_group())
        shard(self.module, self.module.transformer_blocks, mesh)

    def unsharded(self, weights: Mapping[str, Tensor]) -> nn.Module:
        module = self._network()
        module.load_state_dict(weights)
        return module

    def flops(self, step: int) -> float:
        frozen = self.config.lora is not None
        return sum(self.work.flops(self.data.sample_sizes(clips), frozen) for clips in self._batches(step))

    def activation_bytes(self) -> float:
        longest = max(self._batches(0), key=self.data.token_count)
        return self.work.activations(self.data.sample_sizes(longest), bool(self.config.recompute))

    def export(self, module: nn.Module, folder: Path) -> None:
        """A whole model folder with the VAE, text encoder and schedule it was trained with; an adapter alone, in
        diffusers' form."""
        if self.config.lora is not None:
            write_adapter(module, folder)
        else:
            self._model().write(module, folder)

    def describe(self) -> str:
        step, batches = self.data.global_batch(0), self._batches(0)
        tokens = sum(self.data.token_count(clips) for clips in batches)
        return f"{len(self.data.train.clips)} clips, effective batch {len(step)} clips, {tokens:,} tokens a step, "

    def lineage(self) -> dict[str, Any]:
        """Digests of the networks it was made with, and the folder it started from, or the name of a shipped model."""
        lineage = {"vae": digest_of(self.vae), "text": digest_of(self.text.model)}
        lineage |= {name: self.frozen[name] for name in ("lora.start",) if name in self.frozen}
        if self.start is None:
            return lineage
        under = {"start_weights": self.frozen["start"]} if "start" in self.frozen else {}
        start = self.start.name if is_shipped(self.start) else self.start.as_posix()
        return lineage | {"start": start} | under

    def _data(self, micro_steps: int | None) -> DiffusionData:
        return DiffusionData(
            self.config, self.vae, self.text, self.module.config, seed=self.seed, micro_steps=micro_steps
        )

    def _measured(self) -> list[Measurement]:
        """What is measured on held-out clips."""
        measured: list[Measurement] = [HeldOut(self.data.held_out, self.schedule)]
        if self.config.object_weight:
            measured.append(ObjectErrors(self.data.by_story(), self.schedule))
        return measured

    def _add_scenes(self) -> None:
        """What known scenes add; see ``diffusion_scenes``. Raises ConfigError for a block that is not there."""
        config = self.config
        if config.object_weight or config.scene_targets is not None:
            self.scenes = SceneCells(self.data.train.clips)
        if config.scene_targets is not None:
            network, block = self.module.config, config.scene_targets.block
            if block >= network.num_layers:
                raise ConfigError(
                    f"task.scene_targets.block {block}: the network has blocks 0 to {network.num_layers - 1}"
                )
            self.critic = CellReader(network.width, len(cell_fact_names(config.scene_style))).to(
                config.compute_device
            )

    def _batches(self, step: int) -> list[Row]:
        """The clips of each micro-step of a step."""
        return [self.data.of_micro_step(each)[0] for each in self.data.micro_steps(step)]

    def _network(self) -> Transformer:
        network, lora = starting_network(self.config, self.start, self.seed), self.config.lora
        if lora is not None:
            self.frozen["start"] = digest_of(network)
            if lora.start is not None:
                self.frozen["lora.start"] = sha256_of(find_adapter(Path(lora.start)))
        prepare_network(network, self.config, self.attn_fn, self.seed)
        self._beside(network)
        wrap_blocks(network, self.config)
        return network

    def _beside(self, network: Transformer) -> None:
        """For tasks that keep other networks of the same weights: called before the blocks are wrapped."""

    def _model(self) -> TrainedModel:
        return TrainedModel(
            vae=self.vae,
            text=self.text,
            schedule=self.schedule,
            native=self.data.native_size(),
            kind=self.data.kind,
            start=self.start,
            preset=self.config.preset,
        )
