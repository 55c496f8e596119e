"""An adapter trained here on a folder of clips loads in diffusers' pipeline, and both make the same video."""

from __future__ import annotations

import pytest
import torch

from cogvideox.checkpoints import load_lora, load_model
from cogvideox.data.clips import ClipSize
from cogvideox.generation import GenerateOptions
from cogvideox.training.loop import TrainConfig, train
from cogvideox.training.optim import OptimConfig
from cogvideox.training.tasks.diffusion import DiffusionTraining
from cogvideox.training.tasks.diffusion_settings import LoraTuning
from cogvideox.training.tasks.folder import FolderData
from parity.test_generate import ours, pipeline, theirs
from support.clip_folders import write_layout
from support.models import write_model_folder

pytest.importorskip("peft")


def test_the_public_pipeline_makes_the_same_video_with_it(tmp_path):
    toy = str(write_model_folder(tmp_path / "toy"))
    write_layout(tmp_path / "clips", "labels", count=4, size=32)
    data = FolderData(folder=str(tmp_path / "clips"), size=ClipSize(frames=9, short_side=32), budget=80)
    task = DiffusionTraining(
        start=toy,
        vae=toy,
        text=toy,
        cache=str(tmp_path / "cache"),
        data=data,
        lora=LoraTuning(rank=4, alpha=8),
    )
    optim = OptimConfig(lr=0.05, warmup=0)
    result = train(TrainConfig(name="lora", task=task, out=str(tmp_path / "out"), steps=4, optim=optim))
    model = load_model(toy)
    plain, _ = ours(model, GenerateOptions(steps=3, sampler="ddim"), 3)
    pipe = pipeline(model, "ddim", "t2v")
    pipe.load_lora_weights(str(result))
    load_lora(model, result)
    latents, video = ours(model, GenerateOptions(steps=3, sampler="ddim"), 3)
    expected = theirs(pipe, 3, num_frames=9, num_inference_steps=3)
    torch.testing.assert_close(latents, expected, atol=1e-4, rtol=0)
    assert len(video) == 9 and not torch.allclose(latents, plain, atol=1e-2)
