"""Training a small text encoder for the tiny world: read the facts of a scene out of its caption.

Its T5 learns the language of captions by a multi-label task: which facts does this caption state? The transformer then
reads frozen features, as in the paper. An encoder that a transformer was trained on can learn more without that
transformer having to start again: what it says of the captions it knows is kept (``keep``).
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Literal, Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from cogvideox.checkpoints.hub import find_folder
from cogvideox.checkpoints.text import load_text
from cogvideox.errors import ConfigError
from cogvideox.noise import generator
from cogvideox.text import T5Config, T5Encoder, TextEncoder, Tokenizer, train_tokenizer
from cogvideox.training.task import Task, TaskConfig
from cogvideox.world import COLOURS, SHAPES, Scene, caption, facts, sample_scene


class TextTraining(TaskConfig):
    """Settings: captions of the tiny world -> facts."""

    kind: Literal["text"] = Field("text", description="the task: train the world's text encoder")
    width: int = Field(128, description="d_model, the width the transformer reads")
    layers: int = Field(2, description="T5 layers")
    heads: int = Field(4, description="attention heads")
    vocabulary: int = Field(384, description="at most this many SentencePiece pieces")
    max_tokens: int = Field(32, description="every prompt is padded or cut to this length")
    dropout: float = Field(0.25, ge=0, lt=1, description="so that no pairs of words are learned by heart")
    batch: int = Field(128, description="captions a step")
    scenes: int = Field(20000, description="scenes the captions are drawn from")
    pairs: float = Field(0.0, ge=0, lt=1, description="share of captions about two different things")
    start: str | None = Field(None, description="model folder, or name, whose text encoder goes on learning")
    keep: float = Field(0.0, ge=0, description="weight of the start's features' squared change, pairs apart")

    @model_validator(mode="after")
    def _has_what_it_keeps(self) -> Self:
        if self.keep and self.start is None:
            raise ConfigError(
                "keep: there are no features to keep; set start to a model folder, or keep to 0"
            )
        return self

    def build(self, seed: int, steps: int | None = None) -> TextTask:
        """The task, with a fresh tokenizer and weights made from ``seed``."""
        return TextTask(self, seed)


TOKEN_LABELS = ("first", "second", *COLOURS, *SHAPES)
"""What is read at each token of one of two things: which of them it is, its colour, its shape."""


class FactReader(nn.Module):
    """T5 and two linear read-outs: facts from the mean over all positions (padding too), ``TOKEN_LABELS`` at each."""

    def __init__(self, encoder: T5Encoder, facts: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.d_model, facts)
        self.add_module("places", nn.Linear(encoder.config.d_model, len(TOKEN_LABELS)))  # its name in states

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids [b, l] -> logits of facts [b, facts], logits of token labels [b, l, labels], features [b, l, d]."""
        features = self.encoder(ids)
        return self.head(features.mean(1)), self.get_submodule("places")(features), features


