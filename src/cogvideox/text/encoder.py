"""``TextEncoder``: prompts to embeddings, and what the token budget cut away: returned, never dropped in silence.

Padding tokens take part, exactly as in the published model: no attention mask is passed to T5, and the full length
(226 tokens for the released models) conditions the transformer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cogvideox.brief import Brief
from cogvideox.errors import PromptError
from cogvideox.files.stored import stored_of
from cogvideox.text.t5 import T5Encoder
from cogvideox.text.tokenizer import END, PAD, Tokenizer


@dataclass(frozen=True, repr=False)
class TextEmbedding(Brief):
    """What the transformer reads, and what the token budget did to the prompts."""

    values: Float[Tensor, "b l d"]
    tokens: list[int]  # how many tokens each prompt has, the end token included, before cutting
    budget: int
    cut: list[str]  # what did not fit, '' when everything did
    kept: bool = False  # it was kept from another run; the encoder was not asked


class TextEncoder:
    """T5 encoder and tokenizer.

    ``max_tokens`` is the length every prompt is padded or cut to (226 for the released models).
    """

    def __init__(self, model: T5Encoder, tokenizer: Tokenizer, max_tokens: int) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    @property
    def width(self) -> int:
        """The width d of the embedding."""
        return self.model.config.d_model

    def tokenize(self, prompts: Sequence[str]) -> tuple[Int[Tensor, "b l"], list[int], list[str]]:
        """Token ids, the uncut lengths, and the text that was cut from each prompt. Raises PromptError."""
        for prompt in prompts:
            check_prompt(prompt)
        whole = [[*self.tokenizer.encode(prompt), END] for prompt in prompts]
        budget = self.max_tokens
        ids = torch.full((len(prompts), budget), PAD, dtype=torch.long)
        cut = []
        for i, tokens in enumerate(whole):
            fits = len(tokens) <= budget
            kept = tokens if fits else [*tokens[: budget - 1], END]
            ids[i, : len(kept)] = torch.tensor(kept)
            cut.append(self.tokenizer.beyond(tokens, budget))
        return ids, [len(tokens) for tokens in whole], cut

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> TextEmbedding:
        """Embed prompts, an empty one included (the unconditional branch of guidance is T5 of "")."""
        ids, tokens, cut = self.tokenize(prompts)
        weight = self.model.shared.weight
        here = (
            ids if stored_of(weight) is not None else ids.to(weight.device)
        )  # weights in a file come to the ids
        values = self.model(here)
        return TextEmbedding(values, tokens, self.max_tokens, cut)

    def to(self, *args: Any, **kwargs: Any) -> TextEncoder:
        """Move the network, like ``nn.Module.to``."""
        self.model.to(*args, **kwargs)
        return self


def check_prompt(prompt: str, what: str = "prompt") -> None:
    """Raise PromptError for anything T5 would silently turn into something else."""
    if not isinstance(prompt, str):
        raise PromptError(f"{what}: expected text, got {type(prompt).__name__}")
    if "\x00" in prompt:
        raise PromptError(f"{what}: holds a NUL byte at position {prompt.index(chr(0))}; remove it")
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(f"{what}: not valid text at position {error.start}; write it as UTF-8") from None
