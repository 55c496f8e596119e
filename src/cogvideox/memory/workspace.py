"""What torch's CPU convolutions take besides their input and output; a rule read off the library and measured.

The autoencoder's convolutions go to oneDNN (``cogvideox.cpu_ops.conv3d``), the others when batch x channels x rows
exceeds 20,480 (columns do not count) or the kernel is larger than 3x3. oneDNN works on a blocked copy of the input,
of the output and of the weights. Smaller convolutions are unrolled into one matrix of input channels x kernel
size x output positions; a kernel of one pixel needs none.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

SMALL = 20_480


def cpu_workspace(packet: Any, args: Sequence[Any], result: Any) -> int:
    """Bytes that an operator takes while it runs on a CPU: 0 for all but convolutions."""
    if packet is not torch.ops.aten.convolution:
        return 0
    x, weight = args[0], args[1]
    kernel = weight.shape[2:]
    transposed = bool(args[6])
    if (len(kernel) == 3 and not transposed) or _blocked(x, kernel):
        return _bytes(x) + _bytes(result) + 2 * _bytes(weight)
    if prod(kernel) == 1:
        return 0
    return x.shape[1] * prod(kernel) * prod(result.shape[2:]) * x.element_size()


def _blocked(x: Tensor, kernel: Sequence[int]) -> bool:
    if tuple(kernel[-2:]) == (1, 1) and torch.get_num_threads() == 1 and x.shape[0] < 16:
        return False
    return x.shape[0] > 1 or min(kernel[-2:]) > 3 or prod(x.shape[:4]) > SMALL


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
