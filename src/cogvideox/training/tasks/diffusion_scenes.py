"""What known scenes add to training the transformer: objects that count more, and a dense auxiliary loss.

Of a clip of the tiny world is known what covers each cell of its latents (``cogvideox.world.cells``). Objects are a
fifth of the cells and all of what a prompt asks for: ``object_weight`` lets their velocity errors count more, and
``scene_targets`` teaches the tokens of a middle block what they show, as representation alignment does with features of
another network (REPA, arXiv 2410.06940), here with exact labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.data.clips import WorldClips
from cogvideox.data.latents import EncodedClips
from cogvideox.diffusion import Schedule
from cogvideox.training.tasks.diffusion_batches import DiffusionBatcher, velocity_errors
from cogvideox.transformer import Transformer
from cogvideox.world import get_style
from cogvideox.world.cells import CELL_FACTS, cell_facts

OBJECT_BANDS = (300, 500, 700)
"""Timesteps, of 1000, at which a video's shapes are decided: there errors on objects are measured."""


class SceneCells:
    """``cell_facts`` of the clips of the tiny world, for each cell of their latents; computed once, kept in float16."""

    def __init__(self, clips: EncodedClips) -> None:
        assert isinstance(clips.source, WorldClips), "the settings refuse a folder"
        self.clips, self.source = clips, clips.source
        self._kept: dict[int, np.ndarray] = {}

    def of(self, clip: int) -> Float[Tensor, "facts t h w"]:
        """What the scene of one clip says of each of its latents, in 0..1."""
        if clip not in self._kept:
            grid = self.clips.shape(clip)[1:]
            scene = self.source.scene(self.clips.indices[clip])
            facts = cell_facts(scene, self.source.side, self.source.frames, (grid[0], grid[1], grid[2]))
            self._kept[clip] = facts.astype(np.float16)
        return torch.from_numpy(self._kept[clip]).float()

    def covered(self, clip: int) -> Float[Tensor, "t h w"]:
        """The share of each latent that objects cover."""
        return self.of(clip)[0]

    def weights(self, clips: Sequence[int], object_weight: float) -> list[Float[Tensor, "t h w"]]:
        """1 + ``object_weight`` times the share that objects cover, scaled to mean 1 over each clip."""
        weights = [1 + object_weight * self.covered(clip) for clip in clips]
        return [weight / weight.mean() for weight in weights]


class CellReader(nn.Module):
    """A linear read-out of ``cell_facts`` from the normed video tokens of one block, trained beside the network."""

    def __init__(self, width: int, facts: int = len(CELL_FACTS)) -> None:
        super().__init__()
        self.head = nn.Linear(width, facts)
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, -2.0)  # most cells show nothing

    def errors(
        self,
        tokens: Float[Tensor, "b n d"],
        truth: Float[Tensor, "b facts t h w"],
        patch: tuple[int, int, int],
    ) -> Float[Tensor, " b"]:
        """Cross-entropy of each clip between what its tokens say and the shares of ``truth`` in their patches."""
        pooled = F.avg_pool3d(truth, patch).flatten(2).transpose(1, 2)
        logits = self.head(
            F.layer_norm(tokens.float(), tokens.shape[-1:])
        )  # the residual stream has any scale
        return F.binary_cross_entropy_with_logits(logits, pooled, reduction="none").mean((1, 2))


@contextmanager
def block_output(network: Transformer, block: int) -> Iterator[list[Tensor]]:
    """Inside, each forward pass adds the sequence [b, n, d] that leaves one block to the list."""
    outputs: list[Tensor] = []
    hook = network.transformer_blocks[block].register_forward_hook(
        lambda module, inputs, output: outputs.append(output)
    )
    try:
        yield outputs
    finally:
        hook.remove()


class ObjectErrors:
    """Velocity error where objects are, story by story, of fixed clips of held-out combinations.

    The mean over a whole frame cannot see shapes: most of it is the ground, and at high noise what no model can know.
    """

    width = 2

    def __init__(self, batcher: DiffusionBatcher, schedule: Schedule) -> None:
        self.batcher, self.schedule, self.cells = batcher, schedule, SceneCells(batcher.clips)
        total = schedule.config.num_train_timesteps
        stories = get_style(self.cells.source.style).tiers
        tiers = [self.cells.source.scene(index).tier for index in batcher.clips.indices]
        of_story = {story: [clip for clip, tier in enumerate(tiers) if tier == story] for story in stories}
        bands = [band * total // 1000 for band in OBJECT_BANDS]
        self.batches = [(story, band, clips) for story, clips in of_story.items() if clips for band in bands]

    @torch.no_grad()
    def measure(self, module: nn.Module, index: int) -> tuple[float, float]:
        """(sum of the errors of one batch, weight of the cells they were summed over)."""
        _, band, clips = self.batches[index]
        covered = [self.cells.covered(clip) for clip in clips]
        weights = [cover / cover.mean() for cover in covered]
        times = torch.full((len(clips),), band)
        errors = velocity_errors(module, self.schedule, self.batcher.fixed(clips), times, weights)
        return float(errors.double().sum()), float(len(clips))

    def figures(self, measured: Sequence[Sequence[float]]) -> dict[str, float]:
        """``objects_STORY``: mean over clips and bands; ``objects``: the mean of the stories."""
        sums: dict[str, list[float]] = {}
        for (story, _, _), (error, clips) in zip(self.batches, measured, strict=True):
            total = sums.setdefault(story, [0.0, 0.0])
            total[0], total[1] = total[0] + error, total[1] + clips
        means = {f"objects_{story}": error / clips for story, (error, clips) in sums.items()}
        return means | {"objects": sum(means.values()) / len(means)}
