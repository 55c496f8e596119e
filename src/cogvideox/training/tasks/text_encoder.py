"""Training a small text encoder for the tiny world: read the facts of a scene out of its caption.

Its T5 learns the language of captions by a multi-label task: which facts does this caption state? At each token of a
thing it also reads that thing's role, colour and shape, so that "a ring turns into a cross" and "a cross turns into a
ring" differ where the transformer looks. The transformer then reads frozen features, as in the paper.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cogvideox.data.clips import WorldClips
from cogvideox.noise import generator
from cogvideox.text import T5Config, T5Encoder, TextEncoder, Tokenizer, train_tokenizer
from cogvideox.training.task import Task, TaskConfig
from cogvideox.world import COLOURS, DIRECTIONS, SHAPES, Scene, caption, facts, get_style


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
    scene_mix: dict[str, float] | None = Field(
        None, description="shares of the world's stories among the captions; null: those of its test"
    )
    scene_style: Literal["plain", "rich"] = Field(
        "plain", description="style of the tiny world: rich has more words"
    )

    def build(self, seed: int, steps: int | None = None) -> TextTask:
        """The task, with a fresh tokenizer and weights made from ``seed``."""
        return TextTask(self, seed)


ROLES = ("first", "second", "into")


def token_labels(style: str) -> tuple[str, ...]:
    """What is read at each token of a thing: first, second or what the first turns into; its colour; its shape.

    In the rich style also whether the token speaks of an accent, where the thing moves, and whether it is in front of
    the other one or behind it. Raises InputError for an unknown style.
    """
    labels = (*ROLES, *COLOURS, *get_style(style).shapes)
    return labels if style == "plain" else (*labels, "accent", *DIRECTIONS, *RANKS)


RANKS = ("front", "behind")
"""Where a thing stands that meets another."""
TOKEN_LABELS = token_labels("plain")


class FactReader(nn.Module):
    """T5 and two linear read-outs: facts from the mean over all positions (padding too), ``token_labels`` at each."""

    def __init__(self, encoder: T5Encoder, facts: int, at_tokens: int = len(TOKEN_LABELS)) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.d_model, facts)
        self.tokens = nn.Linear(encoder.config.d_model, at_tokens)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids [b, l] -> logits of facts [b, facts] and of token labels [b, l, labels]."""
        features = self.encoder(ids)
        return self.head(features.mean(1)), self.tokens(features)


