"""Encode once, train many times: tensors kept under a digest of everything they follow from.

A piece is a safetensors file with the tensors of many items, each named by its item's key; a piece appears whole or
not at all, and what is in the cache is what the pieces' headers say. The key of a clip's latents holds the digest
of its pixels' source, of the autoencoder's weights and of how it codes: when any of them changes, another key is
asked for and the old tensors are never read again. Text embeddings are kept the same way.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cogvideox.data.clips import Source
from cogvideox.data.world import to_model
from cogvideox.errors import CogVideoXError, MediaError, OutputError

PIECE = 500  # items of one file
TOGETHER = 20  # clips of one shape encoded at once


class TensorCache:
    """Named tensors of items by key, in a folder of pieces."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.shapes: dict[str, dict[str, tuple[int, ...]]] = {}
        self.files: dict[str, Path] = {}
        for file in sorted(self.folder.glob("[!.]*.safetensors")):
            self._take(file)

    def __contains__(self, key: str) -> bool:
        return key in self.files

    def get(self, key: str, name: str) -> Tensor:
        """One tensor of one item, read from disk."""
        return _open(self.files[key]).get_tensor(f"{key}/{name}")

    def shape(self, key: str, name: str) -> tuple[int, ...]:
        """Its shape, from the header alone."""
        return self.shapes[key][name]

    def add(self, items: dict[str, dict[str, Tensor]]) -> None:
        """Write items as one piece. Raises OutputError."""
        if not items:
            return
        tensors = {
            f"{key}/{name}": value.contiguous() for key, each in items.items() for name, value in each.items()
        }
        file = self.folder / f"{uuid.uuid4().hex}.safetensors"
        self.folder.mkdir(parents=True, exist_ok=True)
        work = file.with_name(f".{file.name}")
        try:
            save_file(tensors, work)
            os.replace(work, file)
        except (OSError, SafetensorError) as error:
            raise OutputError(
                f"{file}: cannot be written ({error}); free some space, or set another cache"
            ) from None
        finally:
            work.unlink(missing_ok=True)
        self._take(file)

    def _take(self, file: Path) -> None:
        try:
            header = _header(file)
        except (OSError, ValueError, SafetensorError) as error:
            warnings.warn(
                f"{file}: a damaged piece of the cache is left out and made again ({error})", stacklevel=3
            )
            return
        for full, entry in header.items():
            key, _, name = full.partition("/")
            self.files[key] = file
            self.shapes.setdefault(key, {})[name] = tuple(entry["shape"])


@lru_cache(maxsize=64)
def _open(file: Path):
    return safe_open(file, "pt")


