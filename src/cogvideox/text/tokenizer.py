"""Text to token ids: SentencePiece, as T5 was trained, from either of the two files a tokenizer comes in.

``spiece.model`` is the original and what the public checkpoints hold; ``tokenizer.json`` is its translation
for the ``tokenizers`` library. The files are kept and written back byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cogvideox.errors import CheckpointError

PAD, END, UNKNOWN = 0, 1, 2
SETTINGS = "tokenizer_config.json"
FILES = ("spiece.model", "tokenizer.json", SETTINGS, "added_tokens.json", "special_tokens_map.json")
LIMIT = 64 * 2**20  # bytes; the public ones have below 3 MB


class Tokenizer:
    """Encode and decode, and the files that say how. Raises CheckpointError when they cannot be read."""

    def __init__(self, files: Mapping[str, bytes], where: str = "tokenizer") -> None:
        self.files = dict(files)
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
        present = [folder / name for name in FILES if (folder / name).is_file()]
        for file in present:
            if file.stat().st_size > LIMIT:
                raise CheckpointError(f"{file}: {file.stat().st_size} bytes; a tokenizer has at most {LIMIT}")
        return cls({file.name: file.read_bytes() for file in present}, str(folder))

    def write(self, folder: Path) -> None:
        """To a ``tokenizer/`` folder, byte for byte what was read."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)

    @property
    def longest(self) -> int | None:
        """How many tokens the files say a text may have."""
        settings = json.loads(self.files.get(SETTINGS, b"{}"))
        return int(settings["model_max_length"]) if "model_max_length" in settings else None

    def encode(self, text: str) -> list[int]:
        """Token ids, without the end token."""
        return self._codec.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        return self._codec.decode(list(ids))

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
