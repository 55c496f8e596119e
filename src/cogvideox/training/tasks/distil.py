"""Step distillation: a student that makes in few steps, without guidance, what its teacher makes in many with it.

| method | the student learns | it reads |
|---|---|---|
| ``guidance`` | the teacher's guided velocity, in one pass instead of two | clips |
| ``progressive`` | one step for two of the teacher's (Salimans and Ho 2022, arXiv 2202.00512) | clips |
| ``tdm`` | to match, on each stretch of its own trajectory, the teacher's distribution (2503.06674) | prompts |

The teacher is the model that the run starts from, frozen. Each method is a run of its own, which starts from the result
of the one before, so that a run has one teacher and resumes as any other does. All weights move, or an adapter's; base
weights under adapters are held once for student, teacher and fake score.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from cogvideox.checkpoints.lora import add_lora, unload_lora
from cogvideox.checkpoints.specs import find_spec, read_spec
from cogvideox.data.latents import digest_of
from cogvideox.device import check_device
from cogvideox.diffusion import Schedule
from cogvideox.diffusion.hops import noised_up, renoised
from cogvideox.errors import CheckpointError, ConfigError
from cogvideox.training.task import MayChange
from cogvideox.training.tasks.diffusion import DiffusionTask, DiffusionTraining
from cogvideox.training.tasks.diffusion_batches import (
    DiffusionBatcher,
    DiffusionSample,
    HeldOut,
    Measurement,
    predict,
)
from cogvideox.training.tasks.diffusion_data import DiffusionData
from cogvideox.training.tasks.diffusion_export import TrainedModel
from cogvideox.training.tasks.distil_compare import Comparison
from cogvideox.training.tasks.distil_matching import Draws, pulled
from cogvideox.training.tasks.distil_methods import (
    LEAST_TIME,
    FoldGuidance,
    Method,
    Progressive,
    TrajectoryMatching,
    check_teacher,
    passes,
)
from cogvideox.training.tasks.distil_prompts import PromptData, PromptFile
from cogvideox.training.tasks.distil_teacher import Levels, Teacher, on_device, shared_copy, two_steps_as_one
from cogvideox.transformer import Transformer

COMPARED_STEPS = 16
"""Steps of the teacher's videos that a student's are compared with, or twice the student's where those are more; a
teacher of few steps takes its own."""


class DistilTraining(DiffusionTraining):
    """Settings: a model that takes many steps -> one that takes few."""

    kind: Literal["distil"] = Field("distil", description="the task: distil a model into fewer steps")  # type: ignore[assignment]
    method: Method = Field(description="how: guidance, progressive or tdm")
    text_dropout: float = Field(0.0, ge=0, le=1, description="share of clips without their caption")
    truth_below: int = Field(
        0,
        ge=0,
        lt=1000,
        description="at times below it the student learns what the clips show, not what the teacher says: detail that "
        "the teacher blurs; 0: nowhere",
    )
    prompts: PromptFile | None = Field(
        None, description="tdm: a file of prompts instead of clips; null: clips"
    )
    compared: Annotated[int, MayChange] = Field(
        2,
        ge=0,
        description="held-out prompts whose videos are compared with the teacher's when it is measured",
    )

    @model_validator(mode="after")
    def _has_a_teacher(self) -> Self:
        if self.start is None:
            raise ConfigError("start null: there is no teacher; name the model that is distilled")
        if self.prompts is not None and self.method.kind != "tdm":
            raise ConfigError(
                f"prompts, method {self.method.kind}: its targets lie on noised clips; set method.kind to tdm, or give "
                "clips (task.data.folder) instead"
            )
        if self.prompts is not None and self.data is not None:
            raise ConfigError("prompts and data: both say what is learned from; leave one of them out")
        return self

    def without_effect(self) -> dict[str, str]:
        why = "a student learns what its teacher says, not what scenes show; leave it out"
        reasons = super().without_effect() | {"scene_targets": why}
        if not self.truth_below:
            reasons["object_weight"] = f"{why}, or set task.truth_below"
        if isinstance(self.method, TrajectoryMatching):
            why = "tdm draws times on the student's own trajectory; leave it out"
            reasons |= dict.fromkeys(("uniform", "intervals", "time_shift", "truth_below"), why)
        if self.prompts is not None:
            why = "speaks of the tiny world's clips, and prompts are read instead; leave it out"
            reasons |= dict.fromkeys(("clips", "scene_mix", "scene_style", "clips_seed"), why)
            reasons |= {"frames": "set task.prompts.frames", "size": "set task.prompts.height and .width"}
        return reasons

    @property
    def has_critic(self) -> bool:
        return self.method.kind == "tdm"

    def times_of(self, teacher: Sequence[int], schedule: Schedule) -> list[int]:
        """The student's times, falling, given those of a teacher of few steps; empty where it knows all."""
        method = self.method
        if isinstance(method, TrajectoryMatching):
            return list(method.times)
        if isinstance(method, FoldGuidance):
            return list(teacher)
        return (list(teacher) or schedule.timesteps(2 * method.steps))[::2]

    def beside_the_student(self) -> dict[str, Any]:
        """What is held and computed beside the student, as fields of ``memory.TrainRequest``."""
        frozen = self.lora is not None
        own = 2 if frozen else 3
        return {
            "copies": 0 if frozen else 1,
            "critics": int(self.method.kind == "tdm"),
            "other_passes": passes(self.method, frozen) - own,
        }

    def check_start(self) -> None:
        """Raise ConfigError for a start that the method does not fit, and for prompts of a size that it cannot make.

        One that is not on this machine yet is not looked at.
        """
        assert self.start is not None, "checked when the settings were made"
        with suppress(CheckpointError):
            teacher = find_spec(self.start)
            check_teacher(self.method, teacher, self.start)
            own = self.times_of(teacher.times, Schedule(teacher.schedule))
            if own and 0 < self.truth_below <= own[-1]:
                raise ConfigError(
                    f"task.truth_below {self.truth_below}: the student's lowest time is {own[-1]}, so it would learn "
                    f"nothing from clips; set more, or 0"
                )
            if self.prompts is not None:
                self.prompts.check_size(teacher)

    def build(self, seed: int, steps: int | None = None) -> DistilTask:
        """As any training of the transformer. Raises ConfigError for a device that is not here."""
        check_device(self.compute_device)
        return DistilTask(self, seed, steps)


