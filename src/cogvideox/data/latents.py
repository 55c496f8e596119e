"""Encode once, train many times: tensors kept under a digest of everything they follow from.

The key of a clip's latents holds the digest of its pixels' source, of the autoencoder's weights and of how it codes:
when any of them changes, another key is asked for and the old tensors are never read again. Text embeddings are kept
the same way.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cogvideox.cpu_ops import half_is_native
from cogvideox.data.cache import TensorCache
from cogvideox.data.clips import ClipDataset, to_model
from cogvideox.errors import CogVideoXError, MediaError, NumericsError
from cogvideox.progress import progress, say
from cogvideox.vae import VAE

TOGETHER = 20  # clips of one shape, or prompts, encoded at once, at most
PIXELS = 1 << 21  # of the clips encoded at once: 20 of 25x64x64; one of 49x480x720 has more and goes alone

Batch = list[tuple[int, np.ndarray]]
"""Numbers of clips and their pixels, all of one shape."""
EncodeMissing = Callable[[ClipDataset, Mapping[str, int], dict[str, str]], Iterator[int]]
"""Encodes the clips of a source that a cache lacks (key to number) into that cache, elsewhere; yields how many it did
and notes those that it could not (name to reason)."""


@dataclass
class EncodedClips:
    """Clips of a source as latents, unscaled; clips that could not be read stand in ``dropped`` with the reason."""

    source: ClipDataset
    cache: TensorCache
    indices: list[int] = field(default_factory=list)
    """The number in the source of each clip here."""
    keys: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    alike: str = ""
    """The key of a clip that is there, whose shape those have that were passed over."""

    def __len__(self) -> int:
        return len(self.keys)

    def name(self, index: int) -> str:
        """What the ledger and messages call the clip."""
        return self.source.name(self.indices[index])

    def caption(self, index: int, variant: int) -> str:
        """What the clip shows; ``variant`` chooses among several ways to say it."""
        return self.source.caption(self.indices[index], variant)

    def shape(self, index: int) -> tuple[int, ...]:
        """(c, t, h, w) of the latents; of a clip that was passed over, those of all others."""
        key = self.keys[index]
        return self.cache.shape(key if key in self.cache else self.alike, "mean")

    def latents(self, index: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [c, t, h, w], float32."""
        key, name = self.keys[index], self.name(index)
        return self.cache.get(key, "mean", name).float(), self.cache.get(key, "deviation", name).float()

    def first(self, index: int) -> Tensor:
        """The first frame, uint8 [h, w, 3]."""
        return self.cache.get(self.keys[index], "first", self.name(index))


def encoded(
    source: ClipDataset,
    vae: VAE,
    folder: str | Path,
    title: str = "clips",
    only: Set[int] | None = None,
    elsewhere: EncodeMissing | None = None,
) -> EncodedClips:
    """The clips of ``source`` as latents: from the cache where it holds them, encoded and kept otherwise.

    ``only``: numbers of the clips that will be asked for; the others are listed but not encoded. All clips of the
    source must have one shape then. ``elsewhere``: who encodes them (``encode_elsewhere``); None: this process.

    What is made is written every half minute and when the work is stopped, so an interrupted run continues; the same
    clips are encoded together then as without the stop. Raises NumericsError when latents are not finite.
    """
    cache = TensorCache(folder)
    found = EncodedClips(source, cache)
    keys = _keys(source, digest_of(vae.encoder, vae.config), found.dropped)  # whatever the decoder becomes
    missing: dict[str, int] = {}
    for index, key in keys.items():
        if key not in cache and (only is None or index in only):
            missing.setdefault(key, index)  # a clip that is there twice is encoded once
    with _counted(title, len(missing)) as count:
        if elsewhere is not None:
            for done in elsewhere(source, missing, found.dropped) if missing else ():
                count(done)
            cache.read_new()
        else:
            with cache.adding() as add:
                for batch in read_batches(source, missing.values(), found.dropped):
                    add({keys[index]: item for index, item in encode_batch(vae, batch, source)})
                    count(len(batch))
    for index, key in keys.items():
        if key in cache and not found.alike:
            found.alike = key
        if key in cache or (only is not None and index not in only):
            found.indices.append(index)
            found.keys.append(key)
        else:
            found.dropped[source.name(index)] = found.dropped[source.name(missing[key])]
    return found


