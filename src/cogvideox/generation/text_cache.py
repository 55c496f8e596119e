"""Text embeddings on disk, by prompt and encoder: a prompt that was read before needs no text encoder.

A folder of safetensors files, one a prompt, named by a digest of everything that decides the numbers: the prompt, the
files of encoder and tokenizer, precision, kind of device, version of torch. So an entry is never stale; those that were
not used for longest go when the folder is larger than its bound. The prompts themselves are not written.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from cogvideox.checkpoints.components import Components
from cogvideox.checkpoints.tensors import read_file, write_file
from cogvideox.errors import CheckpointError, CogVideoXError, ConfigError
from cogvideox.files.atomic import atomic_file, write_json
from cogvideox.files.digest import digests_of, sha256_of, sha256_of_values
from cogvideox.files.paths import user_cache
from cogvideox.files.structured import read_json
from cogvideox.model import CogVideoX
from cogvideox.text import TextEmbedding, TextEncoder

BOUND = 10**9
"""Bytes of embeddings in a folder; one of a public model takes 1.9 MB."""
DIGESTS = "text-encoder-digests.json"
OURS = re.compile(r"text-[0-9a-f]{64}\.safetensors")
FORMAT = 1


def cache_folder(asked: str) -> Path | None:
    """The folder of ``--text-cache``: None for "off", that of the user for "on", else a path. Raises ConfigError."""
    if asked.lower() in ("off", "false", "no", "0"):
        return None
    if not asked.strip() or "\0" in asked:
        raise ConfigError(f"text-cache {asked!r}: not a folder; write on, off or a path")
    if asked.lower() in ("on", "true", "yes", "1"):
        return user_cache() / "text"
    if Path(asked).exists() and not Path(asked).is_dir():
        raise ConfigError(f"text-cache {asked}: a file; name a folder, on or off")
    return Path(asked)


@dataclass(frozen=True)
class TextCache:
    """The embeddings of one text encoder in ``folder``; ``encoder`` is the digest of what decides their numbers."""

    folder: Path
    encoder: str
    bound: int = BOUND

    @classmethod
    def of(cls, folder: Path, files: Sequence[Path], **facts: str) -> TextCache:
        """The cache of an encoder made of ``files`` (files, or folders) under ``facts``, such as its precision."""
        known = _Digests(folder / DIGESTS)
        digests = {f"{path.parent.name}/{path.name}": known.of(path) for path in _below(files)}
        known.write()
        made = {"format": str(FORMAT), "torch": torch.__version__, **facts}
        return cls(folder, sha256_of_values([digests, made], digits=64))

    def file(self, prompt: str) -> Path:
        """Where the embedding of a prompt is, or would be."""
        return self.folder / f"text-{sha256_of_values([self.encoder, prompt], digits=64)}.safetensors"

    def has(self, prompts: Sequence[str]) -> bool:
        """Whether all of them can be had without the encoder."""
        return all(self.get(prompt) is not None for prompt in prompts)

    def get(self, prompt: str) -> TextEmbedding | None:
        """The embedding of one prompt; None, with a warning for a damaged file, when it is not there."""
        file = self.file(prompt)
        if not file.is_file():
            return None
        try:
            found = read_file(file)
            facts = json.loads(found.metadata["embedding"])
            values = found["values"].clone()
            embedding = TextEmbedding(
                values, [int(facts["tokens"])], int(facts["budget"]), [str(facts["cut"])]
            )
        except (CheckpointError, KeyError, ValueError, TypeError) as error:
            warnings.warn(f"{file}: not a text embedding ({error}); the prompt is read again", stacklevel=2)
            return None
        if values.ndim != 3 or values.shape[:2] != (1, embedding.budget):
            warnings.warn(f"{file}: holds {list(values.shape)}; the prompt is read again", stacklevel=2)
            return None
        if not values.isfinite().all():
            warnings.warn(f"{file}: holds NaN or Inf; the prompt is read again", stacklevel=2)
            return None
        with suppress(OSError):
            os.utime(file)  # used now
        return embedding

    def put(self, prompt: str, embedding: TextEmbedding) -> None:
        """Keep the embedding of one prompt, and let go of what was not used for longest. A full disk only warns."""
        [tokens], [cut] = embedding.tokens, embedding.cut
        if self.file(prompt).is_dir():
            warnings.warn(f"{self.file(prompt)}: a folder; nothing is kept there", stacklevel=2)
            return
        facts = json.dumps({"tokens": tokens, "budget": embedding.budget, "cut": cut})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(self.file(prompt), overwrite=True) as file:
                write_file(file, {"values": embedding.values.cpu()}, {"embedding": facts})
        except (CogVideoXError, OSError) as error:
            warnings.warn(f"text-cache {self.folder}: not kept: {error}", stacklevel=2)
            return
        self._shrink()

    def _shrink(self) -> None:
        """Remove the entries that were not used for longest until the folder is within its bound."""
        held = []
        for file in self.folder.glob("*.safetensors"):
            if not OURS.fullmatch(file.name):
                continue  # weights of somebody, whose folder this is too
            with suppress(OSError):  # another process may remove it
                found = file.stat()
                held.append((found.st_mtime_ns, found.st_size, file))
        total = sum(size for _, size, _ in held)
        for _, size, file in sorted(held)[:-1]:
            if total <= self.bound:
                return
            file.unlink(missing_ok=True)
            total -= size


class CachedTextEncoder(TextEncoder):
    """A text encoder that looks into a cache first; its network is called for what is not there."""

    def __init__(self, encoder: TextEncoder, cache: TextCache) -> None:
        super().__init__(encoder.model, encoder.tokenizer, encoder.max_tokens)
        self.cache = cache

    def encode(self, prompts: Sequence[str]) -> TextEmbedding:
        """As the plain one: all from the cache, or all from the network."""
        found = [self.cache.get(prompt) for prompt in prompts]
        right = self.max_tokens, self.width
        kept = [each for each in found if each is not None and (each.budget, each.values.shape[2]) == right]
        if len(kept) < len(prompts):
            embedding = super().encode(prompts)
            for i, prompt in enumerate(prompts):
                one = slice(i, i + 1)
                values, tokens, cut = embedding.values[one], embedding.tokens[one], embedding.cut[one]
                self.cache.put(prompt, TextEmbedding(values, tokens, embedding.budget, cut))
            return embedding
        values = torch.cat([each.values for each in kept])
        return TextEmbedding(
            values,
            [n for each in kept for n in each.tokens],
            self.max_tokens,
            [c for each in kept for c in each.cut],
            kept=True,
        )


def use_cache(model: CogVideoX, asked: str, folder: Path, device: str, components: Components) -> None:
    """Let the text encoder of a model look into the cache that is asked for (``cache_folder``).

    It is that of the model ``folder`` or among ``components``, and runs on ``device``.
    """
    cache, text = cache_folder(asked), folder / "text_encoder"
    if cache is None or model.text is None:
        return
    other, packed = components.text_encoder, components.packed_text
    files = [other.where] if other is not None else [text]
    if packed is not None or (other is not None and other.config is None):
        files = [packed or files[0], text / "config.json"]
    facts = {"dtype": str(model.text.model.shared.weight.dtype), "device": device.split(":")[0]}
    model.text = CachedTextEncoder(model.text, TextCache.of(cache, [*files, folder / "tokenizer"], **facts))


def digests_of_run(folder: Path, components: Components) -> dict[str, str]:
    """The SHA-256 of each weights file of a model that a run uses, with ``components`` in place of the folder's own."""
    packed = components.packed_text
    if packed is None and not components.given:
        return digests_of(folder)
    networks = [each for each in components.files(folder).values() if each.where.exists()]
    used = [each for each in networks if packed is None or each.name != "text_encoder"]
    digests = {name: digest for each in used for name, digest in each.digests().items()}
    return digests | ({f"text_encoder/{packed.name}": sha256_of(packed)} if packed is not None else {})


class _Digests:
    """SHA-256 of large files, read once as long as they stay what they are (size, time, place on the disk)."""

    def __init__(self, file: Path) -> None:
        self.file, self.new = file, False
        known = None
        with suppress(CogVideoXError, OSError):
            known = read_json(file) if file.is_file() else None
        self.known = known if isinstance(known, dict) else {}

    def of(self, path: Path) -> str:
        """The digest of one file."""
        found = path.stat()
        key = f"{path.resolve()} {found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns}"
        if not isinstance(self.known.get(key), str):
            self.known[key], self.new = sha256_of(path), True
        return str(self.known[key])

    def write(self) -> None:
        """Keep what was learnt; a folder that cannot be written is no reason to stop."""
        if self.new:
            with suppress(CogVideoXError, OSError):
                self.file.parent.mkdir(parents=True, exist_ok=True)
                write_json(self.file, dict(list(self.known.items())[-200:]), overwrite=True)


def _below(paths: Sequence[Path]) -> list[Path]:
    """The files themselves, and those in folders among them."""
    return [
        file
        for path in paths
        for file in (sorted(path.iterdir()) if path.is_dir() else [path])
        if file.is_file()
    ]
