"""Training the expert transformer: v-prediction with a zero-terminal-SNR schedule, on latents encoded once.

Text is dropped with probability 0.1 so that guidance has an unconditional branch, and timesteps are stratified over the
batch (explicit uniform sampling). Image-to-video adds the first frame, with log-normal pixel noise, as extra channels,
and drops it sometimes.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from cogvideox.checkpoints.hub import find_folder
from cogvideox.config import Config
from cogvideox.data.latents import WorldLatents, world_latents
from cogvideox.data.world import to_model
from cogvideox.diffusion import Schedule, ScheduleConfig
from cogvideox.diffusion.timesteps import explicit_uniform, uniform
from cogvideox.errors import CheckpointError, ConfigError
from cogvideox.noise import generator, normal
from cogvideox.text import TextEncoder
from cogvideox.transformer import Transformer, TransformerConfig
from cogvideox.transformer.initialise import initialise
from cogvideox.transformer.kernels import use_kernel
from cogvideox.world import caption, sample_scene

BANDS = (100, 300, 500, 700, 900)  # the timesteps of Table 9, of 1000


class DiffusionTraining(Config):
    """Latents and captions of the tiny world -> velocity."""

    kind: Literal["diffusion"] = "diffusion"
    preset: str = Field("tiny", description="preset of the model folder that is written")
    transformer: TransformerConfig = Field(description="the network")
    schedule: ScheduleConfig = Field(description="noise levels")
    vae: str = Field("runs/world-vae/model", description="folder that holds vae/")
    text: str = Field("runs/world-text/model", description="folder that holds text_encoder/ and tokenizer/")
    start: str | None = Field(
        None, description="model folder to start from; new input channels start at zero"
    )
    cache: str = Field("runs/latents", description="where encoded clips are kept")
    clips: int = Field(12000, gt=0, description="clips encoded once and drawn from")
    size: int = Field(64, gt=0, description="height and width of a clip")
    frames: int = Field(17, gt=0, description="frames of a clip")
    batch: int = Field(32, gt=0, description="clips a step")
    text_dropout: float = Field(0.1, ge=0, le=1, description="share of clips without their caption")
    image_dropout: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of clips without their image (the paper's appendix on image-to-video)",
    )
    uniform: Literal["explicit", "plain"] = Field("explicit", description="how timesteps are drawn")
    intervals: int | None = Field(
        None,
        gt=0,
        description="virtual ranks: so many samples in a row cover all times evenly; null: those of a step",
    )
    kernel: str = Field(
        "torch-float32", description="attention kernel; this one saves a quarter of a bf16 step on a CPU"
    )

    def build(self, seed: int) -> DiffusionTask:
        """The task; encodes the clips when the cache does not hold them."""
        return DiffusionTask(self, seed)


class DiffusionTask:
    """See the module's docstring."""

    critic = None

    def __init__(self, config: DiffusionTraining, seed: int) -> None:
        from cogvideox.checkpoints.diffusers import load_vae
        from cogvideox.checkpoints.text import load_text

        self.config, self.seed = config, seed
        self.image = config.transformer.in_channels == 2 * config.transformer.out_channels
        # all three before any is read: a wrong name must not be told after minutes of work
        vae, text = _result("vae", config.vae, "world-vae"), _result("text", config.text, "world-text")
        start = _result("start", config.start, "world-t2v") if config.start is not None else None
        self.vae = load_vae(vae, dtype="float32").eval().requires_grad_(False)
        self.text = load_text(text, dtype="float32")
        self.schedule = Schedule(config.schedule)
        draw = (seed, config.size, config.frames, Path(config.cache))
        self.clips = world_latents(self.vae, "train", config.clips, *draw)
        self.held_out = world_latents(self.vae, "held_out", 64, *draw)
        self.module = initialise(Transformer(config.transformer), seed)
        if start is not None:
            widen(self.module, start)
        use_kernel(self.module, config.kernel)

    def losses(self, step: int) -> dict[str, Tensor]:
        """Mean squared error of the velocity (section 2.2; equal to the released weighting of the clean estimate)."""
        g = generator(self.seed, "batch", step)
        rows = torch.randint(self.config.clips, (self.config.batch,), generator=g)
        clean = self._clean(self.clips, rows, normal(self._shape(), self.seed, "latent noise", step))
        text = self._text(
            "train", rows, step, torch.rand(self.config.batch, generator=g) < self.config.text_dropout
        )
        t = self._times(range(step * self.config.batch, (step + 1) * self.config.batch))
        noise = normal(self._shape(), self.seed, "noise", step)
        image = self._image(self.clips, rows, g) if self.image else None
        return {"loss": self._error(self.module, clean, text, t, noise, image).mean()}

    @torch.no_grad()
    def measure(self, module: nn.Module) -> dict[str, float]:
        """Velocity error of held-out clips in five bands, on fixed (clip, timestep, noise) triples."""
        rows = torch.arange(len(self.held_out))
        shape = (len(rows), *self._shape()[1:])
        noise = normal(shape, 0, "held-out noise")
        clean = self._clean(self.held_out, rows, torch.zeros(shape))
        text = self._text("held_out", rows, 0, torch.zeros(len(rows), dtype=torch.bool))
        image = self._image(self.held_out, rows, None) if self.image else None
        bands = {}
        for share in BANDS:
            band = share * self.config.schedule.num_train_timesteps // 1000
            t = torch.full((len(rows),), band)
            bands[f"held_out_{band}"] = float(self._error(module, clean, text, t, noise, image).mean())
        return bands | {"held_out": sum(bands.values()) / len(bands)}

    def export(self, module: nn.Module, folder: Path) -> None:
        """A whole model folder: this transformer with the VAE, text encoder and schedule it was trained with.

        Stored in float16, computed in float32.
        """
        from cogvideox.checkpoints import save_model
        from cogvideox.checkpoints.record import read_record
        from cogvideox.model import CogVideoX

        half = {name: copy.deepcopy(part).half() for name, part in self._parts(module).items()}
        text = TextEncoder(half["text"], self.text.tokenizer, self.text.max_tokens)
        save_model(
            CogVideoX(
                transformer=half["transformer"],
                vae=half["vae"],
                text=text,
                schedule=self.schedule,
                kind="i2v" if self.image else "t2v",
                name=self.config.preset,
                height=self.config.size,
                width=self.config.size,
                frames=self.config.frames,
                fps=8,
            ),
            folder,
            overwrite=True,
        )
        read_record(folder).model_copy(update={"dtype": "float32"}).write(folder)

    def _times(self, samples: range) -> Tensor:
        total = self.config.schedule.num_train_timesteps
        if self.config.uniform == "plain":
            return uniform(samples, self.seed, total)
        return explicit_uniform(samples, self.seed, self.config.intervals, total)

    def _parts(self, module: nn.Module) -> dict[str, nn.Module]:
        return {"transformer": module, "vae": self.vae, "text": self.text.model}

    def _shape(self) -> tuple[int, ...]:
        return (self.config.batch, *self.clips.mean.shape[1:])

    def _clean(self, clips: WorldLatents, rows: Tensor, noise: Tensor) -> Tensor:
        sample = clips.mean[rows].float() + clips.deviation[rows].float() * noise
        return sample * self.vae.config.scaling_factor

    def _text(self, split: str, rows: Tensor, variant: int, dropped: Tensor) -> Tensor:
        prompts = []
        for row, drop in zip(rows.tolist(), dropped.tolist(), strict=True):
            scene = sample_scene(self.seed, row, split)
            prompts.append("" if drop else caption(scene, self.seed, row * 31 + variant))
        return self.text.encode(prompts).values

    @torch.no_grad()
    def _image(self, clips: WorldLatents, rows: Tensor, g: torch.Generator | None) -> Tensor:
        """First frames as latents, zeros for the later ones; noised, drawn and dropped when ``g`` is given (training).

        Without it the mean stands for the draw, so that held-out figures are the same every time.
        """
        pixels = to_model(clips.first[rows][:, None])
        if g is not None:
            sigma = torch.exp(torch.randn(len(rows), 1, 1, 1, 1, generator=g) * 0.5 - 3.0)
            pixels = pixels + sigma * torch.randn(pixels.shape, generator=g)
        found = self.vae.encode(pixels)
        latents = (found.mode() if g is None else found.sample(g)) * self.vae.config.scaling_factor
        if g is not None:
            latents = latents * (torch.rand(len(rows), 1, 1, 1, 1, generator=g) >= self.config.image_dropout)
        later = clips.mean.shape[2] - 1
        return torch.cat([latents, torch.zeros_like(latents).repeat(1, 1, later, 1, 1)], dim=2)

    def _error(
        self, module: nn.Module, clean: Tensor, text: Tensor, t: Tensor, noise: Tensor, image
    ) -> Tensor:
        noisy = self.schedule.add_noise(clean, noise, t)
        target = self.schedule.velocity(clean, noise, t)
        given = noisy if image is None else torch.cat([noisy, image], dim=1)
        return (module(given, text, t).float() - target).square().mean((1, 2, 3, 4))


