"""Optical flow: how far each pixel moves from one frame to the next."""

from __future__ import annotations

import os
from functools import cache
from typing import Annotated, Any, Literal, Protocol, Self

import numpy as np
from pydantic import Field, model_validator

from cogvideox.config import Config
from cogvideox.errors import CheckpointError, DependencyError


def opencv() -> Any:
    """OpenCV, on one thread. Raises DependencyError when it is not installed."""
    try:
        import cv2
    except ImportError:
        raise DependencyError("opencv is not installed; install cogvideox[data]") from None
    cv2.setNumThreads(1)  # work is spread over processes
    return cv2


class Flow(Protocol):
    """Optical flow between two images. ``colour``: whether it reads RGB images rather than grey ones."""

    name: str
    colour: bool

    def __call__(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """``uint8 [h, w]``, or in colour ``[h, w, 3]``, twice -> ``float32 [h, w, 2]``: pixels right and down."""


class DisFlow:
    """Dense inverse search (Kroeger et al. 2016), as OpenCV ships it: no weights, a few milliseconds a pair."""

    name = "opencv-dis-fast"
    colour = False
    least = 24  # pixels a side; below it the pyramid of DIS has no level

    def __init__(self) -> None:
        self._cv2 = opencv()
        self._dis = self._cv2.DISOpticalFlow_create(self._cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def __call__(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """See Flow; pictures below 24 pixels a side are enlarged for the search."""
        short = min(before.shape)
        if short >= self.least:
            return self._dis.calc(before, after, None)
        grow = -(-self.least // short)
        size = (before.shape[1] * grow, before.shape[0] * grow)
        big = [self._cv2.resize(p, size, interpolation=self._cv2.INTER_LINEAR) for p in (before, after)]
        return self._dis.calc(*big, None)[::grow, ::grow] / grow


class Dis(Config):
    """Settings of OpenCV's DIS flow, which needs none: see ``DisFlow``."""

    name: Literal["dis"] = "dis"

    def build(self) -> Flow:
        """A new flow, which keeps buffers of the sizes it has computed. Raises DependencyError."""
        return DisFlow()

    def check(self) -> None:
        """Do nothing: DIS has no weights that could be missing."""

    def digest(self) -> str:
        """The digest of the weights, which stands in cache keys: "" because DIS has none."""
        return ""

    def on_gpu(self) -> bool:
        """Whether it runs on a GPU: never."""
        return False


class Raft(Config):
    """Settings of RAFT (Teed & Deng 2020) with weights that the user has: see ``perception.raft``."""

    name: Literal["raft"] = "raft"
    weights: str = Field(
        "", description="file of raft_large or raft_small as torchvision publishes them, .pth or .safetensors"
    )
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="cpu, cuda or cuda:1")
    updates: int = Field(12, ge=1, le=64, description="rounds of the recurrence")

    @model_validator(mode="after")
    def _has_weights(self) -> Self:
        if not self.weights:
            raise ValueError(
                "raft needs weights, none are given; name the file of torchvision's raft_large or raft_small"
            )
        return self

    def build(self) -> Flow:
        """The network on its device, loaded once a process. Raises CheckpointError, ConfigError."""
        from cogvideox.perception.raft import raft_flow

        return raft_flow(self.weights, device=self.device, updates=self.updates)

    def check(self) -> None:
        """Load the weights once. Raises CheckpointError where the file holds no RAFT."""
        from cogvideox.perception.raft import load_raft

        load_raft(self.weights)

    def digest(self) -> str:
        """The SHA-256 of the file of weights, as 64 hex digits. Raises CheckpointError."""
        try:
            about = os.stat(self.weights)
            return _digest(self.weights, about.st_size, about.st_mtime_ns)
        except OSError as error:
            raise CheckpointError(
                f"{self.weights}: cannot be read ({error.strerror}); name another file"
            ) from None

    def on_gpu(self) -> bool:
        """Whether it runs on a GPU."""
        return self.device != "cpu"


AnyFlow = Annotated[Dis | Raft, Field(discriminator="name")]


@cache
def _digest(path: str, size: int, changed: int) -> str:
    """SHA-256 of a file, computed once while its size and time stay: it is needed for every video."""
    from cogvideox.files.digest import sha256_of_file

    return sha256_of_file(path)
