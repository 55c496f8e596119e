"""Text to token ids: SentencePiece, as T5 was trained, from either of the two files a tokenizer comes in.

``spiece.model`` is the original and what the public checkpoints hold; ``tokenizer.json`` is its translation
for the ``tokenizers`` library. The files are kept and written back byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cogvideox.errors import CheckpointError
from cogvideox.files import parse_json, root_of_links, short
from cogvideox.files.text import read_small_bytes

PAD, END, UNKNOWN = 0, 1, 2
SETTINGS = "tokenizer_config.json"
FILES = ("spiece.model", "tokenizer.json", SETTINGS, "added_tokens.json", "special_tokens_map.json")
LIMIT = 64 * 2**20  # bytes; the public ones have below 3 MB


class Tokenizer:
    """Encode and decode, and the files that say how. Raises CheckpointError when they cannot be read."""

    def __init__(self, files: Mapping[str, bytes], where: str = "tokenizer") -> None:
        self.files, self.where = dict(files), where
        try:
            self._codec = _codec(self.files)
        except Exception as error:  # both libraries raise bare exceptions: name the place, keep the reason
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"{where}: not a tokenizer: {reason}; copy it again from the model's repository"
            ) from None
        if self._codec is None:
            raise CheckpointError(f"{where}: holds none of spiece.model, tokenizer.json")

    @classmethod
    def read(cls, folder: Path) -> Tokenizer:
        """From a ``tokenizer/`` folder."""
        root = root_of_links(folder, "model_index.json", "cogvideox.json")
        present = [folder / name for name in FILES if (folder / name).exists()]
        read = partial(read_small_bytes, root=root, most=LIMIT, error=CheckpointError)
        return cls({file.name: read(file) for file in present}, str(folder))

    def write(self, folder: Path) -> None:
        """To a ``tokenizer/`` folder, byte for byte what was read."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)

    @property
    def longest(self) -> int | None:
        """How many tokens the files say a text may have."""
        text = self.files.get(SETTINGS, b"{}").decode("utf-8", errors="replace")
        settings = parse_json(text, f"{self.where}/{SETTINGS}", error=CheckpointError)
        longest = settings.get("model_max_length") if isinstance(settings, dict) else None
        if longest is None:
            return None
        if isinstance(longest, bool) or not isinstance(longest, int | float) or longest < 1:
            raise CheckpointError(
                f"{self.where}/{SETTINGS}: model_max_length is {short(longest)}, not a number of tokens"
            )
        return int(longest)

    def encode(self, text: str) -> list[int]:
        """Token ids, without the end token."""
        return self._codec.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        return self._codec.decode(list(ids))

    def beyond(self, ids: Sequence[int], most: int) -> str:
        """The text of those ids, the end token last, that a model of so many tokens leaves out; '' where all fit."""
        return "" if len(ids) <= most else self.decode(ids[most - 1 : -1])

    def __len__(self) -> int:
        return len(self._codec)


class _SentencePiece:
    def __init__(self, model: bytes) -> None:
        import sentencepiece

        self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    def encode(self, text: str) -> list[int]:
        return self.processor.encode(text)

    def decode(self, ids: list[int]) -> str:
        return self.processor.decode(ids)

    def __len__(self) -> int:
        return self.processor.get_piece_size()


class _Translated:
    def __init__(self, content: bytes) -> None:
        import tokenizers

        self.tokenizer = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids)

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()


def _codec(files: Mapping[str, bytes]) -> Any:
    if "spiece.model" in files:
        return _SentencePiece(files["spiece.model"])
    if "tokenizer.json" in files:
        return _Translated(files["tokenizer.json"])
    return None


def train_tokenizer(texts: Sequence[str], vocabulary: int, max_tokens: int) -> Tokenizer:
    """A SentencePiece unigram tokenizer for ``texts``, with T5's ids: pad 0, end 1, unknown 2."""
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=vocabulary,
        model_type="unigram",
        pad_id=PAD,
        eos_id=END,
        unk_id=UNKNOWN,
        bos_id=-1,
        character_coverage=1.0,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    settings = {
        "tokenizer_class": "T5Tokenizer",
        "extra_ids": 0,
        "additional_special_tokens": [],
        "model_max_length": max_tokens,
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    config = json.dumps(settings, indent=2).encode() + b"\n"
    return Tokenizer({"spiece.model": model.getvalue(), SETTINGS: config})