def _result(name: str, place: str, recipe: str) -> Path:
    """The folder that another run left; ConfigError that names that run when there is none."""
    try:
        return find_folder(place)
    except CheckpointError as error:
        raise ConfigError(
            f"{error}; run `cogvideox train {recipe}` first, or set task.{name}=FOLDER"
        ) from None


def widen(transformer: Transformer, folder: Path) -> None:
    """Start from another model: equal tensors are copied, a wider patch projection gets zeros for its new inputs.

    With zero weights on the image channels the widened model gives exactly the old one's output.
    """
    from cogvideox.checkpoints.diffusers import load_transformer

    old, new = load_transformer(folder).state_dict(), transformer.state_dict()
    if old.keys() != new.keys():
        raise CheckpointError(
            f"{folder}: holds another architecture: {sorted(old.keys() ^ new.keys())[:3]} differ"
        )
    for name, value in new.items():
        source = old[name]
        if value.shape == source.shape:
            value.copy_(source)
        elif name == "patch_embed.proj.weight" and value.shape[1] == 2 * source.shape[1]:
            value.zero_()
            value[:, : source.shape[1]].copy_(source)
        else:
            raise ConfigError(
                f"{name}: {tuple(source.shape)} in {folder}, {tuple(value.shape)} asked for; sizes must agree"
            )
