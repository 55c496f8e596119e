"""Training a small video captioner: frames to words (step 5 of the paper's caption pipeline).

From scratch on the tiny world, or on from a captioner with videos and captions that the other steps wrote. Besides the
words of the world it predicts the facts of a clip from what it sees, which teaches the eyes sooner than the words do.
Told words are sometimes blanked, so that the writer looks instead of guessing the shape from the colour.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cogvideox.captioning.local import load_captioner, save_captioner, text_of_tokens
from cogvideox.captioning.network import CaptionerConfig, CaptionerNetwork, initialise
from cogvideox.checkpoints.hub import find_folder
from cogvideox.noise import generator
from cogvideox.text import T5Config, Tokenizer
from cogvideox.text.decoder import write
from cogvideox.text.tokenizer import END, PAD, UNKNOWN
from cogvideox.training.task import Task, TaskConfig
from cogvideox.training.tasks.captions import (
    CaptionedClips,
    CaptionedWorldClips,
    RecordedClips,
    padded,
    shifted,
    word_loss,
)
from cogvideox.world import read_caption


class CaptionerTraining(TaskConfig):
    """Clips -> captions."""

    kind: Literal["captioner"] = "captioner"
    data: str | None = Field(
        None, description="metadata.jsonl of videos with captions beside it; null: the tiny world"
    )
    start: str | None = Field(None, description="captioner to start from; its shape and words are kept")
    tokenizer: str = Field("tiny", description="model folder whose tokenizer/ is used")
    width: int = Field(128, gt=0, description="d_model")
    layers: int = Field(2, gt=0, description="layers of the decoder")
    frames: int = Field(5, gt=1, description="pictures of a clip")
    size: int = Field(40, gt=15, description="their height and width")
    clips: int = Field(6000, gt=0, description="clips of the tiny world, kept in memory")
    batch: int = Field(32, gt=0, description="clips a step")
    blank: float = Field(0.2, ge=0, lt=1, description="share of told words that are hidden")
    facts_weight: float = Field(1.0, ge=0, description="weight of predicting the facts (tiny world only)")
    noise: float = Field(6.0, ge=0, description="grey levels: largest deviation of the noise added to a clip")
    held_out: int = Field(128, gt=0, description="clips of each split that are measured")

    def build(self, seed: int, steps: int | None = None) -> CaptionerTask:
        """The task, with weights made from ``seed``."""
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
    """See the module's docstring."""

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
        """Cross-entropy of the next word, and of every fact."""
        c, g = self.config, generator(self.seed, "clips", step)
        rows = torch.randint(self.clips.count, (c.batch,), generator=g).tolist()
        pixels = torch.stack([self.clips.pictures("train", row) for row in rows])
        deviation = torch.rand(c.batch, 1, 1, 1, 1, generator=g) * c.noise
        noisy = pixels + deviation * torch.randn(pixels.shape, generator=g)
        words = self._words("train", rows, step)
        told = shifted(words)
        hidden = (torch.rand(told.shape, generator=g) < c.blank) & (told != PAD)
        seen = self.module.captioner.encode(noisy)
        scores = self.module.captioner(seen, told.masked_fill(hidden, UNKNOWN))
        text = word_loss(scores, words)
        if not self.clips.labels or not c.facts_weight:
            return {"loss": text, "words": text}
        fact = F.binary_cross_entropy_with_logits(self.module.facts(seen.mean(1)), self.clips.truth(rows))
        return {"loss": text + c.facts_weight * fact, "words": text, "facts": fact}

    @torch.no_grad()
    def measure(self, module: nn.Module) -> dict[str, float]:
        """For each split that is not trained on: loss, share of true facts that are told, of told facts that are true,
        and of captions with all facts right. For the tiny world ``new`` clips are of the kinds seen in training,
        ``held_out`` ones show combinations never seen.
        """
        found: dict[str, float] = {}
        network = module.captioner
        for split, rows in self.clips.measured.items():
            pixels = torch.stack([self.clips.pictures(split, row) for row in rows])
            seen, words = network.encode(pixels), self._words(split, rows, 0)
            found[f"{split}_loss"] = float(word_loss(network(seen, shifted(words)), words))
            told = write(network.shared, network.decoder, network.lm_head, seen, None, network.config.longest)
            pairs = [
                (self.clips.facts(split, row), set(read_caption(text_of_tokens(self.tokenizer, ids))))
                for row, ids in zip(rows, told, strict=True)
            ]
            if any(true for true, _ in pairs):
                found |= {f"{split}_{key}": value for key, value in agreement(pairs).items()}
        return found

    def export(self, module: nn.Module, folder: Path) -> None:
        """``config.json``, ``model.safetensors``, ``tokenizer/``."""
        save_captioner(folder, module.captioner, self.tokenizer)

    def _words(self, split: str, rows: list[int], variant: int) -> Tensor:
        texts = [self.clips.text(split, row, variant) for row in rows]
        longest = self.module.captioner.config.longest
        return padded([[*self.tokenizer.encode(text)[: longest - 1], END] for text in texts])


def _start(config: CaptionerTraining, seed: int) -> tuple[CaptionerNetwork, Tokenizer]:
    if config.start is not None:
        found = load_captioner(None if config.start == "shipped" else config.start)
        return found.network.train(), found.tokenizer
    tokenizer = Tokenizer.read(find_folder(config.tokenizer) / "tokenizer")
    text = T5Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        d_model=config.width,
        d_kv=config.width // 4,
        d_ff=2 * config.width,
        num_layers=config.layers,
        num_heads=4,
    )
    shape = CaptionerConfig(frames=config.frames, size=config.size, text=text)
    return initialise(CaptionerNetwork(shape), generator(seed, "captioner weights")), tokenizer


def agreement(pairs: list[tuple[set, set]]) -> dict[str, float]:
    """(true, told) sets of facts -> ``right`` (of the true ones, told), ``true`` (of the told ones), ``all``."""
    both = sum(len(true & told) for true, told in pairs)
    return {
        "right": both / max(1, sum(len(true) for true, _ in pairs)),
        "true": both / max(1, sum(len(told) for _, told in pairs)),
        "all": sum(true == told for true, told in pairs) / len(pairs),
    }
