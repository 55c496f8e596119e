"""Training a small text encoder for the tiny world: read the facts of a scene out of its caption.

The released models borrow T5-XXL, trained on the web. The tiny world has no such luxury, so its T5 learns its language
by a multi-label task: which facts does this caption state? The transformer then reads frozen features, as in the paper.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cogvideox.config import Config
from cogvideox.noise import generator
from cogvideox.text import T5Config, T5Encoder, TextEncoder, train_tokenizer
from cogvideox.world import caption, facts, sample_scene


class TextTraining(Config):
    """Captions of the tiny world -> facts."""

    kind: Literal["text"] = "text"
    width: int = Field(128, description="d_model, the width the transformer reads")
    layers: int = Field(2, description="T5 layers")
    heads: int = Field(4, description="attention heads")
    vocabulary: int = Field(384, description="at most this many SentencePiece pieces")
    max_tokens: int = Field(32, description="every prompt is padded or cut to this length")
    dropout: float = Field(
        0.25, ge=0, lt=1, description="keeps the reader from learning pairs of words by heart"
    )
    batch: int = Field(128, description="captions a step")
    scenes: int = Field(20000, description="scenes the captions are drawn from")

    def build(self, seed: int) -> TextTask:
        """The task, with a fresh tokenizer and weights made from ``seed``."""
        return TextTask(self, seed)


class Reader(nn.Module):
    """T5 and a linear read-out of facts from the mean over all positions, padding included."""

    def __init__(self, encoder: nn.Module, facts: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.d_model, facts)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids [b, l] -> a logit for every fact [b, facts]."""
        return self.head(self.encoder(ids).mean(1))


class TextTask:
    """See the module's docstring."""

    critic = None

    def __init__(self, config: TextTraining, seed: int) -> None:
        self.config, self.seed = config, seed
        scenes = [sample_scene(seed, index, "train") for index in range(3000)]
        texts = [caption(scene, seed, index) for index, scene in enumerate(scenes)]
        tokenizer = train_tokenizer(texts, config.vocabulary, config.max_tokens)
        self.labels = sorted({label for scene in scenes for label in labels(scene)})
        model = T5Encoder(
            T5Config(
                vocab_size=-(-len(tokenizer) // 64) * 64,
                d_model=config.width,
                d_kv=config.width // config.heads,
                d_ff=2 * config.width,
                num_layers=config.layers,
                num_heads=config.heads,
                dropout_rate=config.dropout,
            )
        ).initialise(generator(seed, "text weights"))
        self.text = TextEncoder(model, tokenizer, config.max_tokens)
        self.module = Reader(model, len(self.labels))

    def losses(self, step: int) -> dict[str, Tensor]:
        """Binary cross-entropy over all facts."""
        draw = torch.randint(
            self.config.scenes, (self.config.batch,), generator=generator(self.seed, "scenes", step)
        )
        ids, truth = self._batch([int(i) for i in draw], step, "train")
        self.module.train()
        with torch.random.fork_rng(devices=[]):  # dropout is a function of the step too
            torch.manual_seed(generator(self.seed, "dropout", step).initial_seed())
            logits = self.module(ids)
        loss = F.binary_cross_entropy_with_logits(logits, truth)
        return {"loss": loss, "exact": exact(logits, truth)}

    @torch.no_grad()
    def measure(self, module: nn.Module) -> dict[str, float]:
        """Share of held-out captions whose facts are all read right."""
        module.eval()
        ids, truth = self._batch(list(range(512)), 0, "held_out")
        return {"held_out_exact": float(exact(module(ids), truth))}

    def export(self, module: nn.Module, folder: Path) -> None:
        """``text_encoder/`` and ``tokenizer/``."""
        from cogvideox.checkpoints.text import write_text

        write_text(folder, TextEncoder(module.encoder, self.text.tokenizer, self.config.max_tokens))

    def _batch(self, indices: list[int], variant: int, split: str) -> tuple[Tensor, Tensor]:
        scenes = [sample_scene(self.seed, index, split) for index in indices]
        texts = [
            caption(scene, self.seed, index * 31 + variant)
            for index, scene in zip(indices, scenes, strict=True)
        ]
        ids, _, _ = self.text.tokenize(texts)
        stated = [labels(scene) for scene in scenes]
        truth = torch.tensor([[float(name in facts) for name in self.labels] for facts in stated])
        return ids, truth


def labels(scene) -> set[str]:
    """The facts of a scene as flat names."""
    return {f"{fact.kind}={fact.value}/{fact.into}" for fact in facts(scene)}


def exact(logits: Tensor, truth: Tensor) -> Tensor:
    """Share of rows in which every fact is right."""
    return ((logits > 0).float() == truth).all(1).float().mean()