def _keys(source: ClipDataset, weights: str, dropped: dict[str, str]) -> dict[int, str]:
    keys = {}
    for index in range(len(source)):
        try:
            content = source.content(index)
        except MediaError as error:
            dropped[source.name(index)] = str(error)
            continue
        keys[index] = hashlib.sha256(f"latents/{content}/{weights}".encode()).hexdigest()[:32]
    source.save_digests()
    return keys


def read_batches(source: ClipDataset, indices: Iterable[int], dropped: dict[str, str]) -> Iterator[Batch]:
    """Neighbours of one shape, as many as may be encoded at once; clips that cannot be read are noted."""
    batch: Batch = []
    for index in indices:
        try:
            pixels = source.pixels(index)
        except CogVideoXError as error:
            dropped[source.name(index)] = str(error)
            continue
        if batch and batch[0][1].shape != pixels.shape:
            yield batch
            batch = []
        batch.append((index, pixels))
        if len(batch) >= min(TOGETHER, PIXELS // math.prod(pixels.shape[:3])):
            yield batch
            batch = []
    if batch:
        yield batch


@torch.no_grad()
def encode_batch(vae: VAE, batch: Batch, source: ClipDataset) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """bfloat16 and channels last: four times as fast on a CPU with units for it; the rounding is far below the
    posterior's own noise. A CPU without them would take sixty times as long, and gets float32."""
    weight = next(vae.parameters())
    for each in vae.parameters():
        if each.ndim == 5:
            each.data = each.data.contiguous(memory_format=torch.channels_last_3d)
    pixels = torch.from_numpy(np.stack([clip for _, clip in batch]))
    given = to_model(pixels).contiguous(memory_format=torch.channels_last_3d).to(weight.device)
    cpu = weight.device.type == "cpu"
    with torch.autocast(
        weight.device.type, dtype=torch.bfloat16, enabled=cpu and half_is_native(torch.bfloat16)
    ):
        latents = vae.encode(given if cpu else given.to(weight.dtype))
    mean = latents.mean.float().half().cpu()
    deviation = (0.5 * latents.logvar.float()).exp().half().cpu()
    for item, (index, _) in enumerate(batch):
        _check_finite(source.name(index), mean[item], deviation[item])
        yield index, {"mean": mean[item], "deviation": deviation[item], "first": pixels[item, 0].clone()}


def _check_finite(name: str, *values: Tensor) -> None:
    for value in values:
        if not value.isfinite().all():
            raise NumericsError(
                f"{name}: its latents are not finite ({int((~value.isfinite()).sum())} of {value.numel()} values); "
                "the autoencoder is damaged or overflows, use another; if it is this clip alone, take it out"
            )


@contextmanager
def _counted(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields ``count(more)``, called after each batch of ``total`` items; says at the end how many were encoded."""
    if not total:
        yield lambda more: None
        return
    done = 0
    try:
        with progress(title) as show:

            def count(more: int) -> None:
                nonlocal done
                done += more
                show(f"{title}: encoding", done, total)

            yield count
    finally:
        say(f"{title}: {done}/{total} encoded")


def embedded(
    prompts: Sequence[str], encode: Callable[[Sequence[str]], Tensor], weights: str, folder: str | Path
) -> Callable[[str], Tensor]:
    """Text embeddings [l, e] by prompt, from the cache or made now; ``weights`` is the text encoder's digest."""
    cache = TensorCache(folder)

    def key(prompt: str) -> str:
        return hashlib.sha256(f"text/{weights}/{prompt}".encode("utf-8", "replace")).hexdigest()[:32]

    missing = [prompt for prompt in dict.fromkeys(prompts) if key(prompt) not in cache]
    with cache.adding() as add, _counted("captions", len(missing)) as count:
        for start in range(0, len(missing), TOGETHER):
            some = missing[start : start + TOGETHER]
            add({key(one): {"text": value.cpu()} for one, value in zip(some, encode(some), strict=True)})
            count(len(some))
    return lambda prompt: cache.get(key(prompt), "text", f"caption {prompt[:60]!r}")


def digest_of(module: nn.Module, config: object = None) -> str:
    """A digest of a network's weights, and of ``config`` or the settings it has itself."""
    digest = hashlib.sha256(repr(config or getattr(module, "config", None)).encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
