"""What fits: predict the peak of every stage under every policy, choose the cheapest that fits, or say what would.

No weight is loaded. A prediction is resident weights plus what the real code, run on tensors without memory,
holds at its peak. One tenth of the limit is left free: allocators round up and kernels take workspaces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from cogvideox.errors import InputError
from cogvideox.memory.lowbit import LOW_BIT_EXTRA, Products
from cogvideox.memory.policy import Policy, StageMemory, pinned, policies, stages
from cogvideox.memory.request import Request
from cogvideox.memory.stages import ActivationBytes, Pair, VaeWay, decoding, denoising, encoding
from cogvideox.memory.weights import Storage, TextShape, Weights, weigh

RESERVE = 0.1
GB = 1e9


@dataclass(frozen=True)
class Option:
    """One policy for one request: its stages, and whether it fits."""

    policy: Policy
    stages: list[StageMemory]
    limit: int | None
    bound: bool = False  # the stages are upper bounds, far within the limit
    pinned: int = 0  # bytes of host memory that is page-locked for streaming
    needs: str = ""  # the extra to install first; '' where all is there
    cast_from: str = ""  # the stored precision, where weights are cast each time they are read

    @property
    def price(self) -> str:
        """What it costs beside the plain way."""
        return self.policy.price + (
            f"; casts {self.cast_from} weights as it reads them" if self.cast_from else ""
        )

    @property
    def peak(self) -> int:
        """The most bytes any stage needs."""
        return max(stage.peak for stage in self.stages)

    @property
    def largest(self) -> StageMemory:
        """The stage that decides."""
        return max(self.stages, key=lambda stage: stage.peak)

    @property
    def fits(self) -> bool:
        """Whether it can be done here, and the peak and the reserve stay within the limit (no limit: any peak does)."""
        return not self.needs and self.would_fit

    @property
    def would_fit(self) -> bool:
        """The same if what it needs were installed."""
        return self.limit is None or self.peak <= self.limit * (1 - RESERVE)


@dataclass(frozen=True)
class MemoryPlan:
    """Every option for a request, cheapest first, and the one that was chosen (None: nothing fits)."""

    request: Request
    limit: int | None
    options: list[Option]

    @property
    def choice(self) -> Option | None:
        """The cheapest option that fits."""
        return next((option for option in self.options if option.fits), None)

    @property
    def least(self) -> Option:
        """The option with the smallest peak of those that can be done here."""
        here = [option for option in self.options if not option.needs]
        return min(here or self.options, key=lambda option: option.peak)

    @property
    def why(self) -> str:
        """One line: what was chosen, and why nothing cheaper."""
        choice = self.choice
        if choice is None:
            least = f"nothing fits {_gb(self.limit)}: {_need(self.least)} with {self.least.policy.name}"
            later = next((option for option in self.options if option.would_fit), None)
            if later is None:
                return least
            if self.least.needs:
                least = f"nothing that is installed fits {_gb(self.limit)}"
            return f"{least}; {later.policy.name} would fit: {_need(later)}, pip install '{later.needs}'"
        if self.limit is None:
            return f"{choice.policy.name}: no limit is known"
        if choice.bound:
            return f"{choice.policy.name}: less than half of {_gb(self.limit)} is needed"
        head = f"{choice.policy.name}: {_need(choice)}, the limit is {_gb(self.limit)}"
        before = self.options[: self.options.index(choice)]
        if not before:
            return f"{head}; nothing has to be saved"
        return f"{head}; {before[0].policy.name} would need {_gb(before[0].peak)} ({before[0].largest.name})"

    def record(self) -> dict[str, Any]:
        """For the manifest: what was chosen and predicted."""
        choice = self.choice
        counted = choice if choice and not choice.bound else None
        return {
            "limit_bytes": self.limit,
            "policy": choice.policy.record() if choice else None,
            "predicted_peak_bytes": counted.peak if counted else None,
            "predicted": {stage.name: stage.peak for stage in counted.stages} if counted else {},
            "why": self.why,
        }


@lru_cache(maxsize=32)
def _counts_of(request: str) -> dict[tuple[Any, ...], Any]:
    """The counts made so far in this process for an equal request, by its text: a batch of prompts counts once."""
    return {}


class MemoryPrediction:
    """The stages of one request; every count is made once for equal requests, when a policy first asks for it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._counts = _counts_of(repr(request))

    @cached_property
    def text(self) -> TextShape | None:
        """Sizes of the text encoder, None without one on this device."""
        settings = self.request.spec.text_settings if self.request.text != "elsewhere" else None
        return TextShape.of(settings) if settings is not None else None

    @property
    def apart(self) -> bool:
        """Whether the text encoder is read from its files whatever the policy says."""
        return self.request.text != "resident"

    def weights(self, storage: Storage) -> Weights:
        """Bytes of every part, stored this way."""
        return self._once(("weights", storage), lambda: weigh(self.request, self.text, storage))

    def work(self, pair: Pair, way: VaeWay, low_bits: Products | None = None) -> ActivationBytes:
        """Bytes every stage works in. ``low_bits`` as for ``denoising``: the text encoder then widens weights too."""
        request = self.request
        text = self.text.work(request.spec.text_tokens, request.dtype) if self.text is not None else 0
        if self.text is not None and low_bits is not None:
            text += self.text.width * self.text.hidden * request.dtype.itemsize
        return ActivationBytes(
            text,
            self._once(("encode", way), lambda: encoding(request, way)),
            self._once(("denoise", pair, low_bits), lambda: denoising(request, pair, low_bits)),
            self._once(("decode", way), lambda: decoding(request, way)),
        )

    @cached_property
    def bound(self) -> ActivationBytes:
        """More than any stage works in: activations at full size and width, many times over."""
        request, spec = self.request, self.request.spec
        pixels, size = request.height * request.width, max(request.dtype.itemsize, 4)
        video = 4 * 3 * request.frames * pixels * size
        times = 120 if request.on_cpu else 60  # convolutions on a CPU take as much again
        vae = times * max(spec.vae.block_out_channels) * pixels * size + video
        tokens = request.volume // (2 * spec.vae.spatial_compression_ratio) ** 2 + spec.text_tokens
        denoise = 30 * 2 * tokens * spec.transformer.width * size
        if request.windows is not None:  # all latents, many times over, and what caches keep of each window
            cells = request.latents * pixels // spec.vae.spatial_compression_ratio**2
            kept = 8 * len(request.windows.at(0)) if request.reuse or request.first_block else 0
            denoise += (
                40 * spec.transformer.in_channels * cells + kept * tokens * spec.transformer.width
            ) * size
        text = self.text.work(spec.text_tokens, request.dtype) if self.text is not None else 0
        return ActivationBytes(text, vae if request.given else 0, denoise, vae)

    def option(self, policy: Policy, limit: int | None, low_bit: bool = True) -> Option:
        """One policy for this request; ``low_bit`` false: the library for rounded weights is not installed."""
        needs = "" if low_bit or policy.storage in ("stored", "int4") else LOW_BIT_EXTRA
        low_bits = None if policy.storage == "stored" else policy.products
        weights, on_cpu = self.weights(policy.storage), self.request.on_cpu
        work = self.work(policy.pair, policy.vae, low_bits)
        memory = stages(policy, weights, work, limit, on_cpu=on_cpu, apart=self.apart)
        locked = 0 if on_cpu else pinned(policy, weights, self.apart)
        stored, wanted = self.request.spec.dtype, str(self.request.dtype).removeprefix("torch.")
        cast = stored if policy.from_files(on_cpu) and stored != wanted else ""
        return Option(policy, memory, limit, pinned=locked, needs=needs, cast_from=cast)

    def _once(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        if key not in self._counts:
            self._counts[key] = make()
        return self._counts[key]


def plan(
    request: Request,
    limit: int | None = None,
    residence: str = "auto",
    low_bit: bool = True,
    *,
    storage: str = "auto",
    products: str = "full",
) -> MemoryPlan:
    """Predict all policies of a request against ``limit`` bytes. Raises ConfigError as ``policies``.

    ``low_bit`` false: without the library for rounded weights, which are not chosen, and counted only where nothing
    else fits.
    """
    prediction = MemoryPrediction(request)
    ways = list(_ways(request, residence, storage, products))
    here = [way for way in ways if low_bit or way.storage in ("stored", "int4")]
    options = [prediction.option(policy, limit, low_bit) for policy in here]
    if not any(option.fits for option in options):
        options += [prediction.option(policy, limit, low_bit) for policy in ways if policy not in here]
    return MemoryPlan(request, limit, options)


def settle(
    request: Request,
    limit: int | None,
    residence: str = "auto",
    low_bit: bool = True,
    *,
    storage: str = "auto",
    products: str = "full",
) -> MemoryPlan:
    """``plan`` as far as the first policy that fits; what fits many times over is not even counted."""
    prediction = MemoryPrediction(request)
    options: list[Option] = []
    for policy in _ways(request, residence, storage, products):
        if not options:
            weights, on_cpu = prediction.weights(policy.storage), request.on_cpu
            bound = stages(policy, weights, prediction.bound, limit, on_cpu=on_cpu, apart=prediction.apart)
            if limit is None or max(stage.peak for stage in bound) < limit / 2:
                return MemoryPlan(request, limit, [Option(policy, bound, limit, bound=True)])
        options.append(prediction.option(policy, limit, low_bit))
        if options[-1].fits:
            break
    return MemoryPlan(request, limit, options)


def _ways(request: Request, residence: str, storage: str, products: str) -> Iterator[Policy]:
    """The policies that have an effect for a request. Raises ConfigError."""
    plain = request.on_cpu, request.guided, request.tiles
    return policies(*plain, residence, storage, products, quantised=bool(request.spec.stored_bytes))


def require(memory_plan: MemoryPlan) -> Option:
    """The choice of a plan; raises InputError with the reason and the nearest request that fits."""
    if memory_plan.choice is not None:
        return memory_plan.choice
    near, request = nearest(memory_plan), memory_plan.request
    advice = f"nearest that fits: {near}" if near else "no smaller video fits either; use a larger device"
    size = f"{request.frames} frames of {request.height}x{request.width}"
    raise InputError(f"{size}: {memory_plan.why}, and a tenth is kept free; {advice}")


def nearest(memory_plan: MemoryPlan) -> str | None:
    """The longest video of this size, or else the largest picture of this length, that fits; None if none.

    Candidates are sieved by proportion, which is nearly exact, and then counted.
    """
    limit, least, whole = memory_plan.limit, memory_plan.least, memory_plan.request
    assert limit is not None  # without a limit everything fits
    for request in (*_shorter(whole), *_smaller(whole)):
        share = request.volume / whole.volume
        guess = max(stage.weights + stage.work * share for stage in least.stages if stage.name != "text")
        if max(guess, least.stages[0].peak) > limit:
            continue
        if MemoryPrediction(request).option(least.policy, limit).fits:
            return f"{request.frames} frames of {request.height}x{request.width} ({least.policy.name})"
    return None


def _shorter(request: Request) -> Iterator[Request]:
    """The same picture with fewer frames: three quarters, half, a quarter, ... rounded to what is made."""
    spec = request.spec
    ratio, patch = spec.vae.temporal_compression_ratio, spec.transformer.patch_size_t or 1
    unit, last = 2 * ratio * patch if ratio > 1 else patch, request.frames
    for share in (0.85, 0.7, 0.5, 0.35, 0.2, 0.1):
        frames = max(int(request.frames * share - 1) // unit, 0) * unit + 1
        if 1 < frames < last:
            last = frames
            latents = (frames - 1) // ratio + 1
            yield request.resized(frames, latents + -latents % patch, request.height, request.width)


def _smaller(request: Request) -> Iterator[Request]:
    """The same length with a smaller picture of about the same shape."""
    spec = request.spec
    multiple = spec.vae.spatial_compression_ratio * spec.transformer.patch_size
    for share in (0.85, 0.7, 0.5, 0.35, 0.25):
        sides = request.height, request.width
        height, width = (max(int(side * share) // multiple, 1) * multiple for side in sides)
        if (height, width) != sides:
            yield request.resized(request.frames, request.latents, height, width)


def _need(option: Option) -> str:
    return f"{_gb(option.peak)} are needed ({option.largest.name})"


def _gb(size: int | None) -> str:
    return f"{(size or 0) / GB:.3g} GB"
