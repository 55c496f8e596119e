"""Training the stand-in for LPIPS: a small convolutional trunk that classifies scenes, and heads that rank damage.

The trunk learns to classify colour, shape and number, as VGG16 learnt to classify objects. The heads of LPIPS were
trained on votes of people; here two rules replace the votes: more of one kind of damage looks more different, and at
equal squared error a blurred, blocky or noisy picture looks more different than one that is brighter, paler or shifted
by a pixel. Half of the pictures carry a random texture, so that the features are not those of flat colours alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn

from cogvideox.data.clips import to_model
from cogvideox.noise import generator
from cogvideox.perception.lpips import LPIPS, LPIPSConfig, distance
from cogvideox.training.task import Task, TaskConfig
from cogvideox.world import render, sample_scene
from cogvideox.world.style import COLOURS, SHAPES

Pictures = Float[Tensor, "b 3 h w"]


class PerceptualTraining(TaskConfig):
    """Settings of the task ``lpips``: classify pictures of the tiny world, and rank damage to them."""

    kind: Literal["lpips"] = Field("lpips", description="the task: train the stand-in for LPIPS")
    network: LPIPSConfig = Field(
        LPIPSConfig(widths=(16, 32, 64), convolutions=(2, 2, 2)), description="layers of the trunk"
    )
    size: int = Field(64, ge=16, description="height and width of a picture")
    batch: int = Field(16, gt=0, description="pictures of a micro-step")

    def build(self, seed: int, steps: int | None = None) -> PerceptualTask:
        return PerceptualTask(self, seed)


class SceneReader(nn.Module):
    """The LPIPS network and what only training needs: classifiers of the scene, logarithms of the (positive) heads."""

    def __init__(self, config: LPIPSConfig) -> None:
        super().__init__()
        self.lpips = LPIPS(config)
        width = config.widths[-1]
        self.answers = nn.ModuleList(nn.Linear(2 * width, n) for n in (len(COLOURS), len(SHAPES), 3))
        self.log_heads = nn.ParameterList(torch.zeros(width) for width in config.widths)
        for layer in self.lpips.features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                assert layer.bias is not None, "its convolutions have one"
                nn.init.zeros_(layer.bias)

    def distance(self, xs: list[Tensor], ys: list[Tensor]) -> Float[Tensor, " b"]:
        """LPIPS distance of two pictures' features, with the heads as trained so far."""
        return distance(xs, ys, [head.exp() / len(head) for head in self.log_heads])

    def read(self, x: Pictures) -> list[Float[Tensor, "b n"]]:
        """Logits of colour, shape and number for each picture."""
        features = self.lpips.features((x - self.lpips.shift) / self.lpips.scale)
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)
        return [answer(pooled) for answer in self.answers]


class PerceptualTask(Task):
    """Train the stand-in for LPIPS: cross-entropy of scene facts for the trunk, a ranking loss for the heads."""

    config: PerceptualTraining
    module: SceneReader

    def __init__(self, config: PerceptualTraining, seed: int) -> None:
        self.config, self.seed = config, seed
        torch.manual_seed(seed)
        self.module = SceneReader(config.network)

    def losses(self, step: int) -> dict[str, Tensor]:
        """Cross-entropy of colour, shape and number, plus the ranking loss of damaged pictures."""
        first = step * self.config.batch
        pictures, truth = self._pictures(range(first, first + self.config.batch), "train")
        draw = generator(self.seed, "damage", step)
        textured = textures(pictures, draw)
        logits = self.module.read(textured)
        seen = sum(
            (F.cross_entropy(one, answer) for one, answer in zip(logits, truth, strict=True)),
            start=textured.new_zeros(()),
        )
        kind, worse, better = (int(torch.randint(n, (), generator=draw)) for n in (6, 3, 3))
        kinds = (HARSH + BENIGN)[kind : kind + 1], HARSH[worse:][:1], BENIGN[better:][:1]
        margins = self._margins(self.module, textured, draw, *kinds)
        order = F.softplus(-4 * margins).mean()
        shares = ((x.argmax(1) == y).float().mean() for x, y in zip(logits, truth, strict=True))
        right = sum(shares, start=textured.new_zeros(())) / 3
        return {"loss": seen + order, "seen": right, "ordered": (margins > 0).float().mean()}

    def _margins(
        self, module: SceneReader, x: Pictures, draw: torch.Generator, one: Kinds, harsh: Kinds, benign: Kinds
    ) -> Float[Tensor, " n"]:
        """log d(x, more) − log d(x, less) for pairs (more, less) that the rules order; positive is right. ``one``:
        kinds of damage compared with less of themselves; each of ``harsh`` is compared with each of ``benign``."""
        pairs = [more_and_less(damage, x, draw) for damage in one]
        pairs += [harsh_and_benign(worse, better, x, draw) for worse in harsh for better in benign]
        origin = module.lpips.normalized_features(x)
        margins = []
        for more, less in pairs:
            far, near = (module.distance(origin, module.lpips.normalized_features(y)) for y in (more, less))
            margins.append(torch.log(far + 1e-6) - torch.log(near + 1e-6))
        return torch.cat(margins)

    @torch.no_grad()
    def measure(self, module: nn.Module) -> dict[str, float]:
        """Held-out accuracy of colour, shape and count; share of pairs in the right order (squared error: 0.5)."""
        reader = cast(SceneReader, module)
        pictures, truth = self._pictures(range(128), "held_out")
        logits = reader.read(pictures)
        right = [float((x.argmax(1) == y).float().mean()) for x, y in zip(logits, truth, strict=True)]
        margins = self._margins(
            reader, pictures, generator(0, "held-out damage"), HARSH + BENIGN, HARSH, BENIGN
        )
        names = ("colour", "shape", "count")
        found = {f"held_out_{name}": value for name, value in zip(names, right, strict=True)}
        return found | {"held_out_ordered": float((margins > 0).float().mean())}

    @torch.no_grad()
    def export(self, module: nn.Module, folder: Path) -> None:
        """Write ``stand-in.safetensors``, heads scaled so that unrelated pictures have a mean distance of 0.7."""
        reader = cast(SceneReader, module)
        pictures, _ = self._pictures(range(64), "train")
        features = reader.lpips.normalized_features(textures(pictures, generator(0, "scale")))
        apart = reader.distance(features, [f.roll(1, 0) for f in features]).mean()
        weights = dict(reader.lpips.state_dict())
        for i, head in enumerate(reader.log_heads):
            weights[f"lin{i}.model.1.weight"] = (head.exp() / len(head) * 0.7 / apart).view(1, -1, 1, 1)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: value.contiguous() for name, value in weights.items()},
            folder / "stand-in.safetensors",
            metadata={"config": json.dumps(reader.lpips.config.model_dump())},
        )

    def _pictures(self, indices: range, split: str) -> tuple[Pictures, list[Tensor]]:
        frames, truth = [], []
        for index in indices:
            scene = sample_scene(self.seed, index, split)
            frames.append(torch.from_numpy(render(scene, size=self.config.size, frames=1)))
            shape = SHAPES.index(scene.shape)
            truth.append((list(COLOURS).index(scene.colour), shape, scene.count - 1))
        return to_model(torch.stack(frames))[:, :, 0], list(torch.tensor(truth).unbind(1))


