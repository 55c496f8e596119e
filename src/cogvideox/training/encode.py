"""Encoding the clips and captions of a run before it trains: by this process, several, or a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cogvideox.checkpoints.diffusers import load_vae
from cogvideox.checkpoints.text import load_text
from cogvideox.data.encode_elsewhere import ClipEncoders
from cogvideox.data.latents import digest_of
from cogvideox.engines import HERE, JobEngine
from cogvideox.errors import ConfigError
from cogvideox.training.config import Run, TrainConfig
from cogvideox.training.sequence import RunSequence
from cogvideox.training.tasks.diffusion import DiffusionTraining
from cogvideox.training.tasks.diffusion_data import DiffusionData
from cogvideox.training.tasks.diffusion_network import load_config, model_folders


@dataclass(frozen=True)
class EncodedData:
    """What the cache of a run holds: its folder, how many clips to train on and to measure with, and those that could
    not be read."""

    cache: Path
    train: int
    held_out: int
    dropped: dict[str, str]


def encode_data(config: Run | RunSequence, engine: JobEngine = HERE) -> EncodedData:
    """Put the latents and text embeddings that a run will read into its cache (``task.cache``); what is there stays.

    The clips are those that ``train`` with the same settings would encode before its first step, so it finds them all.
    ``engine``: where they are encoded; each worker loads the autoencoder once. Captions are encoded by this process.
    Of several stages all are prepared. Raises ConfigError for a task that reads no latents, and what ``train`` raises
    about its data.
    """
    runs = config.runs_to_encode() if isinstance(config, RunSequence) else [config]
    found = [_encode(run, engine) for run in runs]
    dropped = {name: reason for each in found for name, reason in each.dropped.items()}
    train, held_out = sum(each.train for each in found), sum(each.held_out for each in found)
    return EncodedData(found[0].cache, train, held_out, dropped)


def _encode(run: TrainConfig, engine: JobEngine) -> EncodedData:
    config = run.task
    if not isinstance(config, DiffusionTraining):
        raise ConfigError(
            f"task.kind {config.kind}: reads no latents, so there is nothing to encode before it"
        )
    folders = model_folders(config)
    config = config.completed()
    vae = load_vae(folders["vae"], dtype="float32").eval().requires_grad_(False)
    text = load_text(folders["text"], dtype="float32")
    network = config.transformer or load_config(folders["start"])
    workers = ClipEncoders(
        engine, folders["vae"], digest_of(vae.encoder, vae.config), Path(config.cache), config.compute_device
    )
    data = DiffusionData(
        config,
        vae.to(config.compute_device if engine.is_here else "cpu"),
        text,
        network,
        seed=run.seed,
        micro_steps=run.steps * config.accumulation,
        elsewhere=None if engine.is_here else workers.encode,
    )
    clips = [data.train.clips, data.held_out.clips]
    if config.object_weight:
        data.by_story()
    dropped = {name: reason for each in clips for name, reason in each.dropped.items()}
    return EncodedData(Path(config.cache), len(clips[0]), len(clips[1]), dropped)
