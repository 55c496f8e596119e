"""Which device computes, and whether it is here."""

from __future__ import annotations

from cogvideox.errors import ConfigError


def best_device() -> str:
    """The fastest kind of device here: cuda, mps or cpu."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(device: str) -> None:
    """Raises ConfigError when nothing can be computed there."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:120]
        raise ConfigError(f"device {device!r}: not available here ({reason}); choose cpu") from None