def textures(x: Pictures, draw: torch.Generator) -> Pictures:
    """Every second picture with a random texture added: noise whose power falls with frequency."""
    b, _, h, w = x.shape
    noise = torch.fft.rfft2(torch.randn(b, 3, h, w, generator=draw))
    rows, columns = torch.fft.fftfreq(h)[:, None], torch.fft.rfftfreq(w)[None]
    slope = 0.5 + 1.5 * torch.rand(b, 1, 1, 1, generator=draw)
    field = torch.fft.irfft2(noise / ((rows.square() + columns.square()).sqrt() + 1 / h) ** slope, s=(h, w))
    field = field / field.std((1, 2, 3), keepdim=True) * torch.rand(b, 1, 1, 1, generator=draw) * 0.5
    field[::2] = 0
    return (x + field).clamp(-1, 1)


def blurred(x: Pictures, draw: torch.Generator) -> Pictures:
    """A Gaussian blur of about two pixels."""
    taps = torch.exp(-torch.arange(-4, 5).float().square() / (2 * 2.0**2))
    kernel = (taps / taps.sum()).view(1, 1, -1).expand(3, 1, -1)
    x = F.conv2d(F.pad(x, (4, 4, 0, 0), "replicate"), kernel[:, :, None], groups=3)
    return F.conv2d(F.pad(x, (0, 0, 4, 4), "replicate"), kernel[..., None], groups=3)


def blocky(x: Pictures, draw: torch.Generator) -> Pictures:
    """Blocks of eight pixels, each its mean."""
    return F.interpolate(F.avg_pool2d(x, 8), scale_factor=8.0)


def noisy(x: Pictures, draw: torch.Generator) -> Pictures:
    """White noise on every pixel."""
    return x + 0.3 * torch.randn(x.shape, generator=draw)


def brighter(x: Pictures, draw: torch.Generator) -> Pictures:
    """Another brightness and tint."""
    return x + 0.4 * torch.randn(len(x), 3, 1, 1, generator=draw)


def paler(x: Pictures, draw: torch.Generator) -> Pictures:
    """Half of the contrast."""
    return x * 0.5


def shifted(x: Pictures, draw: torch.Generator) -> Pictures:
    """One pixel to the right."""
    return torch.cat([x[..., :1], x[..., :-1]], dim=-1)


Damage = Callable[[Pictures, torch.Generator], Pictures]
Kinds = tuple[Damage, ...]
HARSH: Kinds = (blurred, blocky, noisy)
BENIGN: Kinds = (brighter, paler, shifted)


def more_and_less(damage: Damage, x: Pictures, draw: torch.Generator) -> tuple[Pictures, Pictures]:
    """The pictures with a damage, and with a random share (0.2 to 0.8) of the same one."""
    change = damage(x, draw) - x
    share = 0.2 + 0.6 * torch.rand(len(x), 1, 1, 1, generator=draw)
    return x + change, x + share * change


def harsh_and_benign(
    worse: Damage, better: Damage, x: Pictures, draw: torch.Generator
) -> tuple[Pictures, Pictures]:
    """The pictures with a harsh and with a benign damage, both scaled to the smaller of their squared errors."""
    harsh, benign = worse(x, draw) - x, better(x, draw) - x
    sizes = [c.square().mean((1, 2, 3), keepdim=True).sqrt() + 1e-4 for c in (harsh, benign)]
    size = torch.minimum(*sizes)
    return x + harsh * size / sizes[0], x + benign * size / sizes[1]
