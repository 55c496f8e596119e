"""A prompt becomes a sequence of vectors: the encoder half of T5, through transformers.

Padding tokens take part, exactly as in the published model: no attention mask is passed to T5, and the full length
(226 tokens for the released models) conditions the transformer. What the token budget cut away is returned, never
dropped in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.errors import CheckpointError, PromptError

FILES_OF_A_TOKENIZER = ("spiece.model", "tokenizer.json")


@dataclass(frozen=True)
class TextEmbedding:
    """What the transformer reads, and what the token budget did to the prompts."""

    values: Float[Tensor, "b l d"]
    tokens: list[int]  # how many tokens each prompt has, the end token included, before cutting
    budget: int
    cut: list[str]  # what did not fit, '' when everything did


class TextEncoder:
    """T5 encoder and tokenizer.

    ``max_tokens`` is the length every prompt is padded or cut to (226 for the released models).
    """

    def __init__(self, model: nn.Module, tokenizer, max_tokens: int) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    @classmethod
    def load(
        cls, folder: str | Path, dtype: torch.dtype | None = None, max_tokens: int | None = None
    ) -> TextEncoder:
        """Read ``text_encoder/`` and ``tokenizer/`` of a model folder.

        In float16 transformers keeps the output projections of the feed-forward layers in float32 and clamps
        overflow after each sublayer; without that T5 gives infinities.
        Raises CheckpointError when a part is missing or cannot be read.
        """
        from transformers import T5EncoderModel, T5Tokenizer

        folder = Path(folder)
        for part in ("text_encoder/config.json", "tokenizer"):
            if not (folder / part).exists():
                raise CheckpointError(
                    f"{folder}: {part} is missing; copy it from the model's repository, "
                    "or pass ready-made text embeddings"
                )
        if not any((folder / "tokenizer" / name).exists() for name in FILES_OF_A_TOKENIZER):
            raise CheckpointError(f"{folder / 'tokenizer'}: holds none of {', '.join(FILES_OF_A_TOKENIZER)}")
        try:
            tokenizer = T5Tokenizer.from_pretrained(str(folder / "tokenizer"))
            model = T5EncoderModel.from_pretrained(
                str(folder / "text_encoder"), dtype=dtype or "auto", use_safetensors=True
            )
        except Exception as error:  # transformers raises many kinds: name the folder and keep the reason
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{folder}: the text encoder cannot be read: {reason}") from error
        return cls(model, tokenizer, max_tokens or min(tokenizer.model_max_length, 226))

    def save(self, folder: str | Path) -> None:
        """Write ``text_encoder/`` and ``tokenizer/`` in the layout transformers reads."""
        folder = Path(folder)
        self.model.save_pretrained(str(folder / "text_encoder"))
        self.tokenizer.save_pretrained(str(folder / "tokenizer"))

    @property
    def width(self) -> int:
        """The width d of the embedding."""
        return int(self.model.config.d_model)

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, list[int], list[str]]:
        """Token ids ``[b, l]``, the uncut lengths, and the text that was cut from each prompt."""
        for prompt in prompts:
            check_prompt(prompt)
        whole = self.tokenizer(list(prompts), add_special_tokens=True, truncation=False, verbose=False)[
            "input_ids"
        ]
        pad, end, room = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, self.max_tokens
        ids = torch.full((len(prompts), room), pad, dtype=torch.long)
        cut = []
        for row, tokens in enumerate(whole):
            fits = len(tokens) <= room
            kept = tokens if fits else [*tokens[: room - 1], end]
            ids[row, : len(kept)] = torch.tensor(kept)
            cut.append("" if fits else self.tokenizer.decode(tokens[room - 1 : -1]))
        return ids, [len(tokens) for tokens in whole], cut

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> TextEmbedding:
        """Embed prompts, an empty one included (the unconditional branch of guidance is T5 of "")."""
        ids, tokens, cut = self.tokenize(prompts)
        values = self.model(input_ids=ids.to(next(self.model.parameters()).device)).last_hidden_state
        return TextEmbedding(values, tokens, self.max_tokens, cut)

    def to(self, *args, **kwargs) -> TextEncoder:
        """Move the network, like ``nn.Module.to``."""
        self.model.to(*args, **kwargs)
        return self


def check_prompt(prompt: str) -> None:
    """Raise PromptError for anything T5 would silently turn into something else."""
    if not isinstance(prompt, str):
        raise PromptError(f"prompt: expected text, got {type(prompt).__name__}")
    if "\x00" in prompt:
        raise PromptError(f"prompt: holds a NUL byte at position {prompt.index(chr(0))}; remove it")


def train_tokenizer(texts: Sequence[str], folder: str | Path, vocabulary: int, max_tokens: int):
    """A T5 tokenizer (SentencePiece unigram) for ``texts``, saved as ``folder/tokenizer``.

    Ids follow T5: pad 0, end 1, unknown 2.
    """
    import io

    import sentencepiece
    from transformers import T5Tokenizer

    target = Path(folder) / "tokenizer"
    target.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=vocabulary,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        character_coverage=1.0,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    (target / "spiece.model").write_bytes(model.getvalue())
    tokenizer = T5Tokenizer.from_pretrained(str(target), extra_ids=0, model_max_length=max_tokens)
    tokenizer.save_pretrained(str(target))
    (target / "spiece.model").write_bytes(model.getvalue())
    return tokenizer
