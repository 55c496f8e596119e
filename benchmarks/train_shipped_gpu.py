"""Train the shipped model's transformer on a card within minutes, and bring home its weights and scores.

python benchmarks/train_shipped_gpu.py --minutes 9      out/shipped-gpu/: transformer/, train.jsonl, scores.json
python benchmarks/train_shipped_gpu.py --scratch        from drawn weights; without it from the shipped ones
python benchmarks/train_shipped_gpu.py --small          the same in seconds on a CPU, with a few clips and steps
python benchmarks/train_shipped_gpu.py --recipe small-t2v --vae runs/small/1-vae/model --text runs/small/2-text/model \
    --clips 20000 --workers 16                          the transformer of the rich world, from drawn weights

The usual recipe is `world-t2v-fine`: its clips, text dropout, stratified timesteps that lean as its do, weight of
objects, Muon and AdamW, averaged weights, bf16 autocast on float32 weights. Not its `scene_targets`, which change
within a run. What differs is the clock: latents and captions lie on the device, every draw is made
there, and a whole step (forward, back, clipping, optimisers, average) is one CUDA graph that is replayed, since a
network this small waits for its host. The learning rate follows the time that is used. Where no graph can be recorded,
the same step runs as it is.

At the end the held-out velocity error and the facts of held-out prompts are measured and the averaged weights are
written, also every minute before, so that a run that is killed brings home its last. To use them, copy the folder
`transformer` into a copy of the shipped model (src/cogvideox/shipped/tiny-base).

--wheels FOLDER and what must be installed: as for gpu.py.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu import use_wheels
from gpu_page import Records

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from cogvideox.training.optim import OptimConfig
    from cogvideox.training.tasks.diffusion import DiffusionTask

VARIANTS = 4
"""Ways in which each clip's caption is said."""
SHIPPED = "world-t2v-fine"
"""The recipe of the shipped model's transformer."""
BASE = "tiny-base"
"""The shipped model that was trained so; `tiny` is its student of few steps."""
LARGEST = 16 << 20
"""Bytes of a file that is brought home, at most."""


class BatchedMuon:
    """torch's Muon, matrices of one shape together, with a learning rate on the device: a CUDA graph can replay it.

    The same update as ``torch.optim.Muon`` with its default settings, up to the rounding of batched products.
    """

    def __init__(self, matrices: Sequence[nn.Parameter], lr: float, weight_decay: float) -> None:
        import torch

        self.peak, self.weight_decay = lr, weight_decay
        self.groups: list[list[nn.Parameter]] = [
            [p for p in matrices if p.shape == shape] for shape in sorted({tuple(p.shape) for p in matrices})
        ]
        self.momentum = [
            torch.zeros(len(group), *group[0].shape, device=group[0].device) for group in self.groups
        ]
        self.lr = torch.tensor(lr, device=matrices[0].device)

    def step(self) -> None:
        """Move the matrices by their gradients."""
        import torch

        for group, momentum in zip(self.groups, self.momentum, strict=True):
            gradient = torch.stack([p.grad for p in group if p.grad is not None])
            momentum.lerp_(gradient, 0.05)
            update = orthogonalised(gradient.lerp(momentum, 0.95)).to(momentum.dtype)
            rows, columns = momentum.shape[1:]
            scaled = update * (self.lr * math.sqrt(max(1, rows / columns)))
            torch._foreach_mul_(group, 1 - self.lr * self.weight_decay)
            torch._foreach_sub_(group, list(scaled))


def orthogonalised(matrices: Tensor) -> Tensor:
    """Five Newton-Schulz iterations in bf16 on matrices [n, rows, columns], as torch's Muon makes them."""
    import torch

    x = matrices.bfloat16() if matrices.is_cuda else matrices  # half precision takes a CPU minutes
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.775, alpha=2.0315), x, beta=3.4445)
    return x.mT if tall else x


