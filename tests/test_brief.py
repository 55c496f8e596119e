"""Values with tensors in them are one line at a prompt, whatever they hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import cogvideox
from cogvideox.brief import brief
from cogvideox.checkpoints import Adapter, Pair, SatFile
from cogvideox.conditioning import Conditioning
from cogvideox.generation import Given
from cogvideox.generation.conditions import Shown
from cogvideox.generation.pipeline import Explicit
from cogvideox.generation.turn import Progress
from cogvideox.text.encoder import TextEmbedding
from cogvideox.transformer.controlnet import Control, ControlNet, ControlNetConfig
from cogvideox.vae.vae import Gaussian
from cogvideox.video import Video
from support.models import golden_model

T = torch.randn(2, 3, 4, 5, 6)
PAIR = Pair(torch.randn(4, 32), torch.randn(32, 4), 2.0)
FRAMES = np.zeros((9, 32, 48, 3), np.uint8)
with torch.device("meta"):
    NET = ControlNet(
        ControlNetConfig(num_layers=1, num_attention_heads=1, attention_head_dim=64, time_embed_dim=8)
    )
VALUES = [
    Adapter({f"transformer_blocks.{n}.attn1.to_q": PAIR for n in range(42)}, "diffusers", "given"),
    PAIR,
    SatFile(Path("t.pt"), "transformer", {str(n): T for n in range(300)}),
    golden_model(),
    Conditioning("text", T, T),
    Given(
        image=FRAMES[0],
        keyframes={n: FRAMES[0] for n in range(8)},
        mask=FRAMES[..., 0],
        video=Video(FRAMES, 8.0),
    ),
    Shown("pictures", T, T, {0: T}),
    Explicit(prompt_embedding=T, initial_latents=T),
    Progress("denoise", 1, 2, 0.5, T),
    TextEmbedding(T, [1], 2, [""]),
    Gaussian(T, T),
    Control(NET, T),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_what_holds_tensors_is_one_short_line(value):
    shown = repr(value)
    assert shown.startswith(type(value).__name__) and "\n" not in shown and len(shown) < 2500
    assert "tensor(" not in shown and "array(" not in shown and "Linear(" not in shown


def test_shapes_types_and_counts_are_there():
    assert (
        repr(PAIR)
        == "Pair(a=float32[4, 32], b=float32[32, 4], alpha=2.0, bias=None, magnitude=None, kernel=())"
    )
    assert "'transformer_blocks.3.attn1.to_q': Pair(" in repr(VALUES[0]) and "... 42 in all}" in repr(
        VALUES[0]
    )
    assert "transformer=Transformer, vae=VAE" in repr(golden_model())
    assert brief([1, (FRAMES,), {"a": T}]) == "[1, (uint8[9, 32, 48, 3]), {'a': float32[2, 3, 4, 5, 6]}]"
    assert brief("x" * 300) == "'" + "x" * 199 + "..."


def test_the_model_of_a_notebook_names_its_kind():
    assert "name='tiny'" in repr(cogvideox.load("tiny", device="cpu"))
