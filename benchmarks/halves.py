"""Half precision on this CPU beside our own float32: as it computes here, and as a CPU without units for it would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from cases import TEXT_WIDTH, Size, Work, _noise, _transformer, _vae, fill
from timing import _seconds

from cogvideox import cpu_ops
from cogvideox.transformer.kernels import use_kernel


@dataclass(frozen=True)
class Half:
    """Median seconds of one piece of work, and the ratios to float32 over the rounds, least and most."""

    name: str
    plain: float
    half: float
    without_units: float
    spread: tuple[float, float]

    @property
    def row(self) -> str:
        """One line of the table."""
        least, most = self.spread
        return (
            f"| {self.name} | {self.plain:.3f} | {self.half:.3f} | {self.without_units:.3f} "
            f"| **{self.without_units / self.plain:.2f}** ({least:.2f} to {most:.2f}) |"
        )


@contextmanager
def _without_units() -> Iterator[None]:
    known = cpu_ops.half_is_native
    cpu_ops.half_is_native = lambda dtype: False
    try:
        yield
    finally:
        cpu_ops.half_is_native = known


def _forward(size: Size, dtype: torch.dtype) -> Work:
    network = fill(_transformer(size, "ours", size.latents, size.heads, size.depth)).to(dtype)
    use_kernel(network, "fastest")
    latents, text = _noise(1, 16, *size.latents).to(dtype), _noise(1, size.text_tokens, TEXT_WIDTH).to(dtype)
    return lambda: network(latents, text, torch.tensor([500]))


def _decode(size: Size, dtype: torch.dtype) -> Work:
    vae = fill(_vae(size, "ours")).to(dtype)
    z = _noise(1, 16, (size.frames - 1) // 4 + 1, size.height // 8, size.width // 8).to(dtype)
    return lambda: vae.decode(z)


@torch.inference_mode()
def measure(size: Size, repeats: int) -> list[Half]:
    """Transformer and decoder, the three ways in turns."""
    found = []
    for name, make in (("transformer forward", _forward), ("VAE decode", _decode)):
        plain, half = make(size, torch.float32), make(size, torch.bfloat16)
        rounds = []
        for number in range(repeats + 1):
            taken = [_seconds(plain), _seconds(half)]
            with _without_units():
                taken.append(_seconds(half))
            if number:  # the first warms up
                rounds.append(taken)
        shares = [without / full for full, _, without in rounds]
        medians = [median(column) for column in zip(*rounds, strict=True)]
        found.append(Half(name, *medians, (min(shares), max(shares))))
    return found
