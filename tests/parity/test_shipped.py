"""The shipped folders, opened by the public pipelines as any other model: the same sentence, the same frames."""

import numpy as np
import pytest
import torch
from PIL import Image

from cogvideox import load
from cogvideox.checkpoints.shipped import shipped_folder
from cogvideox.generation import GenerateOptions, generate
from cogvideox.world import render, sample_scene

diffusers = pytest.importorskip("diffusers")

PROMPT = "a red circle moves to the right"


@pytest.mark.parametrize(
    ("name", "cls"), [("tiny", "CogVideoXPipeline"), ("tiny-i2v", "CogVideoXImageToVideoPipeline")]
)
def test_a_shipped_model_makes_the_same_frames_in_the_public_pipeline(name: str, cls: str) -> None:
    model = load(name)
    image = render(sample_scene(0, 0, "held_out"), size=64, frames=17)[0] if name == "tiny-i2v" else None
    options = GenerateOptions(
        prompt=PROMPT, steps=3, sampler="ddim", guidance=5.0, guidance_schedule="constant"
    )
    video = generate(model, options, image=image, generator=torch.Generator().manual_seed(3))

    pipe = getattr(diffusers, cls).from_pretrained(shipped_folder(name), dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        prompt=PROMPT,
        height=64,
        width=64,
        num_frames=17,
        num_inference_steps=3,
        guidance_scale=5.0,
        max_sequence_length=model.text.max_tokens,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
        return_dict=False,
        **({} if image is None else {"image": Image.fromarray(image)}),
    )[0][0]
    assert expected.std() > 0.05  # a picture, not a grey field
    assert np.abs(video.frames / 255 - expected).max() <= 0.5 / 255 + 1e-4