@dataclass
class Clips:
    """All clips on the device: means and deviations of latents, what each latent counts, captions in several ways, and
    the empty one."""

    mean: Tensor
    deviation: Tensor
    weight: Tensor
    captions: Tensor
    empty: Tensor

    @classmethod
    def of(cls, task: DiffusionTask, device: torch.device) -> Clips:
        """The clips that a task encoded, and their captions embedded."""
        import torch

        from cogvideox.training.tasks.diffusion_scenes import SceneCells

        clips = task.data.train.clips
        task.text.to(device)
        pairs = [clips.latents(index) for index in range(len(clips))]
        texts = [clips.caption(index, variant) for index in range(len(clips)) for variant in range(VARIANTS)]
        encoded = [task.text.encode(texts[at : at + 500]).values.float() for at in range(0, len(texts), 500)]
        return cls(
            torch.stack([mean for mean, _ in pairs]).to(device),
            torch.stack([deviation for _, deviation in pairs]).to(device),
            torch.stack(SceneCells(clips).weights(range(len(clips)), task.config.object_weight)).to(device)[
                :, None
            ],
            torch.cat(encoded).to(device).unflatten(0, (-1, VARIANTS)),
            task.text.encode([""]).values.float().to(device)[0],
        )


class Step:
    """One training step whose every draw and update is made on the device; ``__call__`` makes it, or replays it."""

    def __init__(self, task: DiffusionTask, clips: Clips, batch: int, optim: OptimConfig) -> None:
        import torch

        self.task, self.clips, self.batch, self.optim = task, clips, batch, optim
        self.network = task.module.train()
        self.device = clips.mean.device
        named = [(name, p) for name, p in self.network.named_parameters() if p.requires_grad]
        self.weights = [p for _, p in named]
        matrices = [p for name, p in named if p.ndim == 2 and "block" in name]
        taken = {id(p) for p in matrices}
        rest = [p for p in self.weights if id(p) not in taken]
        self.muon = BatchedMuon(matrices, optim.muon_lr, optim.weight_decay)
        groups = [
            {"params": [p for p in rest if p.ndim > 1]},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.lr = torch.tensor(optim.lr, device=self.device)
        cuda = self.device.type == "cuda"
        self.adamw = torch.optim.AdamW(
            groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay,
            fused=True, capturable=cuda,
        )  # fmt: skip
        for group in self.adamw.param_groups:
            group["lr"] = self.lr  # on the device, where a graph reads it
        self.average = [p.detach().clone() for p in self.weights]
        self.share = torch.ones((), device=self.device)
        self.loss_sum = torch.zeros((), device=self.device)
        self.done, self.graph = 0, None

    def losses(self) -> Tensor:
        """The mean squared velocity error of a batch drawn now."""
        import torch

        from cogvideox.diffusion import lean

        clips, task, batch = self.clips, self.task, self.batch
        chosen = torch.randint(len(clips.mean), (batch,), device=self.device)
        way = torch.randint(VARIANTS, (batch,), device=self.device)
        dropped = torch.rand(batch, device=self.device) < task.config.text_dropout
        text = torch.where(dropped[:, None, None], clips.empty, clips.captions[chosen, way])
        mean = clips.mean[chosen]
        clean = (mean + clips.deviation[chosen] * torch.randn_like(mean)) * task.vae.config.scaling_factor
        total = task.schedule.config.num_train_timesteps
        within = torch.rand(batch, device=self.device, dtype=torch.float64)
        strata = (torch.arange(batch, device=self.device) + within) * (total / batch)  # section 2.4
        times = lean(strata, task.config.time_shift, total).long().clamp(max=total - 1)
        noise = torch.randn_like(clean)
        velocity = self.network(task.schedule.add_noise(clean, noise, times), text, times)
        error = (velocity.float() - task.schedule.velocity(clean, noise, times)).square()
        return (error * clips.weight[chosen]).mean()

    def plain(self) -> None:
        """Forward, back, clipping, optimisers, average."""
        import torch

        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.device.type == "cuda", cache_enabled=False
        ):
            loss = self.losses()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, self.optim.clip)
        with torch.no_grad():
            self.muon.step()
        self.adamw.step()
        for p in self.weights:
            p.grad = None
        with torch.no_grad():
            change = torch._foreach_sub([p.detach() for p in self.weights], self.average)
            torch._foreach_mul_(change, self.share)
            torch._foreach_add_(self.average, change)
            self.loss_sum += loss.detach()

    def record(self) -> None:
        """Record the step as a CUDA graph, after a few that are made as they are."""
        import torch

        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(3):
                self.plain()
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.plain()
        self.graph = graph

    def __call__(self, factor: float) -> None:
        """One step at this fraction of the peak learning rates."""
        self.lr.fill_(self.optim.lr * factor)
        self.muon.lr.fill_(self.muon.peak * factor)
        self.share.fill_(1 - min(self.optim.ema, (1 + self.done) / (10 + self.done)))
        self.graph.replay() if self.graph is not None else self.plain()
        self.done += 1

    def swap(self) -> None:
        """Exchange the weights and their average."""
        for p, average in zip(self.weights, self.average, strict=True):
            held = p.detach().clone()
            p.data.copy_(average)
            average.copy_(held)


