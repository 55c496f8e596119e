"""Training a small video captioner: frames to text (step 5 of the paper's caption pipeline).

From scratch on the tiny world, or on from a captioner with videos and captions that the other steps wrote. Besides the
next token it predicts the facts of a clip from its features, which trains the image encoder sooner than text does.
Tokens that the decoder reads are sometimes blanked, so that it does not guess the shape from the colour.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cogvideox.captioning.local import (
    CaptionerConfig,
    CaptionerNetwork,
    initialise,
    load_captioner,
    save_captioner,
    text_of_tokens,
)
from cogvideox.checkpoints.hub import find_folder
from cogvideox.noise import generator
from cogvideox.text import Tokenizer
from cogvideox.text.decoder import greedy_decode
from cogvideox.text.tokenizer import END, PAD, UNKNOWN
from cogvideox.training.task import Task, TaskConfig
from cogvideox.training.tasks.captions import (
    CaptionedClips,
    CaptionedWorldClips,
    RecordedClips,
    next_token_loss,
    padded,
    shifted,
)
from cogvideox.training.tasks.text_encoder import small_t5
from cogvideox.world import read_caption
from cogvideox.world.captions import Check


class CaptionerTraining(TaskConfig):
    """Settings: frames of clips -> captions."""

    kind: Literal["captioner"] = Field("captioner", description="the task: train a captioner")
    data: str | None = Field(None, description="metadata.jsonl beside its videos; null: the tiny world")
    start: str | None = Field(None, description="captioner to start from; its sizes and tokenizer are kept")
    tokenizer: str = Field("tiny", description="model folder whose tokenizer/ is used")
    width: int = Field(128, gt=0, description="d_model")
    layers: int = Field(2, gt=0, description="layers of the decoder")
    frames: int = Field(5, gt=1, description="frames of a clip that are looked at")
    size: int = Field(40, gt=15, description="height and width of these frames, in pixels")
    clips: int = Field(6000, gt=0, description="clips of the tiny world, kept in memory")
    batch: int = Field(32, gt=0, description="clips a step")
    blank: float = Field(0.2, ge=0, lt=1, description="share of the decoder's tokens that are hidden")
    facts_weight: float = Field(1.0, ge=0, description="weight of predicting the facts (tiny world only)")
    noise: float = Field(6.0, ge=0, description="grey levels: largest deviation of the noise added to a clip")
    held_out: int = Field(128, gt=0, description="clips of each split that are measured")

    def build(self, seed: int, steps: int | None = None) -> CaptionerTask:
        return CaptionerTask(self, seed)


class Watcher(nn.Module):
    """The captioner, and a linear read-out of facts that is thrown away after training."""

    def __init__(self, captioner: CaptionerNetwork, facts: int) -> None:
        super().__init__()
        self.captioner = captioner
        self.facts = nn.Linear(captioner.config.text.d_model, max(1, facts))  # unused without facts
        nn.init.zeros_(self.facts.weight)
        nn.init.zeros_(self.facts.bias)


class CaptionerTask(Task):
    """The captioner learns to write the captions of clips; see the module."""

    config: CaptionerTraining
    module: Watcher

    def __init__(self, config: CaptionerTraining, seed: int) -> None:
        self.config, self.seed = config, seed
        network, self.tokenizer = _start(config, seed)
        shape = network.config
        self.clips: CaptionedClips = (
            CaptionedWorldClips(seed, config.clips, config.held_out, shape)
            if config.data is None
            else RecordedClips(Path(config.data), config.held_out, shape)
        )
        self.module = Watcher(network, len(self.clips.labels))

    def losses(self, step: int) -> dict[str, Tensor]:
        """Cross-entropy of the next token, and of every fact."""
        c, g = self.config, generator(self.seed, "clips", step)
        indices = torch.randint(self.clips.count, (c.batch,), generator=g).tolist()
        pixels = torch.stack([self.clips.pictures("train", index) for index in indices])
        deviation = torch.rand(c.batch, 1, 1, 1, 1, generator=g) * c.noise
        noisy = pixels + deviation * torch.randn(pixels.shape, generator=g)
        ids = self._token_ids("train", indices, step)
        before = shifted(ids)
        blanked = (torch.rand(before.shape, generator=g) < c.blank) & (before != PAD)
        features = self.module.captioner.encode(noisy)
        logits = self.module.captioner(features, before.masked_fill(blanked, UNKNOWN))
        text = next_token_loss(logits, ids)
        if not self.clips.labels or not c.facts_weight:
            return {"loss": text, "words": text}
        fact = F.binary_cross_entropy_with_logits(
            self.module.facts(features.mean(1)), self.clips.truth(indices)
        )
        return {"loss": text + c.facts_weight * fact, "words": text, "facts": fact}

    @torch.no_grad()
    def measure(self, module: nn.Module) -> dict[str, float]:
        """For each split that is measured: loss, recall and precision of facts in written captions, and the share of
        captions with all facts right. For the tiny world ``new`` clips are of the kinds seen in training, ``held_out``
        ones show combinations never seen.
        """
        figures: dict[str, float] = {}
        network = module.captioner
        assert isinstance(network, CaptionerNetwork)
        for split, indices in self.clips.measured.items():
            pixels = torch.stack([self.clips.pictures(split, index) for index in indices])
            features, ids = network.encode(pixels), self._token_ids(split, indices, 0)
            figures[f"{split}_loss"] = float(next_token_loss(network(features, shifted(ids)), ids))
            written = greedy_decode(
                network.shared, network.decoder, network.lm_head, features, None, network.config.longest
            )
            pairs = [
                (self.clips.facts(split, index), set(read_caption(text_of_tokens(self.tokenizer, caption))))
                for index, caption in zip(indices, written, strict=True)
            ]
            if any(true for true, _ in pairs):
                figures |= {f"{split}_{key}": value for key, value in agreement(pairs).items()}
        return figures

    def export(self, module: nn.Module, folder: Path) -> None:
        """``config.json``, ``model.safetensors``, ``tokenizer/``."""
        save_captioner(folder, cast(Watcher, module).captioner, self.tokenizer)

    def _token_ids(self, split: str, indices: list[int], variant: int) -> Tensor:
        texts = [self.clips.text(split, index, variant) for index in indices]
        longest = self.module.captioner.config.longest
        return padded([[*self.tokenizer.encode(text)[: longest - 1], END] for text in texts])


def _start(config: CaptionerTraining, seed: int) -> tuple[CaptionerNetwork, Tokenizer]:
    if config.start is not None:
        captioner = load_captioner(None if config.start == "shipped" else config.start)
        return captioner.network.train(), captioner.tokenizer
    tokenizer = Tokenizer.read(find_folder(config.tokenizer) / "tokenizer")
    text = small_t5(tokenizer, width=config.width, layers=config.layers)
    shape = CaptionerConfig(frames=config.frames, size=config.size, text=text)
    return initialise(CaptionerNetwork(shape), generator(seed, "captioner weights")), tokenizer


def agreement(pairs: list[tuple[set[Check], set[Check]]]) -> dict[str, float]:
    """(true, stated) facts of captions -> ``right`` (recall), ``true`` (precision), ``all`` (share without a fault)."""
    both = sum(len(true & stated) for true, stated in pairs)
    return {
        "right": both / max(1, sum(len(true) for true, _ in pairs)),
        "true": both / max(1, sum(len(stated) for _, stated in pairs)),
        "all": sum(true == stated for true, stated in pairs) / len(pairs),
    }
