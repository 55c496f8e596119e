"""Context windows: a video longer than a network was trained on is denoised in overlapping windows of latent frames.

At every step the network answers for each window as if that were a video of its own; the answers for a frame are
averaged with weights, and the sampler goes on with the whole video. Guidance and samplers never see the windows.

Schedules of AnimateDiff-Evolved (static, uniform, looped), MultiDiffusion as Netflix VOID runs it (arXiv 2302.08113),
weights and shuffled noise of FreeNoise (arXiv 2310.15169).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Window = tuple[int, ...]
"""The latent frames of one window, in the order in which the network reads them."""
WindowSchedule = Literal["static", "uniform", "looped", "multidiffusion", "segments"]
WindowBlend = Literal["pyramid", "linear", "flat"]
Ask = Callable[[Window, Float[Tensor, "b c _ h w"]], Float[Tensor, "b d _ h w"]]
"""The network's answer for a window of the noisy video."""


@dataclass(frozen=True)
class Windows:
    """How a video of ``frames`` latent frames is divided into windows of ``size`` that share ``overlap``.

    ``schedule``: "static" has the same windows at every step, the last one moved back to end with the video;
    "multidiffusion" too, with a shorter last one; "uniform" moves them from step to step, and with ``stride`` above 1
    adds windows of every 2nd, 4th, ... frame; "looped" does that around the end, for a video that is played in a loop;
    "segments" are no windows of one video but videos that follow each other, laid here to be counted.
    ``blend``: the weights of a window's frames: "pyramid" (1, 2, ..., 2, 1), "linear" (rising and falling over the
    overlap, not at the ends of the video) or "flat". ``unit``: latent frames that stay together, those of a patch.
    ``prompts``: the first latent frame of each prompt; a window follows the one at its middle.
    """

    frames: int
    size: int
    overlap: int
    schedule: WindowSchedule = "static"
    blend: WindowBlend = "pyramid"
    stride: int = 1
    unit: int = 1
    prompts: tuple[int, ...] = (0,)

    def at(self, step: int) -> tuple[Window, ...]:
        """The windows of a step, counted from 0; together they hold every frame."""
        return _windows(self, step)

    @property
    def moves(self) -> bool:
        """Whether the windows differ from step to step."""
        return self.schedule in ("uniform", "looped") and self.size < self.frames

    def asked_frames(self, steps: int) -> float:
        """Latent frames that the network is asked for at a step, as a mean over so many."""
        counted = range(steps if self.moves else 1)
        return sum(len(window) for step in counted for window in self.at(step)) / len(counted)

    def prompt_of(self, window: Window) -> int:
        """Which prompt a window follows, from 0: that of the frame in its middle."""
        middle = window[len(window) // 2]
        return max(index for index, first in enumerate(self.prompts) if first <= middle or index == 0)

    def blended(self, step: int, x: Float[Tensor, "b c t h w"], ask: Ask) -> Float[Tensor, "b d t h w"]:
        """The answers for all windows of a step as one, in float32; of a single window its answer as it is."""
        windows = self.at(step)
        if windows == (tuple(range(self.frames)),):
            return ask(windows[0], x)
        total: Tensor | None = None
        for window, weights in zip(windows, _weights(self, step, x.device), strict=True):
            answer = ask(window, take(x, window)).float()
            if total is None:
                total = answer.new_zeros(*answer.shape[:2], self.frames, *answer.shape[3:])
            total.index_add_(2, _index(window, x.device), answer * weights)
        assert total is not None  # every step has a window
        return total


def take(x: Float[Tensor, "b c t h w"], window: Window) -> Float[Tensor, "b c _ h w"]:
    """The latent frames of a window: a view where they follow each other."""
    first, last = window[0], window[-1]
    if last - first == len(window) - 1 and window == tuple(range(first, last + 1)):
        return x[:, :, first : last + 1]
    return x.index_select(2, _index(window, x.device))


def shuffled(
    noise: Float[Tensor, "b c t h w"], size: int, overlap: int, generator: torch.Generator
) -> Float[Tensor, "b c t h w"]:
    """FreeNoise: all windows begin from the same noise frames, in another order from window to window.

    After the first ``size`` frames come those of ``size - overlap`` frames before, permuted, again and again.
    """
    noise, frames, delta = noise.clone(), noise.shape[2], size - overlap
    for start in range(0, frames - size, delta):
        count = min(delta, frames - start - size)
        order = start + torch.randperm(count, generator=generator, device=generator.device)
        noise[:, :, start + size : start + size + count] = noise[:, :, order.to(noise.device)]
    return noise


def ordered_halving(step: int) -> float:
    """The bits of a whole number in reverse, as a fraction: 0, 1/2, 1/4, 3/4, 1/8, ..."""
    return int(f"{step:064b}"[::-1], 2) / 2**64


@lru_cache(maxsize=2048)
def _windows(windows: Windows, step: int) -> tuple[Window, ...]:
    """The windows of a step, laid in units and written out in latent frames."""
    unit = windows.unit
    total, size, overlap = windows.frames // unit, windows.size // unit, windows.overlap // unit
    if total <= size:
        laid = [list(range(total))]
    elif not windows.moves:
        laid = _fixed(total, size, overlap, short_last=windows.schedule != "static")
    else:
        laid = _moving(total, size, overlap, windows.stride, step, looped=windows.schedule == "looped")
    return tuple(tuple(each * unit + i for each in window for i in range(unit)) for window in laid)


def _fixed(total: int, size: int, overlap: int, short_last: bool) -> list[list[int]]:
    """Windows one after the other; the last one is moved back to end with the video, or ends short."""
    laid, start = [list(range(size))], 0
    while laid[-1][-1] < total - 1:
        start += size - overlap
        first = start if short_last else min(start, total - size)
        laid.append(list(range(first, min(first + size, total))))
    return laid


def _moving(total: int, size: int, overlap: int, stride: int, step: int, looped: bool) -> list[list[int]]:
    """Windows that begin elsewhere at each step, of neighbouring frames and of frames 2, 4, ... apart."""
    shift = ordered_halving(step)
    pad = round(total * shift)
    laid: list[list[int]] = []
    for power in range(min(stride, math.ceil(math.log2(total / size)) + 1)):
        apart = 2**power
        if not looped and (size - 1) * apart >= total:  # such a window would meet itself
            break
        starts = range(
            int(shift * apart) + pad, total + pad - (0 if looped else overlap), size * apart - overlap
        )
        laid += [[(start + n * apart) % total for n in range(size)] for start in starts]
    if looped:
        return [list(window) for window in dict.fromkeys(map(tuple, laid))]
    return _covering(_inside(laid, total, size), total, size)


def _inside(laid: list[list[int]], total: int, size: int) -> list[list[int]]:
    """Windows that run over the end of the video moved back inside, each kept once."""
    queue, kept = list(laid), list[list[int]]()
    index = 0
    while index < len(queue):
        window = queue[index]
        rolled = next((n for n in range(1, size) if window[n] < window[n - 1]), None)
        if rolled is not None:
            again = window[rolled]
            spread = [(each - window[0]) % total for each in window]
            window = [each + total - 1 - spread[-1] for each in spread]
            if again not in queue[(index + 1) % len(queue)]:
                queue.insert(index + 1, list(range(again, again + size)))
        if window not in kept:
            kept.append(window)
        index += 1
    return kept


def _covering(laid: list[list[int]], total: int, size: int) -> list[list[int]]:
    """The windows, and one more for every frame that is in none."""
    seen = {frame for window in laid for frame in window}
    for frame in range(total):
        if frame not in seen:
            first = min(frame, total - size)
            laid.append(list(range(first, first + size)))
            seen |= set(laid[-1])
    return laid


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _weights(windows: Windows, step: int, device: torch.device) -> tuple[Float[Tensor, "_ 1 1"], ...]:
    """The weight of each frame of each window, so that those of a frame of the video sum to one."""
    laid = windows.at(step)
    raw = [torch.tensor(_ramps(windows, window), dtype=torch.float64) for window in laid]
    total = torch.zeros(windows.frames, dtype=torch.float64)
    for window, weights in zip(laid, raw, strict=True):
        total.index_add_(0, torch.tensor(window), weights)
    shares = [weights / total[list(window)] for window, weights in zip(laid, raw, strict=True)]
    return tuple(each.float().to(device)[:, None, None] for each in shares)


def _ramps(windows: Windows, window: Window) -> list[float]:
    """The weights of one window before they are made to sum to one."""
    count = len(window)
    if windows.blend == "flat":
        return [1.0] * count
    if windows.blend == "pyramid":
        return [float(min(n + 1, count - n)) for n in range(count)]
    overlap = windows.overlap
    begins = windows.schedule != "looped" and window[0] == 0
    ends = windows.schedule != "looped" and window[-1] == windows.frames - 1
    rising = [1.0 if begins else min((n + 1) / (overlap + 1), 1.0) for n in range(count)]
    falling = [1.0 if ends else min((count - n) / (overlap + 1), 1.0) for n in range(count)]
    return [min(pair) for pair in zip(rising, falling, strict=True)]


@lru_cache(maxsize=1024)
@torch.inference_mode(False)
def _index(window: Window, device: torch.device) -> Tensor:
    return torch.tensor(window, device=device)