class DistilTask(DiffusionTask):
    """One step of distillation; see the module."""

    config: DistilTraining

    def __init__(self, config: DistilTraining, seed: int, steps: int | None = None) -> None:
        super().__init__(config, seed, steps)
        method = self.config.method
        if isinstance(method, TrajectoryMatching):
            self.schedule.config.check_times(method.times)
            self.critic = self._fake_score()

    def losses(self, micro_step: int) -> dict[str, Tensor]:
        """What the method minimises, clip by clip, and for ``tdm`` the fake score's loss beside it."""
        clips, samples = self.data.of_micro_step(micro_step)
        batch = self.data.train.training(clips, samples)
        mean_clips = len(self.data.global_batch(micro_step)) / self.config.accumulation
        if isinstance(self.config.method, TrajectoryMatching):
            student, fake = self._matched(self.config.method, batch, samples)
            report = {"student": student.sum() / mean_clips, "fake": fake.sum() / mean_clips}
            loss = report["student"] + report["fake"]
        else:
            report, times, weight = {}, self.times(micro_step, samples), self.config.object_weight
            weights = self.scenes.weights(clips, weight) if weight else None
            loss = self._errors(self.module, batch, times, weights).sum() / mean_clips
        return {"loss": loss, **report, "clips": torch.tensor(mean_clips * self.config.accumulation)}

    @cached_property
    def teacher(self) -> Teacher:
        """The frozen start, with the guidance of the method."""
        negative = self.data.train.texts([""])[0]
        return Teacher(self._teacher, negative.float(), self.config.method.guidance)

    @cached_property
    def levels(self) -> Levels:
        """Moves between the times of the schedule."""
        return Levels(self.schedule)

    def flops(self, step: int) -> float:
        """The teacher's, the student's and the fake score's passes, and the backward ones."""
        forward = sum(
            self.work.forward(sample)
            for clips in self._batches(step)
            for sample in self.data.sample_sizes(clips)
        )
        return forward * passes(self.config.method, frozen=self.config.lora is not None)

    def _data(self, micro_steps: int | None) -> DiffusionData:
        config = self.config
        if config.prompts is None:
            return super()._data(micro_steps)
        assert self.start is not None, "checked when the settings were made"
        return PromptData(
            config.prompts,
            read_spec(self.start),
            config,
            self.vae,
            self.text,
            self.module.config,
            seed=self.seed,
            micro_steps=micro_steps,
        )

    def _measured(self) -> list[Measurement]:
        """The student's error on held-out clips (of ``tdm`` the velocity's), and its videos beside the teacher's."""
        method, measured = self.config.method, list[Measurement]()
        if self.config.prompts is None:
            own = None if isinstance(method, TrajectoryMatching) else self._errors
            measured.append(StudentHeldOut(self.data.held_out, self.schedule, own))
        if self.config.compared:
            steps = list(self._own_times) or self.schedule.timesteps(COMPARED_STEPS)
            times = self.sampling.get("times", steps)
            taught = self.schedule.timesteps(2 * len(times)) if 2 * len(times) > COMPARED_STEPS else steps
            taught = list(self._own_times) or taught
            measured.append(
                Comparison(
                    self.data.held_out,
                    self.config.compared,
                    self.teacher,
                    self.levels.hops,
                    (times, taught),
                )
            )
        return measured

    @property
    def sampling(self) -> dict[str, Any]:
        """What the result is to be sampled with."""
        method = self.config.method
        if isinstance(method, FoldGuidance):
            return {"guidance": 1.0}
        # the grid of the training's targets: for some counts every other of 2n times is not those of n
        times = self.config.times_of(self._own_times, self.schedule)
        return {"times": tuple(times), "sampler": "ddim", "guidance": 1.0}

    @cached_property
    def _own_times(self) -> tuple[int, ...]:
        """The times of a teacher that takes few steps itself, and knows no others; () of one that takes any."""
        return read_spec(self.start).times if self.start is not None else ()

    def _grid(self, method: Progressive) -> list[int]:
        """The teacher's times, of which every other is the student's."""
        return list(self._own_times) or self.schedule.timesteps(2 * method.steps)

    def export(self, module: nn.Module, folder: Path) -> None:
        """As any transformer; what it is to be sampled with stands in the model's record, or beside an adapter."""
        super().export(module, folder)
        if self.config.lora is not None:
            from cogvideox.generation.recommended import Recommended, write_recommended

            write_recommended(folder, Recommended(scale=1.0, **self.sampling), overwrite=True)

    def _model(self) -> TrainedModel:
        return replace(super()._model(), sampling=self.sampling)

    # guidance and progressive

    def _errors(
        self,
        module: nn.Module,
        batch: Sequence[DiffusionSample],
        times: Tensor,
        weights: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Mean squared error of each clip's velocity against what it should be. ``weights``: what each latent counts
        where the clips teach, of mean 1."""
        device = next(module.parameters()).device
        batch = [sample.to(device) for sample in batch]
        starts = self._starts(times)
        x = self.levels.noised(batch, starts)
        target = self._targets(batch, x, starts)
        velocity = predict(module, batch, x, on_device(x, starts))
        errors = [(v.float() - aim).square() for v, aim in zip(velocity, target, strict=True)]
        for clip, t in enumerate(starts):
            if weights is not None and t < self.config.truth_below:
                errors[clip] = errors[clip] * weights[clip].to(device)
        return torch.stack([error.mean() for error in errors])

    def _starts(self, times: Tensor) -> list[int]:
        """Times as the student knows them: the nearest above of its own, where it has a list."""
        own = self.config.times_of(self._own_times, self.schedule)
        total = self.schedule.config.num_train_timesteps
        return [own[len(own) - 1 - int(t) * len(own) // total] for t in times] if own else times.tolist()

    @torch.no_grad()
    def _targets(
        self, batch: Sequence[DiffusionSample], x: Sequence[Tensor], starts: Sequence[int]
    ) -> list[Tensor]:
        """The velocities that the teacher's answers lead to, and below ``truth_below`` those of the clips."""
        target = self.levels.velocities(batch, starts)
        taught = [clip for clip, t in enumerate(starts) if t >= self.config.truth_below]
        if not taught:
            return target
        asked = (
            [batch[clip] for clip in taught],
            [x[clip] for clip in taught],
            [starts[clip] for clip in taught],
        )
        method = self.config.method
        answers = (
            two_steps_as_one(self.teacher, self.levels, *asked, grid=self._grid(method))
            if isinstance(method, Progressive)
            else self.teacher(*asked)
        )
        for clip, answer in zip(taught, answers, strict=True):
            target[clip] = answer
        return target

    # trajectory distribution matching

    def _matched(
        self, method: TrajectoryMatching, batch: Sequence[DiffusionSample], samples: range
    ) -> tuple[Tensor, Tensor]:
        """The losses of each clip: the student's and the fake score's; neither gives the other a gradient."""
        assert self.critic is not None, "made with the task"
        device = next(self.module.parameters()).device
        batch = [sample.to(device) for sample in batch]
        draw = Draws(self.seed, samples, batch)
        inputs = self._rollout(method, batch, draw)
        with torch.no_grad():
            steps = draw.steps(len(method.times), "fake step")
            x0, _, x, times = self._scored(method, batch, inputs, steps, draw, "fake")
            teacher = self.teacher.unguided(batch, x, times)
        answers = predict(self.critic, batch, x, on_device(x, times))
        truth = [self.levels.velocity_to(one, clean, t) for one, clean, t in zip(x, x0, times, strict=True)]
        fake = torch.stack(
            [
                (v.float() - true).square().mean() + method.keep * (v.float() - known).square().mean()
                for v, true, known in zip(answers, truth, teacher, strict=True)
            ]
        )
        steps = draw.steps(len(method.times), "student step")
        x0, _, x, times = self._scored(method, batch, inputs, steps, draw, "student")
        with torch.no_grad():
            real = self.levels.cleans(x, self.teacher(batch, x, times), times)
            answers = predict(self.critic, batch, x, on_device(x, times))
            false = self.levels.cleans(x, answers, times)
        student = torch.stack([pulled(one, r, f) for one, r, f in zip(x0, real, false, strict=True)])
        return student, fake

    @torch.no_grad()
    def _rollout(
        self, method: TrajectoryMatching, batch: Sequence[DiffusionSample], draw: Draws
    ) -> list[list[Tensor]]:
        """What the student reads at each of its times, from pure noise on."""
        inputs = [[sample.noise.float() for sample in batch]]
        for number, (t, after) in enumerate(zip(method.times, method.times[1:], strict=False)):
            times = [t] * len(batch)
            x0, eps = self._student(batch, inputs[-1], times)
            fresh = draw.noise(f"rollout {number}")
            end = self.levels.of(after)
            inputs.append(
                [renoised(a, b, end, method.eta, noise) for a, b, noise in zip(x0, eps, fresh, strict=True)]
            )
        return inputs

    def _student(
        self, batch: Sequence[DiffusionSample], x: Sequence[Tensor], times: Sequence[int]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The student's clean latents and noise at these times."""
        answers = predict(self.module, batch, x, on_device(x, times))
        return self.levels.cleans(x, answers, times), self.levels.noises(x, answers, times)

    def _scored(
        self,
        method: TrajectoryMatching,
        batch: Sequence[DiffusionSample],
        inputs: Sequence[Sequence[Tensor]],
        steps: Sequence[int],
        draw: Draws,
        purpose: str,
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[int]]:
        """The student's clean latents and noise at a step of each clip, and where scores are compared: latents, times.

        The step is made to its lower edge, and noised up from there to a time drawn above it; no gradient goes through.
        """
        times = [method.times[step] for step in steps]
        x0, eps = self._student(batch, [inputs[step][clip] for clip, step in enumerate(steps)], times)
        edges = [method.times[step + 1] if step + 1 < len(method.times) else 0 for step in steps]
        at = draw.times([max(edge, LEAST_TIME) for edge in edges], method.top, purpose)
        fresh, more = draw.noise(f"{purpose} edge"), draw.noise(f"{purpose} up")
        of, noised = self.levels.of, []
        with torch.no_grad():
            for clip, (edge, t) in enumerate(zip(edges, at, strict=True)):
                low = renoised(x0[clip].detach(), eps[clip].detach(), of(edge), method.eta, fresh[clip])
                noised.append(noised_up(low, of(edge), of(t), more[clip]))
        return x0, eps, noised, at

    def _beside(self, network: Transformer) -> None:
        """The teacher: the start, with its own weights, or those under the student's adapter."""
        if self.config.lora is None:
            self.frozen["start"] = digest_of(network)
            self._teacher: nn.Module = copy.deepcopy(network)
            return
        self._teacher = shared_copy(network)
        unload_lora(self._teacher)

    def _fake_score(self) -> nn.Module:
        """A copy of the teacher that learns what the student makes now: all weights, or an adapter of its own."""
        lora = self.config.lora
        if lora is None:
            return copy.deepcopy(self.teacher.network).requires_grad_(True).train()
        fake = shared_copy(self.teacher.network)
        add_lora(fake, lora.rank, lora.alpha, lora.targets, seed=self.seed + 1)
        return fake.train()


class StudentHeldOut(HeldOut):
    """What the student is taught, measured on held-out clips; without ``own`` the velocity's error."""

    def __init__(
        self,
        batcher: DiffusionBatcher,
        schedule: Schedule,
        own: Callable[[nn.Module, Sequence[DiffusionSample], Tensor], Tensor] | None,
    ) -> None:
        super().__init__(batcher, schedule)
        self.own = own

    def errors(self, module: nn.Module, samples: Sequence[DiffusionSample], times: Tensor) -> Tensor:
        return (
            super().errors(module, samples, times) if self.own is None else self.own(module, samples, times)
        )