class TextTask(Task):
    """The text encoder learns to read facts out of captions; see the module."""

    config: TextTraining
    module: FactReader

    def __init__(self, config: TextTraining, seed: int) -> None:
        self.config, self.seed = config, seed
        scenes = [sample_scene(seed, index, "train") for index in range(3000)]
        start = load_text(find_folder(config.start), dtype="float32") if config.start else None
        if start is None:
            texts = [caption(scene, seed, index) for index, scene in enumerate(scenes)]
            tokenizer = train_tokenizer(texts, config.vocabulary, config.max_tokens)
        else:
            tokenizer = start.tokenizer
        self.labels = sorted({label for scene in scenes for label in labels(scene)})
        shape = small_t5(
            tokenizer, width=config.width, layers=config.layers, heads=config.heads, dropout=config.dropout
        )
        model = T5Encoder(shape).initialise(generator(seed, "text weights"))
        self.before = start.model if start else None
        if self.before is not None:
            _start_from(model, self.before, config)
        self.text = TextEncoder(model, tokenizer, config.max_tokens)
        torch.manual_seed(seed)  # the read-outs
        self.module = FactReader(model, len(self.labels))

    def losses(self, step: int) -> dict[str, Tensor]:
        """Binary cross-entropy over all facts."""
        draw = generator(self.seed, "scenes", step)
        scenes = torch.randint(self.config.scenes, (self.config.batch,), generator=draw).tolist()
        ids, truth, token_truth, paired = self._batch(scenes, step, "train")
        self.module.train()
        with torch.random.fork_rng(devices=[]):  # dropout is a function of the step too
            torch.manual_seed(generator(self.seed, "dropout", step).initial_seed())
            logits, token_logits, _ = self.module(ids)
        loss, report, labelled = logits.new_zeros(()), dict[str, Tensor](), token_truth.any(-1)
        if not paired.all():
            loss = loss + F.binary_cross_entropy_with_logits(logits[~paired], truth[~paired])
            report["exact"] = exact(logits[~paired], truth[~paired])
        if paired.any():
            loss = loss + F.binary_cross_entropy_with_logits(token_logits[labelled], token_truth[labelled])
        if self.config.keep and not paired.all():
            report["moved"] = self._moved(self.module, ids[~paired])
            loss = loss + self.config.keep * report["moved"]
        return {"loss": loss, **report}

    def _moved(self, module: nn.Module, ids: Tensor) -> Tensor:
        """Mean squared change of the start's features, without dropout, as a share of their mean square."""
        assert self.before is not None  # keep needs a start
        with torch.no_grad():
            before = self.before(ids)
        features = module.eval()(ids)[-1]
        return (features - before).square().mean() / before.square().mean()

    @torch.no_grad()
    def measure(self, module: nn.Module) -> dict[str, float]:
        """Share of held-out captions whose facts are all read right."""
        module.eval()
        ids, truth, token_truth, paired = self._batch(list(range(512)), 0, "held_out")
        logits, token_logits, _ = module(ids)
        figures = {"held_out_exact": float(exact(logits[~paired], truth[~paired]))}
        if self.config.pairs:
            read = torch.where(token_truth.any(-1, keepdim=True), token_logits, -1.0)
            figures["held_out_pairs"] = float(exact(read[paired].flatten(1), token_truth[paired].flatten(1)))
        if self.before is not None:
            figures["held_out_moved"] = float(self._moved(module, ids[~paired]))
        return figures

    def export(self, module: nn.Module, folder: Path) -> None:
        """``text_encoder/`` and ``tokenizer/``."""
        from cogvideox.checkpoints.text import write_text

        encoder = cast(FactReader, module).encoder
        write_text(folder, TextEncoder(encoder, self.text.tokenizer, self.config.max_tokens))

    def _scene(self, index: int, split: str) -> Scene:
        drawn = random.Random(f"{self.seed}/{split}/pair/{index}").random()
        return sample_scene(self.seed, index, split, "pair" if drawn < self.config.pairs else None)

    def _batch(self, indices: list[int], variant: int, split: str) -> tuple[Tensor, ...]:
        """(token ids, facts stated by each caption, token labels at each token, whether it is about two things)."""
        scenes = [self._scene(index, split) for index in indices]
        numbers = (index * 31 + variant for index in indices)
        texts = [caption(scene, self.seed, number) for scene, number in zip(scenes, numbers, strict=True)]
        ids, _, _ = self.text.tokenize(texts)
        stated = [labels(scene) for scene in scenes]
        truth = torch.tensor([[float(name in facts) for name in self.labels] for facts in stated])
        paired = torch.tensor([scene.second is not None for scene in scenes])
        token_truth = torch.zeros(*ids.shape, len(TOKEN_LABELS))
        for index in paired.nonzero().flatten().tolist():
            self._label_tokens(token_truth[index], texts[index], scenes[index])
        return ids, truth, token_truth, paired

    def _label_tokens(self, truth: Tensor, text: str, scene: Scene) -> None:
        """Set 1 in ``truth`` [l, labels] at the tokens of both things of a scene, for what they are part of."""
        at = 0
        for word in text.rstrip(".").split():
            tokens = len(self.text.tokenizer.encode(word))
            for order, thing in zip(("first", "second"), scene.things, strict=True):
                if word in thing:
                    truth[at : at + tokens, [TOKEN_LABELS.index(each) for each in (order, *thing)]] = 1
            at += tokens


def _start_from(model: T5Encoder, before: T5Encoder, config: TextTraining) -> None:
    """Take the weights of ``before``. Raises ConfigError where it has another shape."""
    weights = before.state_dict()
    sizes, others = ({n: tuple(w.shape) for n, w in each.items()} for each in (model.state_dict(), weights))
    strange = sorted(name for name in sizes.keys() | others.keys() if sizes.get(name) != others.get(name))
    if strange:
        raise ConfigError(
            f"start {config.start}: its text encoder has other sizes ({strange[0]}); make width, layers and heads equal"
        )
    model.load_state_dict(weights)
    before.requires_grad_(False)
    if config.pairs:
        _open_attention(model)


@torch.no_grad()
def _open_attention(model: T5Encoder) -> None:
    """Let three heads look at what stands before, after and near a token.

    Where captions name one thing the order of words says nothing, so these biases were never learned; from nothing
    that takes thousands of steps.
    """
    named = dict(model.named_parameters())
    table = next(named[name] for name in named if "relative_attention_bias" in name)
    buckets = torch.arange(len(table))
    half = len(buckets) // 2
    distance = buckets % half  # exact up to half // 2, then logarithmic
    after = buckets >= half
    table[:, 0] -= 4.0 * after
    table[:, 1] -= 4.0 * ~after
    table[:, 2] -= 1.0 * distance


def small_t5(
    tokenizer: Tokenizer, *, width: int, layers: int, heads: int = 4, dropout: float = 0.0
) -> T5Config:
    """The sizes of a T5 to train from scratch; the vocabulary is rounded up to 64, the feed-forward twice as wide."""
    return T5Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        d_model=width,
        d_kv=width // heads,
        d_ff=2 * width,
        num_layers=layers,
        num_heads=heads,
        dropout_rate=dropout,
    )


def labels(scene: Scene) -> set[str]:
    """The facts of a scene as flat names."""
    return {f"{fact.kind}={fact.value}/{fact.into}" for fact in facts(scene)}


def exact(logits: Tensor, truth: Tensor) -> Tensor:
    """Share of rows in which every fact is right."""
    return ((logits > 0).float() == truth).all(1).float().mean()
