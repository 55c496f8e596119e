"""What a step of VAE training adds up, and what a decoder-only run leaves alone."""

from pathlib import Path

import torch

from cogvideox.checkpoints.diffusers import load_vae, write_vae
from cogvideox.noise import generator
from cogvideox.training.loop import TrainConfig, train
from cogvideox.training.optim import OptimConfig
from cogvideox.training.vae import Crops, VAETask, VAETraining
from cogvideox.vae import VAE, VAEConfig

SMALL = VAEConfig(
    block_out_channels=(8, 8, 8, 8),
    layers_per_block=1,
    norm_num_groups=4,
    latent_channels=4,
    scaling_factor=0.7,
)


def task(**settings) -> VAETraining:
    phases = (Crops(until=2, frames=9, size=16, batch=1),)
    return VAETraining(vae=SMALL, phases=phases, size=16, frames=9, **settings)


def test_the_edge_term_is_the_error_of_steps_between_neighbours() -> None:
    """Written out pixel by pixel; a shift of all brightness costs L1 and no edges."""
    built = VAETask(task(edges=3.0, l1=0.0, l2=0.0, kl=0.0), seed=0)
    losses = built.losses(0)
    pixels = built._pieces(built.config.phases[0], 0)
    sample = built.module.encode(pixels, coding="whole").sample(generator(0, "latent noise", 0))
    error = built.module.decode(sample, coding="whole") - pixels
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    across = (error[..., 1:] - error[..., :-1]).abs().mean()
    torch.testing.assert_close(losses["edges"], down + across)
    torch.testing.assert_close(losses["loss"], 3 * (down + across))


def test_a_decoder_only_run_keeps_the_encoder_and_the_scale(tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = VAE(SMALL)
    write_vae(tmp_path / "start", SMALL, start.state_dict(), shard_size="5GB")
    run = TrainConfig(
        name="test",
        task=task(start=str(tmp_path / "start"), decoder_only=True),
        out=str(tmp_path / "run"),
        steps=2,
        optim=OptimConfig(lr=1e-2, warmup=0, ema=0),
    )
    trained = load_vae(train(run))
    assert trained.config.scaling_factor == 0.7
    before, after = start.state_dict(), trained.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith("decoder.") for name in moved)
