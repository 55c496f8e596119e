"""Training the 3D causal VAE: L1 + squared error + LPIPS + KL, and from a chosen step a GAN loss (section 2.1).

The shipped one learned in rounds of still frames of the tiny world (five times as many scenes for the price of a clip),
crops (time, at a tenth of the price) and whole clips in the chunks of inference (other GroupNorm statistics).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from cogvideox.checkpoints.hub import find_folder
from cogvideox.config import Config
from cogvideox.device import check_device
from cogvideox.errors import ConfigError
from cogvideox.noise import generator
from cogvideox.perception.lpips import load_lpips
from cogvideox.training.task import MayChange, Task, TaskConfig
from cogvideox.training.tasks.crops import CropPhase, CropSource, FolderCrops, WorldCrops, clip_frames
from cogvideox.training.tasks.folder import FolderData, check_folder
from cogvideox.training.tasks.sizes import clip_size
from cogvideox.vae import VAE, VAEConfig
from cogvideox.vae.losses import CriticConfig, PatchCritic, adversarial_losses, kl_loss, perceptual_loss
from cogvideox.vae.norm import SpatialNorm


class Gan(Config):
    """Settings of the adversarial loss (GAN)."""

    start: int = Field(ge=0, description="first step with it (the paper: a few thousand)")
    weight: float = Field(1.0, ge=0, description="weight beside the adaptive one")
    critic: CriticConfig = Field(CriticConfig(), description="the network that judges patches")


NEAR = 3
"""Pixels round an object whose errors count as its own do: where they counted less, concave corners were filled."""


class VAETraining(TaskConfig):
    """Settings: clips -> the same clips, through the autoencoder."""

    kind: Literal["vae"] = Field("vae", description="the task: train the autoencoder")
    vae: VAEConfig = Field(description="the network: widths and compression")
    phases: tuple[CropPhase, ...] = Field(min_length=1, description="crops to train on, by their last step")
    repeat_from: int | None = Field(
        None,
        ge=0,
        description="step from which the phases after it are a round that returns; null: the last one goes on",
    )
    data: FolderData | None = Field(None, description="clips and pictures of a folder; null: the tiny world")
    size: int = Field(64, gt=0, description="height and width of a rendered clip")
    frames: int = Field(17, gt=0, description="frames of a rendered clip")
    scene_mix: dict[str, float] | None = Field(
        None, description="shares of the world's stories among its clips; null: those of its test"
    )
    scene_style: Literal["plain", "rich"] = Field(
        "plain", description="style of the tiny world: rich has more shapes and stories, on patterned ground"
    )
    object_weight: float = Field(
        0.0,
        ge=0,
        description="the error of a pixel counts 1 + this where an object of the world covers it or is near",
    )
    hues: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the crops whose hues are turned at random, so that outlines do not depend on colours",
    )
    start: str | None = Field(None, description="model folder, or name, to go on from")
    decoder_only: bool = Field(False, description="keep the encoder, so that latents stay what they are")
    keep: float = Field(
        0.0,
        ge=0,
        description="weight of the squared distance of latents from those of start, of unit variance",
    )
    latent_noise: float = Field(
        0.0,
        ge=0,
        description="noise on the latents of a clip before they are decoded, up to this share of their spread, so that "
        "what a transformer gets slightly wrong costs less",
    )
    l1: float = Field(1.0, ge=0, description="weight of the absolute error")
    l2: float = Field(1.0, ge=0, description="weight of the squared error")
    edges: float = Field(0.0, ge=0, description="weight of the absolute error of neighbouring pixels' steps")
    kl: float = Field(1e-5, ge=0, description="weight of the KL term, averaged over latent values")
    lpips: float = Field(0.0, ge=0, description="weight of LPIPS on one random frame of each crop")
    lpips_trunk: str | None = Field(None, description="file of VGG16's weights; null: the shipped stand-in")
    lpips_heads: str | None = Field(None, description="file of the public linear heads for VGG16")
    gan: Gan | None = Field(None, description="the adversarial loss; null: none")
    device: Annotated[str | None, MayChange] = Field(
        None, description="where the network is: cpu, cuda; null: cuda where there is one, else cpu"
    )

    @model_validator(mode="after")
    def _crops_fit(self) -> Self:
        side, most = self.size, self.frames
        if self.data is None:
            _check_codes("clip", most, side, self.vae)
        else:
            size = clip_size(self.data.size)
            side, most = min(size.height or size.short_side, size.width or size.short_side), size.frames
        if self.data is not None and (known := self._of_known_scenes()):
            raise ConfigError(
                f"a folder's clips have no known scenes: leave data out, or set {', '.join(known)}"
            )
        if self.decoder_only and self.start is None:
            raise ConfigError("decoder_only: there is no encoder to keep; set start to a model folder")
        if self.keep and (self.start is None or self.decoder_only):
            raise ConfigError(
                f"keep {self.keep:g}: holds a new encoder to the latents of the one of start; set start to a model "
                "folder, and leave decoder_only out"
            )
        ends = [phase.until for phase in self.phases]
        if ends != sorted(set(ends)):
            raise ConfigError(
                f"phases end at {ends}: every phase must end after the one before it; sort them"
            )
        if self.repeat_from not in (None, 0, *ends[:-1]):
            raise ConfigError(
                f"repeat_from {self.repeat_from}: phases end at {ends}; begin a round at 0 or where one ends, "
                "before the last, or set it to null"
            )
        for index, phase in enumerate(self.phases):
            _check_codes(f"phases.{index}", phase.frames, phase.size, self.vae)
            if not 0 < phase.fps[0] <= phase.fps[1]:
                raise ConfigError(f"phases.{index}: fps {phase.fps}: give the lowest, then the highest rate")
            rate = clip_size(self.data.size).fps if self.data is not None else None
            if rate is not None and not phase.fps[0] <= rate <= phase.fps[1]:
                raise ConfigError(
                    f"phases.{index}: fps {phase.fps}, but data.size.fps {rate:g}, at which clips are "
                    "measured; make it one of the rates trained on"
                )
            if phase.frames > (most if self.data else clip_frames(most, phase.fps[0])) or phase.size > side:
                raise ConfigError(
                    f"phases.{index}: crops of frames {phase.frames} and size {phase.size} cannot be cut from "
                    f"clips of {most} frames and {side} pixels; make frames and size at most these"
                )
        return self

    def _of_known_scenes(self) -> list[str]:
        """Each setting in use that reads the scene of a rendered clip, as it is when it is not used."""
        used = {
            "scene_mix=null": self.scene_mix is not None,
            "scene_style=plain": self.scene_style != "plain",
            "object_weight=0": self.object_weight > 0,
        }
        used |= {f"phases.{index}.on_objects=false": p.on_objects for index, p in enumerate(self.phases)}
        return [unused for unused, is_used in used.items() if is_used]

    def check(self, *, out: Path, precision: str) -> None:
        check_folder(self.data, out)

    def phase_at(self, step: int) -> CropPhase:
        """The phase that a step, counted from 0, belongs to."""
        last = self.phases[-1]
        if self.repeat_from is not None and step >= last.until:
            step = self.repeat_from + (step - last.until) % (last.until - self.repeat_from)
        return next((phase for phase in self.phases if step < phase.until), last)

    @property
    def data_folder(self) -> str | None:
        return self.data.folder if self.data is not None else None

    @property
    def has_critic(self) -> bool:
        return self.gan is not None

    @property
    def compute_device(self) -> str:
        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")

    def build(self, seed: int, steps: int | None = None) -> VAETask:
        """The task, with weights made from ``seed`` or those of ``start``. Raises ConfigError for a device that is not
        here."""
        check_device(self.compute_device)
        return VAETask(self, seed)


def _check_codes(what: str, frames: int, size: int, vae: VAEConfig) -> None:
    """Only counts that come back from the autoencoder as they went in can be compared with it."""
    back, ratio = vae.pixel_frames(vae.latent_frames(frames)), vae.spatial_compression_ratio
    if back != frames:
        raise ConfigError(
            f"{what}: {frames} frames come back from the VAE as {back}; use 8n + 1, such as 9 or 17"
        )
    if size % ratio:
        raise ConfigError(
            f"{what}: size {size} must be a multiple of {ratio}; try {-(-size // ratio) * ratio}"
        )


class VAETask(Task):
    """The autoencoder learns to reconstruct random crops of clips; see the module."""

    config: VAETraining
    module: VAE

    def __init__(self, config: VAETraining, seed: int) -> None:
        self.config, self.seed = config, seed
        torch.manual_seed(seed)
        self.module = VAE(config.vae)
        initialise(self.module)
        self.critic = PatchCritic(config.gan.critic) if config.gan else None
        self.lpips = load_lpips(config.lpips_trunk, config.lpips_heads) if config.lpips else None
        self.clips: CropSource = (
            WorldCrops(seed, config.size, config.frames, config.scene_mix, config.scene_style, config.hues)
            if config.data is None
            else FolderCrops(config.data, seed, hues=config.hues)
        )
        self.scale: float | None = None
        self.first: VAE | None = None
        if config.start is not None:
            self._start_from(find_folder(config.start))
        self.module.encoder.requires_grad_(not config.decoder_only)
        for network in (self.module, self.critic, self.lpips, self.first):
            if network is not None:
                network.to(config.compute_device)
        for weight in self.module.parameters():
            if weight.ndim == 5:  # 3D convolutions on a CPU run up to twice as fast with channels last
                weight.data = weight.data.contiguous(memory_format=torch.channels_last_3d)

    def _start_from(self, folder: Path) -> None:
        from cogvideox.checkpoints.diffusers import load_vae

        start = load_vae(folder, dtype="float32")
        if start.config.changed(scaling_factor=1.0) != self.config.vae.changed(scaling_factor=1.0):
            raise ConfigError(f"start {folder}: its VAE has another config than task.vae; make them equal")
        self.module.load_state_dict(start.state_dict())
        if self.config.decoder_only or self.config.keep:
            self.scale = start.config.scaling_factor
        if self.config.keep:
            self.first = start.requires_grad_(False)

    def losses(self, micro_step: int) -> dict[str, Tensor]:
        """Reconstruction of random crops of random clips."""
        step = micro_step // self.config.accumulation
        phase = self.config.phase_at(step)
        pixels, weight = self._drawn(phase, micro_step)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.decoder_only):
            latents = self.module.encode(pixels, coding=phase.coding)
        sample = latents.sample(generator(self.seed, "latent noise", micro_step))
        if self.config.latent_noise:
            sample = self._disturbed(sample, micro_step)
        decoded = self.module.decode(sample, coding=phase.coding).float()
        error = decoded - pixels
        l1, l2 = (error.abs() * weight).mean(), (error.square() * weight).mean()
        edges = error.diff(dim=-2).abs().mean() + error.diff(dim=-1).abs().mean()
        kl = kl_loss(latents.mean, latents.logvar)
        report = {"l1": l1, "psnr": psnr(error.square().mean()), "edges": edges, "kl": kl}
        loss = self.config.l1 * l1 + self.config.l2 * l2 + self.config.edges * edges
        if self.first is not None:
            report["moved"] = self._moved(self.first, latents.mean, pixels, phase)
            loss = loss + self.config.keep * report["moved"]
        if self.config.lpips:
            draw = generator(self.seed, "frame", micro_step)
            frames = torch.randint(phase.frames, (phase.batch,), generator=draw)
            assert self.lpips is not None, "read where the loss has a weight"
            report["lpips"] = perceptual_loss(self.lpips, decoded, pixels, frames.to(pixels.device))
            loss = loss + self.config.lpips * report["lpips"]
        gan = self.config.gan
        if gan is not None and step >= gan.start:
            assert self.critic is not None, "made where there is a GAN loss"
            last = self.module.decoder.conv_out.conv.weight
            sides = adversarial_losses(self.critic, decoded, pixels, loss, last)
            report |= {"gan": sides.decoder, "gan_weight": sides.weight, "critic": sides.critic}
            loss = loss + gan.weight * sides.weight * sides.decoder + sides.critic
        return {"loss": loss + self.config.kl * kl, **report}

    def _moved(self, first: VAE, latents: Tensor, pixels: Tensor, phase: CropPhase) -> Tensor:
        """Mean squared distance of latents from those of the VAE we started from, where these have unit variance."""
        assert self.scale is not None, "the factor of start"
        with torch.no_grad():
            wanted = first.encode(pixels, coding=phase.coding).mean
        return (self.scale * (latents - wanted)).square().mean()

    def _disturbed(self, latents: Float[Tensor, "b c t h w"], micro_step: int) -> Float[Tensor, "b c t h w"]:
        """Latents with white noise, of another size for each clip (Yang et al. 2025, arXiv 2507.15856, blend it in).

        It grows with the spread of the latents: an encoder cannot escape it by making them larger.
        """
        draw = generator(self.seed, "noise on latents", micro_step)
        size = self.config.latent_noise * torch.rand(len(latents), 1, 1, 1, 1, generator=draw)
        noise = torch.randn(latents.shape, generator=draw)
        return latents + (size * noise).to(latents) * latents.std()

    def _drawn(self, phase: CropPhase, micro_step: int) -> tuple[Tensor, Tensor | float]:
        """The crops of a micro-step, and what the error of each of their pixels counts."""
        if isinstance(self.clips, WorldCrops) and self.config.object_weight:
            pixels, objects = self.clips.crops_and_objects(phase, micro_step)
            near = nn.functional.max_pool3d(objects, (1, 2 * NEAR + 1, 2 * NEAR + 1), 1, (0, NEAR, NEAR))
            weight = 1 + self.config.object_weight * near
            return pixels.to(self.config.compute_device), weight.to(self.config.compute_device)
        return self.clips.crops(phase, micro_step).to(self.config.compute_device), 1.0

    def data_facts(self) -> dict[str, Any] | None:
        """What a state keeps of the folder: names and lengths of both sides; captions do not matter."""
        return self.clips.fingerprint

    @torch.no_grad()
    def measure(self, module: nn.Module) -> dict[str, float]:
        """Held-out clips through the chunked coder: PSNR, flickering, LPIPS if asked for, spread of latents."""
        figures: dict[str, list[Tensor]] = {"psnr": [], "flickering": [], "lpips": []}
        vae, deviations = cast(VAE, module), []
        for clips in self.clips.held_out():
            pixels = clips.to(self.config.compute_device)
            latents = vae.encode(pixels).mode()
            decoded = vae.decode(latents).clamp(-1, 1)
            figures["psnr"].append(psnr((decoded - pixels).square().mean((1, 2, 3, 4))))
            figures["flickering"].append(flickering(decoded))
            if self.lpips is not None:
                middle = pixels.shape[2] // 2
                figures["lpips"].append(self.lpips(decoded[:, :, middle], pixels[:, :, middle]))
            deviations.append(latents.std())
        means = {
            f"held_out_{name}": float(torch.cat(values).mean()) for name, values in figures.items() if values
        }
        return means | {"latent_std": float(torch.stack(deviations).mean())}

    def export(self, module: nn.Module, folder: Path) -> None:
        """``vae/``, with the scaling factor that gives latents unit variance."""
        from cogvideox.checkpoints.diffusers import write_vae

        scale = self.scale or round(1 / self.measure(module)["latent_std"], 4)
        config = self.config.vae.changed(scaling_factor=scale)
        folder.mkdir(parents=True, exist_ok=True)
        write_vae(folder, config, module.state_dict(), shard_size="5GB")


@torch.no_grad()
def initialise(vae: VAE) -> None:
    """Begin where signal flows: unit gain in the decoder's spatial norms, almost no noise on the latents. PyTorch's
    default gives those norms a gain around zero, and latents noise of unit size; both drown the first signal."""
    log_variance = vae.encoder.conv_out.conv.bias
    assert log_variance is not None, "its convolutions have one"
    log_variance[vae.config.latent_channels :] = -6.0
    for module in vae.modules():
        if isinstance(module, SpatialNorm):
            module.conv_y.conv.weight.mul_(0.2)
            module.conv_b.conv.weight.mul_(0.2)
            gain, shift = module.conv_y.conv.bias, module.conv_b.conv.bias
            assert gain is not None and shift is not None, "its convolutions have one"
            gain.fill_(1.0)
            shift.zero_()


def psnr(squared_error: Tensor) -> Tensor:
    """Decibels for pixels in [-1, 1]."""
    return 10 * torch.log10(4 / squared_error.clamp_min(1e-12))


def flickering(pixels: Float[Tensor, "b c f h w"]) -> Float[Tensor, " b"]:
    """Mean absolute difference of neighbouring frames, in steps of 255; 0 for a single frame. The paper gives no unit
    for its flickering (Tables 1 and 2); only the direction can be compared."""
    if pixels.shape[2] == 1:
        return pixels.new_zeros(len(pixels))
    return (pixels[:, :, 1:] - pixels[:, :, :-1]).abs().mean((1, 2, 3, 4)) * 127.5
