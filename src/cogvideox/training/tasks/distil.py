"""Step distillation: a student that makes in few steps, without guidance, what its teacher makes in many with it.

| method | the student learns | it reads |
|---|---|---|
| ``guidance`` | the teacher's guided velocity, in one pass instead of two | clips |
| ``progressive`` | one step for two of the teacher's (Salimans and Ho 2022, arXiv 2202.00512) | clips |
| ``tdm`` | to match, on each stretch of its own trajectory, the teacher's distribution (2503.06674) | clips' captions |

The teacher is the model that the run starts from, frozen. Each method is a run of its own, which starts from the result
of the one before, so that a run has one teacher and resumes as any other does. All weights move, or an adapter's; base
weights under adapters are held once for student, teacher and fake score.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from cogvideox.checkpoints.lora import add_lora, unload_lora
from cogvideox.config import Config
from cogvideox.device import check_device
from cogvideox.diffusion import Schedule
from cogvideox.diffusion.hops import angle, hop, noised_up, renoised, velocity_between
from cogvideox.errors import ConfigError
from cogvideox.noise import generator, normal
from cogvideox.training.tasks.diffusion import DiffusionTask, DiffusionTraining
from cogvideox.training.tasks.diffusion_batches import DiffusionSample, predict
from cogvideox.training.tasks.diffusion_export import TrainedModel
from cogvideox.transformer import Transformer

LEAST_TIME = 20
"""The score of a student's videos is compared at this time of 1000 and above: below it is all detail."""


class FoldGuidance(Config):
    """The student's one answer is the teacher's guided one (Meng et al. 2022, arXiv 2210.03142, at one scale)."""

    kind: Literal["guidance"] = Field("guidance", description="one network pass a step instead of two")
    guidance: float = Field(6.0, gt=0, description="the scale that is folded in")


class Progressive(Config):
    """Each step of the student lands where two of the teacher's do."""

    kind: Literal["progressive"] = Field("progressive", description="half of the teacher's steps")
    steps: int = Field(gt=0, le=500, description="steps of the student; the teacher makes twice as many")
    guidance: float | None = Field(
        None, gt=0, description="scale of the teacher's guidance; null: it is folded in already"
    )


class TrajectoryMatching(Config):
    """Trajectory distribution matching: a student of few steps, taught by prompts alone, and a fake score beside it."""

    kind: Literal["tdm"] = Field("tdm", description="match the teacher's distribution along the trajectory")
    times: tuple[int, ...] = Field(
        (999, 856, 665, 399), min_length=1, description="the student's times, falling"
    )
    guidance: float = Field(3.5, gt=0, description="scale of the teacher's guidance")
    eta: float = Field(0.9, ge=0, le=1, description="share of its noise that a step keeps; the rest is new")
    keep: float = Field(0.5, ge=0, description="weight that keeps the fake score near the teacher")
    top: int = Field(980, gt=0, le=1000, description="scores are compared below this time")

    @model_validator(mode="after")
    def _times_fall(self) -> Self:
        if list(self.times) != sorted(set(self.times), reverse=True):
            raise ConfigError(f"times {self.times}: a step goes from noise to video; let the times fall")
        if self.top <= self.times[-1]:
            raise ConfigError(f"top {self.top}: must lie above the student's last time, {self.times[-1]}")
        return self


Method = Annotated[FoldGuidance | Progressive | TrajectoryMatching, Field(discriminator="kind")]


class DistilTraining(DiffusionTraining):
    """Settings: a model that takes many steps -> one that takes few."""

    kind: Literal["distil"] = Field("distil", description="the task: distil a model into fewer steps")  # type: ignore[assignment]
    method: Method = Field(description="how: guidance, progressive or tdm")
    text_dropout: float = Field(0.0, ge=0, le=1, description="share of clips without their caption")

    @model_validator(mode="after")
    def _has_a_teacher(self) -> Self:
        if self.start is None:
            raise ConfigError("start null: there is no teacher; name the model that is distilled")
        return self

    def without_effect(self) -> dict[str, str]:
        why = "a student learns what its teacher says, not what scenes show; leave it out"
        return super().without_effect() | {"object_weight": why, "scene_targets": why}

    def build(self, seed: int, steps: int | None = None) -> DistilTask:
        """As any training of the transformer. Raises ConfigError for a device that is not here."""
        check_device(self.compute_device)
        return DistilTask(self, seed, steps)