class TextTask(Task):
    """The text encoder learns to read facts out of captions; see the module."""

    config: TextTraining
    module: FactReader

    def __init__(self, config: TextTraining, seed: int) -> None:
        self.config, self.seed = config, seed
        self.clips = {
            split: WorldClips(seed, split, config.scenes, 64, 1, config.scene_mix, config.scene_style)
            for split in ("train", "held_out")
        }
        scenes = [self.clips["train"].scene(index) for index in range(3000)]
        texts = [caption(scene, seed, index) for index, scene in enumerate(scenes)]
        tokenizer = train_tokenizer(texts, config.vocabulary, config.max_tokens)
        self.at_tokens = token_labels(config.scene_style)
        single = [scene for scene in scenes if scene.second is None]
        self.labels = sorted({label for scene in single for label in labels(scene)})
        shape = small_t5(
            tokenizer, width=config.width, layers=config.layers, heads=config.heads, dropout=config.dropout
        )
        model = T5Encoder(shape).initialise(generator(seed, "text weights"))
        _open_attention(model)
        self.text = TextEncoder(model, tokenizer, config.max_tokens)
        torch.manual_seed(seed)  # the read-outs
        self.module = FactReader(model, len(self.labels), len(self.at_tokens))

    def losses(self, step: int) -> dict[str, Tensor]:
        """Binary cross-entropy over all facts, and over ``token_labels`` at the tokens of each thing."""
        draw = generator(self.seed, "scenes", step)
        scenes = torch.randint(self.config.scenes, (self.config.batch,), generator=draw).tolist()
        ids, truth, token_truth, paired = self._batch(scenes, step, "train")
        self.module.train()
        with torch.random.fork_rng(devices=[]):  # dropout is a function of the step too
            torch.manual_seed(generator(self.seed, "dropout", step).initial_seed())
            logits, tokens = self.module(ids)
        labelled = token_truth.any(-1)
        report = {"tokens": F.binary_cross_entropy_with_logits(tokens[labelled], token_truth[labelled])}
        loss = report["tokens"]
        if not paired.all():
            loss = loss + F.binary_cross_entropy_with_logits(logits[~paired], truth[~paired])
            report["exact"] = exact(logits[~paired], truth[~paired])
        return {"loss": loss, **report}

    @torch.no_grad()
    def measure(self, module: nn.Module) -> dict[str, float]:
        """Of held-out captions: ``held_out_exact``, share whose facts are all read right; ``held_out_two``, share of
        those with a second thing, or something turned into, whose token labels are; and ``swap_distance``, how far the
        features of equal words move between "an S turns into a T" and the reverse, as a share of their length."""
        module.eval()
        ids, truth, token_truth, paired = self._batch(list(range(512)), 0, "held_out")
        logits, tokens = module(ids)
        read = torch.where(token_truth.any(-1, keepdim=True), tokens, -1.0)
        two = token_truth[..., 1:3].any(-1).any(-1)  # a second thing, or what the first turns into
        figures = {}
        if not paired.all():
            figures["held_out_exact"] = float(exact(logits[~paired], truth[~paired]))
        if two.any():
            figures["held_out_two"] = float(exact(read[two].flatten(1), token_truth[two].flatten(1)))
        return figures | {"swap_distance": self._swap_distance(cast(FactReader, module).encoder)}

    def _swap_distance(self, encoder: nn.Module) -> float:
        """Mean distance over length; see ``measure``."""
        pairs = [(one, other) for one in SHAPES for other in SHAPES if one < other]
        texts = [
            f"a red {a} turns into a {b}" for one, other in pairs for a, b in ((one, other), (other, one))
        ]
        ids, _, _ = self.text.tokenize(texts)
        features = encoder(ids)
        ones, others = features[0::2], features[1::2]
        same = (ids[0::2] == ids[1::2]) & (ids[0::2] > 1)  # the words that stand in both at one place
        moved = (ones - others).norm(dim=-1)[same] / ones.norm(dim=-1)[same]
        return float(moved.mean())

    def export(self, module: nn.Module, folder: Path) -> None:
        """``text_encoder/`` and ``tokenizer/``."""
        from cogvideox.checkpoints.text import write_text

        encoder = cast(FactReader, module).encoder
        write_text(folder, TextEncoder(encoder, self.text.tokenizer, self.config.max_tokens))

    def _batch(self, indices: list[int], variant: int, split: str) -> tuple[Tensor, ...]:
        """(token ids, facts stated by each caption, token labels at each token, whether it is about two things)."""
        clips = self.clips[split]
        scenes = [clips.scene(index) for index in indices]
        texts = [clips.caption(index, variant) for index in indices]
        ids, _, _ = self.text.tokenize(texts)
        stated = [labels(scene) for scene in scenes]
        truth = torch.tensor([[float(name in facts) for name in self.labels] for facts in stated])
        paired = torch.tensor([scene.second is not None for scene in scenes])
        token_truth = torch.zeros(*ids.shape, len(self.at_tokens))
        for number, (text, scene) in enumerate(zip(texts, scenes, strict=True)):
            self._label_tokens(token_truth[number], text, scene)
        return ids, truth, token_truth, paired

    def _label_tokens(self, truth: Tensor, text: str, scene: Scene) -> None:
        """Set 1 in ``truth`` [l, labels] at the tokens of each thing, for its role, colour and shape."""
        at = 0
        for word, thing in zip(text.split(), roles(text, scene), strict=True):
            tokens = len(self.text.tokenizer.encode(word))
            if thing:
                truth[at : at + tokens, [self.at_tokens.index(each) for each in thing]] = 1
            at += tokens


def roles(text: str, scene: Scene) -> list[tuple[str, ...] | None]:
    """For each word of a caption (role, colour, shape) of the thing it is part of, None for words of no thing.

    Shapes are named in the order of the things; a colour belongs to the shape that follows it, an accent to the one
    before. Of two things that move, where each one does and which is in front follow, by ``token_labels``.
    """
    things: list[tuple[str, ...]] = [("first", scene.colour, scene.shape)]
    if scene.second is not None:
        things.append(("second", *scene.second))
        things = [thing + _way_and_rank(scene, number) for number, thing in enumerate(things)]
    if scene.accent is not None:
        things.append(("first", scene.accent, scene.shape, "accent"))
    if scene.into is not None:
        things.append(("into", scene.colour, scene.into))
    of_words: list[tuple[str, ...] | None] = []
    named, shapes = 0, get_style(scene.style).shapes
    for word in (word.strip(".,").lower() for word in text.split()):
        thing = things[min(named, len(things) - 1)]
        is_shape = any(word.startswith(shape) for shape in shapes)
        of_words.append(thing if is_shape or word in COLOURS else None)
        named += is_shape
    return of_words


def _way_and_rank(scene: Scene, number: int) -> tuple[str, ...]:
    """Where one of two things moves, and whether it is in front of the other; nothing of what does not happen."""
    way, ranks = scene.directions[number], RANKS if scene.front == "first" else RANKS[::-1]
    return (() if way == "none" else (way,)) + (() if scene.front == "none" else (ranks[number],))


@torch.no_grad()
def _open_attention(model: T5Encoder) -> None:
    """Let three heads look at what stands before, after and near a token.

    Captions that name one thing do not need the order of words, so these biases would be learned late.
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