def held_out_error(task: DiffusionTask, network: nn.Module) -> float:
    """Velocity error on held-out clips, as `cogvideox train` measures it."""
    measured = [task.measure_batch(network, index) for index in range(task.measure_batches)]
    return task.combine(measured)["held_out"]


def facts_right(
    task: DiffusionTask, network: nn.Module, prompts: int, steps: int, device: torch.device
) -> dict[str, Any]:
    """Share of held-out prompts of which each kind of fact holds in a video, made in batches; guidance 2."""
    import torch

    from cogvideox.diffusion import Constant, ddim, guided
    from cogvideox.world import check_facts, held_out_prompts, report

    style = task.config.scene_style
    asked, verdicts = held_out_prompts(style)[:prompts], []
    _, t, h, w = task.data.held_out.clips.shape(0)
    for at in range(0, len(asked), 50):
        some = asked[at : at + 50]
        positive = task.text.encode([each.prompt for each in some]).values.float().to(device)
        both = torch.cat([positive, task.text.encode([""]).values.float().to(device).expand_as(positive)])
        draw = torch.Generator(device).manual_seed(at)
        x = torch.randn(len(some), task.module.config.out_channels, t, h, w, device=device, generator=draw)
        denoise = guided(lambda y, time, both=both: network(y, both, time), Constant(scale=2.0).build())
        latents = ddim(denoise, x, task.schedule.path(steps)) / task.vae.config.scaling_factor
        pixels = torch.cat([task.vae.decode(each[None]) for each in latents])
        frames = (
            ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).cpu().numpy()
        )
        verdicts += [check_facts(video, each.checks, style) for video, each in zip(frames, some, strict=True)]
    return {score.kind: {"right": score.right, "asked": score.asked} for score in report(verdicts)}


def write_weights(task: DiffusionTask, step: Step, folder: Path) -> None:
    """The averaged weights in float16, in files that are small enough."""
    import torch

    from cogvideox.checkpoints.diffusers import write_transformer

    step.swap()
    weights = {name: value.to("cpu", torch.float16) for name, value in task.module.state_dict().items()}
    step.swap()
    write_transformer(folder, task.module.config, weights, "15MB")
    for file in folder.rglob("*.safetensors"):
        assert file.stat().st_size <= LARGEST, f"{file} has {file.stat().st_size} bytes"


def _build(args: argparse.Namespace, device: str) -> tuple[DiffusionTask, OptimConfig]:
    from cogvideox.api import encode
    from cogvideox.engines import JobEngine
    from cogvideox.training.recipes import Run, recipe

    run = recipe(args.recipe)
    assert isinstance(run, Run)
    clips = 8 if args.small else args.clips
    frames, size = (9, 32) if args.small else (run.task.frames, run.task.size)
    scratch = args.scratch or args.recipe != SHIPPED  # there are no shipped weights of another
    run = run.override(
        [
            f"task.start={'null' if scratch else BASE}", f"task.vae={args.vae}", f"task.text={args.text}",
            f"task.clips={clips}", f"task.frames={frames}", f"task.size={size}",
            f"task.clips_seed={args.seed}", f"task.device={device}", f"task.cache={args.cache}", "task.batch=4",
            "task.kernel=torch", "task.scene_targets=null",
        ]
    )  # fmt: skip
    if args.workers:
        encode(run, engine=JobEngine("local", args.workers))
    return run.task.build(args.seed), run.optim


