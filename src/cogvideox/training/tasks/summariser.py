"""Training a small summariser: captions of frames to one of the clip (step 4 of the paper's caption pipeline).

It learns from what a language model wrote in step 3, so that millions of clips need no such model. It starts from
scratch, from an earlier summariser, or from any T5 v1.1 or Flan-T5 folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from cogvideox.captioning.local import load_summariser, save_summariser
from cogvideox.captioning.stages import merge_text
from cogvideox.clip import Caption
from cogvideox.errors import ConfigError
from cogvideox.noise import generator
from cogvideox.text import T5, Tokenizer, train_tokenizer
from cogvideox.text.tokenizer import END
from cogvideox.training.task import Task, TaskConfig
from cogvideox.training.tasks.captions import is_held_out, next_token_loss, padded, read_lines, shifted
from cogvideox.training.tasks.text_encoder import small_t5


class SummariserTraining(TaskConfig):
    """Settings: captions of frames -> caption of the clip."""

    kind: Literal["summariser"] = Field("summariser", description="the task: train a summariser")
    data: str = Field(description="JSON lines of records with notes, as `cogvideox caption` writes them")
    start: str | None = Field(None, description="summariser or T5 folder whose sizes and tokenizer are kept")
    width: int = Field(128, gt=0, description="d_model")
    layers: int = Field(2, gt=0, description="layers of encoder and decoder")
    vocabulary: int = Field(512, gt=0, description="at most this many SentencePiece pieces")
    longest: int = Field(512, gt=0, description="tokens; longer texts are cut")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of activations that are dropped")
    batch: int = Field(16, gt=0, description="texts a step")
    held_out: int = Field(64, gt=0, description="texts that are measured")

    def build(self, seed: int, steps: int | None = None) -> SummariserTask:
        return SummariserTask(self, seed)


class SummariserTask(Task):
    """The summariser learns one caption from captions of frames; see the module."""

    config: SummariserTraining

    def __init__(self, config: SummariserTraining, seed: int) -> None:
        self.config, self.seed = config, seed
        pairs = read_pairs(Path(config.data))
        self.train = [pair for pair in pairs if not is_held_out(pair[0])]
        self.held_out = [pair for pair in pairs if is_held_out(pair[0])][: config.held_out]
        if not self.train or not self.held_out:
            raise ConfigError(
                f"data {config.data}: {len(pairs)} merged captions are too few; give some dozens"
            )
        self.module, self.tokenizer = self._start()

    def losses(self, step: int) -> dict[str, Tensor]:
        """Cross-entropy of the next token."""
        g = generator(self.seed, "texts", step)
        indices = torch.randint(len(self.train), (self.config.batch,), generator=g).tolist()
        return {"loss": self._loss(self.module, [self.train[index] for index in indices])}

    @torch.no_grad()
    def measure(self, module: nn.Module) -> dict[str, float]:
        """Cross-entropy of the next token of texts that are not trained on."""
        return {"held_out_loss": float(self._loss(module, self.held_out))}

    def export(self, module: nn.Module, folder: Path) -> None:
        """``config.json``, ``model.safetensors``, ``tokenizer/``."""
        save_summariser(folder, cast(T5, module), self.tokenizer)

    def _loss(self, module: nn.Module, pairs: Sequence[tuple[str, str]]) -> Tensor:
        longest = self.config.longest
        captions, summary = (
            padded([[*self.tokenizer.encode(pair[side])[: longest - 1], END] for pair in pairs])
            for side in (0, 1)
        )
        return next_token_loss(module(captions, shifted(summary)), summary)

    def _start(self) -> tuple[nn.Module, Tokenizer]:
        c = self.config
        if c.start is not None:
            summariser = load_summariser(c.start)
            return summariser.network.train(), summariser.tokenizer
        texts = [text for pair in self.train for text in pair]
        tokenizer = train_tokenizer(texts, c.vocabulary, c.longest)
        shape = small_t5(tokenizer, width=c.width, layers=c.layers, dropout=c.dropout)
        return T5(shape).initialise(generator(self.seed, "summariser weights")), tokenizer


def read_pairs(file: Path) -> list[tuple[str, str]]:
    """(captions of frames, summary) of each record that has both. Raises ConfigError."""
    pairs = []
    for line in read_lines(file, "notes"):
        notes = [Caption.parse(note, str(file)) for note in line["notes"]]
        dense = [note.text for note in notes if note.kind == "dense"]
        if dense and any(note.kind == "frame" for note in notes):
            pairs.append((merge_text(notes), dense[-1]))
    return pairs
