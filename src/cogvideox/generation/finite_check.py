"""Two measurements of a run: whether its numbers stayed finite, and how much memory it took.

Checking every layer would cost a wait for the device each time, so a run is checked once, at its end. Only
when something is wrong is it repeated with every layer watched, and the first to make NaN or Inf is named.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cogvideox.errors import NumericsError

FINITE_AGAIN = (
    "values are NaN or Inf, but every layer's output was finite when run again; the sum overflowed outside the "
    "networks, or the device is unreliable; try float32"
)
resource = import_module("resource") if find_spec("resource") else None  # not on Windows


def guarded(
    produce: Callable[[bool], Float[Tensor, "*dims"]],
    networks: Mapping[str, nn.Module],
    what: str,
    check: bool = True,
) -> Float[Tensor, "*dims"]:
    """``produce(False)``, checked. Raises NumericsError naming the layer of ``networks`` that first made NaN or Inf.

    ``produce(True)`` must repeat exactly what ``produce(False)`` did; it is called only when the result is not finite.
    """
    result = produce(False)
    if not check or bool(result.isfinite().all()):
        return result
    with watching(networks, what):
        produce(True)
    bad = int((~result.isfinite()).sum())
    raise NumericsError(f"{what}: {bad} of {result.numel()} {FINITE_AGAIN}")


def guarded_stream(
    produce: Callable[[], Iterator[Float[Tensor, "*dims"]]],
    networks: Mapping[str, nn.Module],
    what: str,
    check: bool = True,
) -> Iterator[Float[Tensor, "*dims"]]:
    """``guarded`` for what comes one after the other: each is checked, and all are made again to find the layer."""
    for result in produce():
        if check and not bool(result.isfinite().all()):
            with watching(networks, what):
                for _ in produce():
                    pass
            bad = int((~result.isfinite()).sum())
            raise NumericsError(f"{what}: {bad} of {result.numel()} {FINITE_AGAIN}")
        yield result


@contextmanager
def watching(networks: Mapping[str, nn.Module], what: str) -> Iterator[None]:
    """Raise NumericsError from the first layer whose output is not finite. Slow: waits for the device at each."""
    hooks = [
        module.register_forward_hook(_hook(f"{title}.{name}" if name else title, what))
        for title, network in networks.items()
        for name, module in network.named_modules()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _hook(name: str, what: str) -> Callable[[nn.Module, Any, Any], None]:
    def check(module: nn.Module, inputs: Any, output: Any) -> None:
        for tensor in _tensors_in(output):
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise NumericsError(f"{what}: {name} made NaN or Inf; {_reason(module, inputs, tensor)}")

    return check


def _reason(module: nn.Module, inputs: Any, output: Tensor) -> str:
    for name, weight in module.named_parameters():
        if weight.is_floating_point() and not weight.is_meta and not bool(weight.isfinite().all()):
            return f"its {name} holds NaN or Inf: a damaged checkpoint or diverged training; load another one"
    given = [t for t in _tensors_in(inputs) if t.is_floating_point()]
    if any(not bool(t.isfinite().all()) for t in given):
        return "its input already held NaN or Inf; check the text embedding and the given latents"
    largest = max((t.abs().max().item() for t in given if t.numel()), default=0.0)
    kind = str(output.dtype).removeprefix("torch.")
    advice = "use bfloat16 or float32" if output.dtype == torch.float16 else "look at that layer's weights"
    return f"its input was finite (at most {largest:.3g}) and its precision is {kind}: {advice}"


def _tensors_in(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, int]]:
    """Yields a dict that holds, at the end, the most bytes of the "device", and of the "process" since its start."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    peak: dict[str, int] = {}
    yield peak
    if device.type == "cuda":
        peak["device"] = torch.cuda.max_memory_allocated(device)
    if resource is not None:
        unit = 1 if sys.platform == "darwin" else 1024
        peak["process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