def train_until(step: Step, deadline: float, now_and_then: Callable[[float], None]) -> None:
    """Steps until ``deadline`` (``time.monotonic``); the learning rate warms up and then falls with the time."""
    import torch

    start, each = time.monotonic(), 25
    while (used := (time.monotonic() - start) / max(1e-9, deadline - start)) < 1:
        floor = step.optim.floor
        factor = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * used))
        for _ in range(each):
            step(factor * min(1.0, (step.done + 1) / max(1, step.optim.warmup)))
            if step.device.type == "cpu" and time.monotonic() > deadline:
                break
        if step.device.type == "cuda":
            torch.cuda.synchronize(step.device)
        now_and_then(used)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prepare, train, measure, write; what was measured."""
    import torch

    begun = time.monotonic()
    end = begun + 60 * args.minutes
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    records = Records(args.out / "train.jsonl")
    task, optim = _build(args, device.type)
    with torch.no_grad():
        clips = Clips.of(task, device)
        before = held_out_error(task, task.module)
    records.add("prepared", clips=len(clips.mean), seconds=time.monotonic() - begun, held_out=before)
    step = Step(task, clips, 4 if args.small else args.batch, optim)
    why = "on a CPU"
    if device.type == "cuda":
        try:
            step.record()
        except Exception as error:  # the same step without a graph
            why = f"{type(error).__name__}: {error}"[:200]
            torch.cuda.synchronize(device)
    records.add("step", graph=step.graph is not None, why="" if step.graph is not None else why)
    last = [time.monotonic()]

    def now_and_then(used: float) -> None:
        if time.monotonic() - last[0] < (1 if args.small else 30):
            return
        loss = float(step.loss_sum) / max(1, step.done)
        step.loss_sum.zero_()
        step.swap()
        with torch.no_grad():
            error = held_out_error(task, task.module)
        step.swap()
        records.add("measured", step=step.done, used=round(used, 4), loss=loss, held_out=error)
        print(f"step {step.done}: held-out {error:.4f}", file=sys.stderr, flush=True)
        if math.isfinite(error):
            write_weights(task, step, args.out)
        last[0] = time.monotonic()

    reserve = 5 if args.small else min(100, 20 * args.minutes)
    started = time.monotonic()
    train_until(step, max(started + (1 if args.small else 10), end - reserve), now_and_then)
    took = time.monotonic() - started
    write_weights(task, step, args.out)
    step.swap()
    scores: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__, "steps": step.done, "batch": step.batch, "seconds_training": round(took, 1),
        "graph": step.graph is not None, "held_out_before": before,
    }  # fmt: skip
    with torch.no_grad():
        scores["held_out"] = held_out_error(task, task.module)
        _write_scores(args.out, scores)
        scores["facts"] = facts_right(
            task, task.module, 1 if args.small else args.prompts, 2 if args.small else 50, device
        )
    _write_scores(args.out, scores)
    return scores


def _write_scores(folder: Path, scores: dict[str, Any]) -> None:
    (folder / "scores.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Train and print the scores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9, help="time for everything")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "out/shipped-gpu")))
    parser.add_argument("--cache", type=Path, default=Path("runs/latents"), help="folder of encoded clips")
    parser.add_argument("--clips", type=int, default=6000, help="clips that are rendered and encoded first")
    parser.add_argument("--batch", type=int, default=64, help="clips of a step")
    parser.add_argument("--prompts", type=int, default=200, help="held-out prompts whose facts are checked")
    parser.add_argument("--seed", type=int, default=23)
    parser.add_argument(
        "--recipe", default=SHIPPED, help="whose transformer and clips: this one, or small-t2v"
    )
    parser.add_argument("--vae", default="tiny", help="model, or folder with vae/")
    parser.add_argument("--text", default="tiny", help="model, or folder with text_encoder/ and tokenizer/")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that render and encode; 0: this one"
    )
    parser.add_argument(
        "--scratch", action="store_true", help="from drawn weights, not from the shipped ones"
    )
    parser.add_argument("--small", action="store_true", help="a few clips and steps, on any device")
    parser.add_argument("--wheels", type=Path, help="folder of packages that are not installed here")
    args = parser.parse_args()
    use_wheels(args.wheels)
    print(json.dumps(run(args), indent=1))


if __name__ == "__main__":
    main()
