"""Which device computes, and whether it is here."""

from __future__ import annotations

import warnings

from cogvideox.errors import ConfigError

SPARE = 1.2  # times the weights: what the least work beside them takes


def best_device() -> str:
    """The fastest kind of device here: cuda, mps or cpu."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def device_for(needed: int) -> str:
    """The best device for so many bytes of weights: the GPU; with a warning the CPU where they do not fit."""
    best = best_device()
    if best == "cpu":
        return best
    try:
        check_device(best)
    except ConfigError as error:
        warnings.warn(f"{error}; loaded on the CPU", stacklevel=3)
        return "cpu"
    free = free_bytes(best)
    if free is None or needed * SPARE <= free:
        return best
    warnings.warn(
        f"device {best}: {needed / 1e9:.3g} GB of weights do not fit its {free / 1e9:.3g} GB of free memory; loaded on "
        f"the CPU, which is slow. Pass device={best!r} to insist, or a smaller dtype; cogvideox generate --memory auto "
        "brings parts to the device when they are needed",
        stacklevel=3,
    )
    return "cpu"


def free_bytes(device: str) -> int | None:
    """Bytes free on a GPU, those included that torch holds without using them; None where that is not told."""
    import torch

    if not device.startswith("cuda"):
        return None
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + idle


def check_device(device: str) -> None:
    """Raises ConfigError when nothing can be computed there."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:120]
        raise ConfigError(f"device {device!r}: not available here ({reason}); choose cpu") from None
