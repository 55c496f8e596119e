"""The clips a transformer is trained on: encoded once, and dealt out to micro-steps.

Clips come from the tiny world or from a folder. What the steps of a run cannot reach is not encoded. Which clips a
micro-step reads is a function of the seed and its number.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence, Set
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from cogvideox.clip_folders.listing import Listing
from cogvideox.data.clips import ClipDataset, FolderClips, WorldClips
from cogvideox.data.conditions import ConditionClips, MaskedVideos, control_maker
from cogvideox.data.latents import EncodedClips, EncodeMissing, digest_of, embedded, encoded
from cogvideox.data.masks import HOLES, WORLD_HOLES
from cogvideox.data.pack import BatchRows, Row, rows_of
from cogvideox.errors import ConfigError
from cogvideox.text import TextEncoder
from cogvideox.training.memory import Sample
from cogvideox.training.tasks.base_model import kind_trained
from cogvideox.training.tasks.diffusion_batches import DiffusionBatcher, Texts
from cogvideox.training.tasks.diffusion_conditions import (
    ClipConditions,
    EncodedConditions,
    FirstImages,
    check_encoded,
    check_masked,
    variant_of,
)
from cogvideox.training.tasks.diffusion_settings import MASKS_PER_CLIP, DiffusionSettings
from cogvideox.training.tasks.folder import (
    FolderData,
    data_fingerprint,
    list_folder,
    report_dropped,
    train_and_held_out,
)
from cogvideox.training.tasks.sizes import clip_size, tokens_of
from cogvideox.transformer import TransformerConfig
from cogvideox.vae import VAE
from cogvideox.world import get_style

HELD_OUT_CLIPS = 64
"""Clips that are measured with, at most."""
STORY_CLIPS = 56
"""Clips of the tiny world whose objects are measured, of all stories together."""


class DiffusionData:
    """Encoded clips to train on and to measure with, and the clips of each micro-step.

    ``micro_steps``: how many the run takes; clips that they cannot reach are not encoded (None: all are).
    ``elsewhere``: who encodes what the cache lacks; None: this process. Raises ConfigError when too many clips are
    unusable, or when one alone is over the token budget.
    """

    def __init__(
        self,
        config: DiffusionSettings,
        vae: VAE,
        text: TextEncoder,
        network: TransformerConfig,
        *,
        seed: int,
        micro_steps: int | None = None,
        elsewhere: EncodeMissing | None = None,
    ) -> None:
        self.elsewhere = elsewhere
        self.config, self.vae, self.text, self.network, self.seed = config, vae, text, network, seed
        self.kind = kind_trained(config, network)
        if config.data is None:
            self.train, self.held_out = self._world(micro_steps)
        else:
            self.train, self.held_out = self._folder(config.data, micro_steps)
        clips = self.train.clips
        shapes = [clips.shape(clip) for clip in range(len(clips))]
        self.tokens = [tokens_of(shape, text.max_tokens, network.patch) for shape in shapes]
        kind, budget = (config.data.batching, config.data.budget or 0) if config.data else ("batch", 0)
        if kind != "batch" and max(self.tokens) > budget:
            longest = self.tokens.index(max(self.tokens))
            raise ConfigError(
                f"task.data.budget {budget}: {clips.name(longest)} alone has {max(self.tokens)} tokens; "
                "raise the budget to that or more, or lower frames or sides of task.data.size"
            )
        self.batches = rows_of(kind, shapes, self.tokens, batch=config.batch, budget=budget, seed=seed)
        self.batches.first_sample(0)  # plans the first epoch: a clip that fits no batch is refused now
        self.train.conditions = self._conditions(self.train.clips, "train", micro_steps)
        self.held_out.conditions = self._conditions(self.held_out.clips, "held_out", None)

    def of_micro_step(self, micro_step: int) -> tuple[Row, range]:
        """(indices of the clips, numbers of the samples in the run) that one micro-step reads."""
        clips, first = self.batches[micro_step], self.batches.first_sample(micro_step)
        return clips, range(first, first + len(clips))

    def global_batch(self, micro_step: int) -> range:
        """Numbers of all samples of the step that a micro-step belongs to."""
        steps = self.micro_steps(micro_step // self.config.accumulation)
        first = self.batches.first_sample(steps.start)
        return range(first, first + sum(len(self.batches[each]) for each in steps))

    def micro_steps(self, step: int) -> range:
        """Numbers of the micro-steps of a step."""
        return range(step * self.config.accumulation, (step + 1) * self.config.accumulation)

    def names(self, micro_step: int) -> list[str]:
        """Names of the clips that one micro-step reads."""
        return [self.train.clips.name(clip) for clip in self.batches[micro_step]]

    def token_count(self, clips: Sequence[int]) -> int:
        """Tokens of these clips together, text included."""
        return sum(self.tokens[clip] for clip in clips)

    def sample_sizes(self, clips: Sequence[int]) -> list[Sample]:
        """(latent shape, text tokens) of each of these clips, for counting FLOPs."""
        return [(self.train.clips.shape(clip), self.text.max_tokens) for clip in clips]

    def fingerprint(self, networks: dict[str, str]) -> dict[str, Any]:
        """What a state keeps of the data: the clips of both sides in their order, and the frozen ``networks``."""
        captions = self.config.data is not None  # those of the tiny world follow from its clips

        def listed(batcher: DiffusionBatcher) -> list[list[str]]:
            clips, conditions = batcher.clips, batcher.conditions
            lines = [[key, clips.caption(n, 0) if captions else ""] for n, key in enumerate(clips.keys)]
            if isinstance(conditions, EncodedConditions):
                lines[0] = [*lines[0], *conditions.videos.keys]
            return lines

        return data_fingerprint(listed(self.train), listed(self.held_out), networks)

    def native_size(self) -> tuple[int, int, int, float]:
        """(frames, height, width, fps) that the trained model makes by default: the longest clips it has seen."""
        config = self.config
        if config.data is None:
            return config.frames, config.size, config.size, 8
        clips, ratio = self.train.clips, self.vae.config.spatial_compression_ratio
        _, t, h, w = max(clips.shape(clip) for clip in range(len(clips)))
        return self.vae.config.pixel_frames(t), ratio * h, ratio * w, clip_size(config.data.size).fps

    def _world(self, micro_steps: int | None) -> tuple[DiffusionBatcher, DiffusionBatcher]:
        config = self.config
        if self.kind == "inpaint":
            check_masked(config.frames, self.vae.config)
        seed = self.seed if config.clips_seed is None else config.clips_seed
        size = config.size, config.frames
        train = WorldClips(seed, "train", config.clips, *size, config.scene_mix, config.scene_style)
        held_out = WorldClips(seed, "held_out", HELD_OUT_CLIPS, *size, style=config.scene_style)
        reached = _reached(micro_steps, config.clips, config.batch, self.seed)
        return (
            self._batcher(self._encoded(train, train.split, reached), self._embed),
            self._batcher(self._encoded(held_out, held_out.split), self._embed),
        )

    def by_story(self) -> DiffusionBatcher:
        """Fixed clips of held-out combinations, of each story about as many; encodes what the cache does not hold."""
        config, seed = self.config, self.seed if self.config.clips_seed is None else self.config.clips_seed
        shares, style = dict.fromkeys(get_style(config.scene_style).tiers, 1.0), config.scene_style
        clips = WorldClips(seed, "held_out", STORY_CLIPS, config.size, config.frames, shares, style)
        batcher = self._batcher(self._encoded(clips, "stories"), self._embed)
        if self.kind != "t2v":
            batcher.conditions = self._conditions(batcher.clips, "held_out", None)
        return batcher

    def _folder(self, data: FolderData, micro_steps: int | None) -> tuple[DiffusionBatcher, DiffusionBatcher]:
        cache = self.config.cache
        listing = list_folder(data)
        total = len(listing.entries) + len(listing.dropped)
        report_dropped(data, listing.dropped, total)  # before the work of encoding
        train, held_out = train_and_held_out(data, listing)
        held_out.entries = held_out.entries[:HELD_OUT_CLIPS]
        train = self._reachable(train, data, micro_steps)
        size, digests = clip_size(data.size), Path(cache) / "digests.json"
        sources = [FolderClips(each, size, digests, data.colour) for each in (train, held_out)]
        clips = [self._encoded(source, "clips") for source in sources]
        report_dropped(data, clips[0].dropped | clips[1].dropped, total, known=len(listing.dropped))
        captions = ["", *(entry.caption for entry in (*train.entries, *held_out.entries))]
        weights = f"{digest_of(self.text.model)}/{self.text.max_tokens}"
        cached = embedded(captions, self._embed, weights, cache)

        def embed(prompts: Sequence[str]) -> list[Tensor]:
            return [cached(prompt) for prompt in prompts]

        return self._batcher(clips[0], embed), self._batcher(clips[1], embed)

    def _encoded(self, source: ClipDataset, title: str, only: Set[int] | None = None) -> EncodedClips:
        return encoded(source, self.vae, self.config.cache, title, only, self.elsewhere)

    def _reachable(self, listing: Listing, data: FolderData, micro_steps: int | None) -> Listing:
        """The clips of a folder that the steps can reach at most, drawn by the seed; says when that is not all."""
        most = len(listing.entries) if micro_steps is None else self._most_clips(listing, data, micro_steps)
        if most >= len(listing.entries):
            return listing
        print(
            f"{listing.root}: {most} of {len(listing.entries)} clips are prepared, the steps of this run reach no more",
            file=sys.stderr,
        )

        def drawn(entry: Any) -> float:
            return random.Random(f"{self.seed}/enough/{entry.name}").random()

        kept = {entry.name for entry in sorted(listing.entries, key=drawn)[:most]}
        return replace(listing, entries=[entry for entry in listing.entries if entry.name in kept])

    def _most_clips(self, listing: Listing, data: FolderData, micro_steps: int) -> int:
        """Clips that the micro-steps hold if all are as short as can be, and those that may turn out unusable."""
        if data.batching == "batch":
            most = micro_steps * self.config.batch
        else:
            size = clip_size(data.size)
            high, wide = (side // 8 for side in size.fit(1, 1))
            images = any(entry.is_image for entry in listing.entries)
            frames = 1 if images else (size.least_frames - 1) // 4 + 1
            shape = (self.network.out_channels, frames, high, wide)
            least = tokens_of(shape, self.text.max_tokens, self.network.patch)
            most = micro_steps * ceil((data.budget or 0) / least)
        return ceil(most / (1 - min(data.lost, 0.5)))

    def _batcher(self, clips: EncodedClips, embed: Texts) -> DiffusionBatcher:
        return DiffusionBatcher(
            clips,
            embed,
            self.vae,
            self.seed,
            patch_t=self.network.patch[0],
            text_dropout=self.config.text_dropout,
            condition_dropout=self.config.condition_dropout,
        )

    def _conditions(
        self, clips: EncodedClips, side: Literal["train", "held_out"], micro_steps: int | None
    ) -> ClipConditions | None:
        """What the network reads beside the noisy latents of these clips; encodes what the cache does not hold.

        Raises ConfigError for a condition that cannot be made.
        """
        config, vae = self.config, self.vae
        if self.kind == "t2v":
            return None
        if self.kind in ("i2v", "i2v-every-frame"):
            return FirstImages(clips, vae, self.seed, every_frame=self.kind == "i2v-every-frame")
        variants, maker = 1, None
        if self.kind == "inpaint":
            variants = (config.masks_per_clip or MASKS_PER_CLIP) if side == "train" else 1
            usual = WORLD_HOLES if config.data is None else HOLES
            maker = MaskedVideos(masks=dict(config.masks or usual), seed=self.seed)
            source: ClipDataset = ConditionClips.variants_of(clips.source, maker, variants)
        else:
            source = self._control_videos(clips.source)
        numbers = self._numbers(clips, variants, micro_steps if side == "train" else None)
        videos = self._encoded(source, f"{side} conditions", numbers)
        found = EncodedConditions(clips, videos, vae, self.seed, variants, maker)
        check_encoded(clips, videos, variants, sorted(numbers))
        return found

    def _control_videos(self, clips: ClipDataset) -> ClipDataset:
        name = self.config.control
        if name is None:
            raise ConfigError(
                "task.control: not set, and the model follows a control video; set task.control=canny, or a folder of "
                "control videos of the clips' names"
            )
        maker = control_maker(name)
        if maker is not None:
            return ConditionClips.variants_of(clips, maker, 1)
        assert isinstance(
            clips, FolderClips
        )  # the settings take a folder of control videos beside one of clips alone
        return clips.beside(Path(name))

    def _numbers(self, clips: EncodedClips, variants: int, micro_steps: int | None) -> set[int]:
        """The numbers of the condition videos that so many micro-steps read; None: those of all clips."""
        every = {number * variants + each for number in clips.indices for each in range(variants)}
        if micro_steps is None or self.batches.first_sample(micro_steps) > 4 * len(every):
            return every
        read = (self.of_micro_step(micro_step) for micro_step in range(micro_steps))
        return {
            clips.indices[clip] * variants + variant_of(self.seed, sample, variants)
            for row, samples in read
            for clip, sample in zip(row, samples, strict=True)
        }

    def _embed(self, prompts: Sequence[str]) -> Tensor:
        return self.text.encode(list(prompts)).values


def _reached(micro_steps: int | None, clips: int, batch: int, seed: int) -> set[int] | None:
    """Indices of the tiny world's clips that so many batches hold; None: all of them."""
    if micro_steps is None or micro_steps * batch >= clips:
        return None
    order = BatchRows(clips, batch, seed)
    return {clip for micro_step in range(micro_steps) for clip in order[micro_step]}