class DistilTask(DiffusionTask):
    """One step of distillation; see the module."""

    config: DistilTraining

    def __init__(self, config: DistilTraining, seed: int, steps: int | None = None) -> None:
        super().__init__(config, seed, steps)
        method, negative = self.config.method, self.data.train.texts([""])[0]
        self.teacher = Teacher(self._teacher, negative.float(), method.guidance)
        self.levels = Levels(self.schedule)
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
            report, times = {}, self.times(micro_step, samples)
            loss = self._errors(self.module, batch, times).sum() / mean_clips
        return {"loss": loss, **report, "clips": torch.tensor(mean_clips * self.config.accumulation)}

    def measure_batch(self, module: nn.Module, index: int) -> tuple[float, float]:
        """The student's error on held-out clips in a band of times; of ``tdm`` the velocity's, as in training."""
        if isinstance(self.config.method, TrajectoryMatching):
            return super().measure_batch(module, index)
        band, clips = self.held_out.batches[index]
        with torch.no_grad():
            errors = self._errors(module, self.data.held_out.fixed(clips), torch.full((len(clips),), band))
        return float(errors.double().sum()), float(len(clips))

    @property
    def sampling(self) -> dict[str, Any]:
        """What the result is to be sampled with."""
        method = self.config.method
        if isinstance(method, FoldGuidance):
            return {"guidance": 1.0}
        times = (
            method.times if isinstance(method, TrajectoryMatching) else self.schedule.timesteps(method.steps)
        )
        return {"times": tuple(times), "sampler": "ddim", "guidance": 1.0}

    def export(self, module: nn.Module, folder: Path) -> None:
        """As any transformer; what it is to be sampled with stands in the model's record, or beside an adapter."""
        super().export(module, folder)
        if self.config.lora is not None:
            from cogvideox.generation.recommended import Recommended, write_recommended

            write_recommended(folder, Recommended(scale=1.0, **self.sampling), overwrite=True)

    def _model(self) -> TrainedModel:
        return replace(super()._model(), sampling=self.sampling)

    # guidance and progressive

    def _errors(self, module: nn.Module, batch: Sequence[DiffusionSample], times: Tensor) -> Tensor:
        """Mean squared error of each clip's velocity against what the teacher's answers say it should be."""
        method, device = self.config.method, next(module.parameters()).device
        batch = [sample.to(device) for sample in batch]
        if isinstance(method, FoldGuidance):
            starts = times.tolist()
            x = self.levels.noised(batch, starts)
            with torch.no_grad():
                target = self.teacher(batch, x, starts)
        else:
            assert isinstance(method, Progressive)
            starts, target, x = self._two_steps_as_one(method, batch, times)
        velocity = predict(module, batch, x, _on(x, starts))
        errors = [(v.float() - aim).square().mean() for v, aim in zip(velocity, target, strict=True)]
        return torch.stack(errors)

    @torch.no_grad()
    def _two_steps_as_one(
        self, method: Progressive, batch: Sequence[DiffusionSample], times: Tensor
    ) -> tuple[list[int], list[Tensor], list[Tensor]]:
        """The student's times, the velocities that land where two steps of the teacher do, and the noised latents."""
        grid = self.schedule.timesteps(2 * method.steps)
        total = self.schedule.config.num_train_timesteps
        numbers = [method.steps - 1 - int(t) * method.steps // total for t in times]
        starts, middles = [grid[2 * n] for n in numbers], [grid[2 * n + 1] for n in numbers]
        ends = [grid[2 * n + 2] if n + 1 < method.steps else None for n in numbers]
        x = self.levels.noised(batch, starts)
        first = self.teacher(batch, x, starts)
        half = self.levels.hops(x, first, starts, middles)
        second = self.teacher(batch, half, middles)
        landed = self.levels.hops(half, second, middles, ends)
        at = self.levels.of
        target = [
            velocity_between(one, there, at(s), at(e))
            for one, there, s, e in zip(x, landed, starts, ends, strict=True)
        ]
        return starts, target, x

    # trajectory distribution matching

    def _matched(
        self, method: TrajectoryMatching, batch: Sequence[DiffusionSample], samples: range
    ) -> tuple[Tensor, Tensor]:
        """The losses of each clip: the student's and the fake score's; neither gives the other a gradient."""
        assert self.critic is not None, "made with the task"
        device = next(self.module.parameters()).device
        batch = [sample.to(device) for sample in batch]
        draw = _Draws(self.seed, samples, batch)
        inputs = self._rollout(method, batch, draw)
        with torch.no_grad():
            steps = draw.steps(len(method.times), "fake step")
            x0, _, x, times = self._scored(method, batch, inputs, steps, draw, "fake")
            teacher = self.teacher.unguided(batch, x, times)
        answers = predict(self.critic, batch, x, _on(x, times))
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
            answers = predict(self.critic, batch, x, _on(x, times))
            false = self.levels.cleans(x, answers, times)
        student = torch.stack([_pulled(one, r, f) for one, r, f in zip(x0, real, false, strict=True)])
        return student, fake

    @torch.no_grad()
    def _rollout(
        self, method: TrajectoryMatching, batch: Sequence[DiffusionSample], draw: _Draws
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
        answers = predict(self.module, batch, x, _on(x, times))
        return self.levels.cleans(x, answers, times), self.levels.noises(x, answers, times)

    def _scored(
        self,
        method: TrajectoryMatching,
        batch: Sequence[DiffusionSample],
        inputs: Sequence[Sequence[Tensor]],
        steps: Sequence[int],
        draw: _Draws,
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


class Teacher:
    """A frozen network: velocities with guidance, as its samplers see them, or without."""

    def __init__(self, network: nn.Module, negative: Tensor, guidance: float | None) -> None:
        self.network, self.negative, self.guidance = network.eval().requires_grad_(False), negative, guidance

    @torch.no_grad()
    def __call__(
        self, batch: Sequence[DiffusionSample], x: Sequence[Tensor], times: Sequence[int]
    ) -> list[Tensor]:
        """Guided velocities, float32: v_0 + g (v_c - v_0)."""
        if self.guidance is None or self.guidance == 1:
            return self.unguided(batch, x, times)
        count = len(batch)
        without = [replace(sample, text=self.negative.to(sample.text)) for sample in batch]
        answers = predict(self.network, [*batch, *without], [*x, *x], _on(x, [*times, *times]))
        pairs = zip(answers[:count], answers[count:], strict=True)
        return [none.float() + self.guidance * (v.float() - none.float()) for v, none in pairs]

    @torch.no_grad()
    def unguided(
        self, batch: Sequence[DiffusionSample], x: Sequence[Tensor], times: Sequence[int]
    ) -> list[Tensor]:
        """Velocities for the clips' texts alone, float32."""
        return [v.float() for v in predict(self.network, batch, x, _on(x, times))]


class Levels:
    """Moves of lists of latents [c, t, h, w] between times of a schedule; None is the clean end."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self._angles = [float(angle(float(level))) for level in schedule.alpha_bar]
        self._end = float(angle(float(schedule.final_alpha_bar)))

    def of(self, t: int | None) -> float:
        """The angle of a time."""
        return self._end if t is None else self._angles[t]

    def noised(self, batch: Sequence[DiffusionSample], times: Sequence[int]) -> list[Tensor]:
        """The clips at these times, float32."""
        pairs = zip(batch, times, strict=True)
        return [self.schedule.add_noise(s.clean[None].float(), s.noise[None], t)[0] for s, t in pairs]

    def hops(
        self,
        x: Sequence[Tensor],
        v: Sequence[Tensor],
        starts: Sequence[int],
        ends: Sequence[int | None],
    ) -> list[Tensor]:
        """DDIM steps of all the clips, each from its time to its own next one."""
        moves = zip(x, v, starts, ends, strict=True)
        return [hop(one, velocity, self.of(s), self.of(e)) for one, velocity, s, e in moves]

    def cleans(self, x: Sequence[Tensor], v: Sequence[Tensor], times: Sequence[int]) -> list[Tensor]:
        """The clean latents that velocities at these times point at."""
        return [self.schedule.clean(a[None], b[None], t)[0] for a, b, t in zip(x, v, times, strict=True)]

    def noises(self, x: Sequence[Tensor], v: Sequence[Tensor], times: Sequence[int]) -> list[Tensor]:
        """The noise that velocities at these times come from."""
        return [self.schedule.noise(a[None], b[None], t)[0] for a, b, t in zip(x, v, times, strict=True)]

    def velocity_to(self, x: Tensor, clean: Tensor, t: int) -> Tensor:
        """The velocity that points from ``x`` at ``clean``: (cos x - clean) / sin; the sine of no time here is 0."""
        alpha, sigma = self.schedule.alpha_sigma(t, x[None])
        return (alpha * x.float() - clean.float()) / sigma


class _Draws:
    """Everything that a step of matching draws: a function of the seed and of each sample's number in the run."""

    def __init__(self, seed: int, samples: range, batch: Sequence[DiffusionSample]) -> None:
        self.seed, self.samples, self.batch = seed, samples, batch

    def noise(self, purpose: str) -> list[Tensor]:
        """Fresh noise for each clip."""
        drawn = zip(self.samples, self.batch, strict=True)
        return [normal(s.noise.shape, self.seed, purpose, n).to(s.noise.device) for n, s in drawn]

    def steps(self, count: int, purpose: str) -> list[int]:
        """A step for each clip; neighbouring samples take different ones."""
        turn = int(torch.randint(count, (1,), generator=generator(self.seed, purpose, self.samples.start)))
        return [(turn + number) % count for number in self.samples]

    def times(self, least: Sequence[int], top: int, purpose: str) -> list[int]:
        """A time for each clip, from its least one to below ``top``."""
        found = []
        for number, low in zip(self.samples, least, strict=True):
            source = generator(self.seed, f"{purpose} time", number)
            found.append(low + int(torch.randint(max(top - low, 1), (1,), generator=source)))
        return found


def _on(x: Sequence[Tensor], times: Sequence[int]) -> Tensor:
    return torch.tensor(times, device=x[0].device)


def shared_copy(network: nn.Module) -> nn.Module:
    """A second network with the very same tensors: adapters put on one are not on the other, and no memory is taken."""
    tensors = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})


def _pulled(x0: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """The student's loss of one clip: its gradient pulls ``x0`` from the fake score's estimate to the teacher's.

    Pseudo-Huber with a tiny bend, so in effect the sign of the difference, over its size where the teacher stands.
    """
    with torch.no_grad():
        aim = x0 + real - fake
        size = (x0 - real).abs().mean().clamp(1e-3, 5)
        bend = 1e-3 * x0.numel() ** -0.5
    distance = ((x0 - aim).square() + bend**2).sqrt() - bend
    return distance.mean() / size