def _header(file: Path) -> dict[str, dict]:
    safe_open(file, "pt")  # checks the file against its header
    with open(file, "rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
    header.pop("__metadata__", None)
    return header


@dataclass
class EncodedClips:
    """Clips of a source as latents, unscaled; clips that could not be read stand in ``dropped`` with the reason."""

    source: Source
    cache: TensorCache
    indices: list[int] = field(default_factory=list)
    """The number in the source of each clip here."""
    keys: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def name(self, index: int) -> str:
        return self.source.name(self.indices[index])

    def caption(self, index: int, variant: int) -> str:
        return self.source.caption(self.indices[index], variant)

    def shape(self, index: int) -> tuple[int, ...]:
        """(c, t, h, w) of the latents."""
        return self.cache.shape(self.keys[index], "mean")

    def latents(self, index: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [c, t, h, w], float32."""
        key = self.keys[index]
        return self.cache.get(key, "mean").float(), self.cache.get(key, "deviation").float()

    def first(self, index: int) -> Tensor:
        """The first frame, uint8 [h, w, 3]."""
        return self.cache.get(self.keys[index], "first")


def encoded(source: Source, vae: nn.Module, folder: str | Path, title: str = "clips") -> EncodedClips:
    """The clips of ``source`` as latents: from the cache where it holds them, encoded and kept otherwise.

    Pieces are written as they are made, so an interrupted run continues.
    """
    cache = TensorCache(folder)
    found = EncodedClips(source, cache)
    keys = _keys(source, digest_of(vae.encoder, vae.config), found.dropped)  # whatever the decoder becomes
    missing = [index for index, key in keys.items() if key not in cache]
    for start in range(0, len(missing), PIECE):
        piece = missing[start : start + PIECE]
        cache.add({keys[index]: item for index, item in _encode(source, piece, vae, found.dropped)})
        print(f"{title}: {start + len(piece)}/{len(missing)} encoded", file=sys.stderr, flush=True)
    found.indices = [index for index, key in keys.items() if key in cache]
    found.keys = [keys[index] for index in found.indices]
    return found


def _keys(source: Source, weights: str, dropped: dict[str, str]) -> dict[int, str]:
    keys = {}
    for index in range(len(source)):
        try:
            content = source.content(index)
        except MediaError as error:
            dropped[source.name(index)] = str(error)
            continue
        keys[index] = hashlib.sha256(f"latents/{content}/{weights}".encode()).hexdigest()[:32]
    save = getattr(getattr(source, "digests", None), "save", None)
    if save is not None:
        save()
    return keys


def _encode(
    source: Source, indices: Sequence[int], vae: nn.Module, dropped: dict[str, str]
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    batch: list[tuple[int, np.ndarray]] = []
    for index in indices:
        try:
            pixels = source.pixels(index)
        except CogVideoXError as error:
            dropped[source.name(index)] = str(error)
            continue
        if batch and (len(batch) == TOGETHER or batch[0][1].shape != pixels.shape):
            yield from _encode_batch(vae, batch)
            batch = []
        batch.append((index, pixels))
    if batch:
        yield from _encode_batch(vae, batch)


@torch.no_grad()
def _encode_batch(
    vae: nn.Module, batch: list[tuple[int, np.ndarray]]
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """bfloat16 and channels last: four times as fast on a CPU; the rounding is far below the posterior's own noise."""
    weight = next(vae.parameters())
    for each in vae.parameters():
        if each.ndim == 5:
            each.data = each.data.contiguous(memory_format=torch.channels_last_3d)
    pixels = torch.from_numpy(np.stack([clip for _, clip in batch]))
    given = to_model(pixels).contiguous(memory_format=torch.channels_last_3d).to(weight.device)
    cpu = weight.device.type == "cpu"
    with torch.autocast(weight.device.type, dtype=torch.bfloat16, enabled=cpu):
        latents = vae.encode(given if cpu else given.to(weight.dtype))
    mean = latents.mean.float().half().cpu()
    deviation = (0.5 * latents.logvar.float()).exp().half().cpu()
    for place, (index, _) in enumerate(batch):
        yield index, {"mean": mean[place], "deviation": deviation[place], "first": pixels[place, 0]}


def embedded(
    prompts: Sequence[str], encode: Callable[[Sequence[str]], Tensor], weights: str, folder: str | Path
) -> Callable[[str], Tensor]:
    """Text embeddings [l, e] by prompt, from the cache or made now; ``weights`` is the text encoder's digest."""
    cache = TensorCache(folder)

    def key(prompt: str) -> str:
        return hashlib.sha256(f"text/{weights}/{prompt}".encode("utf-8", "replace")).hexdigest()[:32]

    missing = [prompt for prompt in dict.fromkeys(prompts) if key(prompt) not in cache]
    for start in range(0, len(missing), PIECE):
        items: dict[str, dict[str, Tensor]] = {}
        for at in range(start, min(start + PIECE, len(missing)), TOGETHER):
            some = missing[at : min(at + TOGETHER, start + PIECE)]
            items |= {key(one): {"text": value.cpu()} for one, value in zip(some, encode(some), strict=True)}
        cache.add(items)
    return lambda prompt: cache.get(key(prompt), "text")


def digest_of(module: nn.Module, config: object = None) -> str:
    """A digest of a network's weights, and of ``config`` or the settings it has itself."""
    digest = hashlib.sha256(repr(config or getattr(module, "config", None)).encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
