"""The world through an autoencoder: is the truth still there, and how far are the pixels?

A model that draws in latents cannot show more than its autoencoder does, so this is the ceiling of the world
suite.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from cogvideox.evaluation.fidelity import psnr_of_clip
from cogvideox.evaluation.world import WorldReport
from cogvideox.video import Video
from cogvideox.world import judge, render
from cogvideox.world.held_out import Prompt, held_out_prompts

FPS = 8.0  # of no consequence: frames go in and frames come out

Code = Callable[[np.ndarray], np.ndarray]
"""Frames [t, h, w, 3] uint8, encoded and decoded again."""


@dataclass(frozen=True)
class Reconstruction:
    """What the judge saw in decoded truth, and the PSNR of every clip in dB."""

    report: WorldReport
    psnr: tuple[float, ...]

    def table(self) -> str:
        """Markdown: the judge's table and a line about pixels."""
        mean, low = float(np.mean(self.psnr)), min(self.psnr)
        return (
            f"{self.report.table()}\n\nPSNR: mean {mean:.1f} dB, lowest {low:.1f} dB, {len(self.psnr)} clips."
        )

    def to_json(self) -> str:
        """Every verdict, row and PSNR."""
        return json.dumps({**json.loads(self.report.to_json()), "psnr": self.psnr}, indent=1)


def evaluate_reconstruction(
    code: Code,
    prompts: Sequence[Prompt] | None = None,
    on_item: Callable[[int, int], Any] | None = None,
) -> Reconstruction:
    """Render the scene of every held-out prompt, pass it through ``code``, and judge what comes back."""
    prompts = held_out_prompts() if prompts is None else prompts
    records, decibels = [], []
    for done, prompt in enumerate(prompts, 1):
        truth = render(prompt.scene)
        coded = code(truth)
        verdict = judge(coded, prompt.checks).to_dict()
        records.append({"id": prompt.id, "tier": prompt.tier, "prompt": prompt.prompt, "verdict": verdict})
        decibels.append(psnr_of_clip(coded, truth))
        if on_item is not None:
            on_item(done, len(prompts))
    return Reconstruction(WorldReport(records), tuple(decibels))


def round_trip(vae: nn.Module) -> Code:
    """A coder out of an autoencoder with ``encode(pixels).mode()`` and ``decode``: mean latents, its own coding."""

    @torch.inference_mode()
    def code(frames: np.ndarray) -> np.ndarray:
        weight = next(vae.parameters())
        pixels = Video(frames, FPS).to_tensor().to(weight.device, weight.dtype)
        return Video.from_tensor(vae.decode(vae.encode(pixels).mode()), FPS).frames[: len(frames)]

    return code
