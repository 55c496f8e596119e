"""RAFT: optical flow by iterated lookups in all-pairs correlations (Teed & Deng 2020, arXiv 2003.12039).

For use, not for training. Parameter names are those of torchvision, so that its public weights of ``raft_large`` and
``raft_small`` load as they are; torchvision itself is not needed, and nothing ships: the file is the user's.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.config import Config
from cogvideox.errors import ConfigError, SizeError
from cogvideox.files.digest import sha256_of_file
from cogvideox.perception.weight_files import fill, read_tensors

STRIDE = 8  # pixels a side of one place
LEVELS = 4  # of the correlation pyramid
LEAST = (
    2 * STRIDE * 2 ** (LEVELS - 1)
)  # pixels a side: the last level needs two positions to interpolate between

State = Float[Tensor, "b d h w"]
"""The hidden state of the recurrence, an eighth of the size of the pictures."""


class RAFTConfig(Config):
    """The sizes of a network; defaults: the large one (appendix A)."""

    name: str = "large"
    widths: tuple[int, int, int, int] = (64, 64, 96, 128)  # of the stem and three stages
    bottleneck: bool = False  # blocks of three convolutions, the middle ones narrow
    features: int = 256  # that are compared
    hidden: int = 128  # of the recurrent state
    context: int = 128  # of what the first picture tells every update
    context_norm: bool = True  # batch norm in the context's encoder
    radius: int = 4  # of the square that is looked up
    compared: tuple[int, ...] = (256, 192)  # convolutions over correlations
    moved: tuple[int, int] = (128, 64)  # convolutions over the flow
    motion: int = 128  # of both together
    kernels: tuple[tuple[int, int], ...] = ((1, 5), (5, 1))  # of the recurrent units, one after the other
    head: int = 256
    mask: bool = True  # learned enlargement; without it bilinear


LARGE = RAFTConfig()
SMALL = RAFTConfig(
    name="small", widths=(32, 32, 64, 96), bottleneck=True, features=128, hidden=96, context=64, context_norm=False,
    radius=3, compared=(96,), moved=(64, 32), motion=82, kernels=((3, 3),), head=128, mask=False,
)  # fmt: skip


class RAFT(nn.Module):
    """Two pictures to the flow from the first to the second."""

    def __init__(self, config: RAFTConfig = LARGE) -> None:
        super().__init__()
        self.config = config
        context = config.hidden + config.context
        self.feature_encoder = RaftEncoder(config, config.features, nn.InstanceNorm2d)
        self.context_encoder = RaftEncoder(config, context, nn.BatchNorm2d if config.context_norm else None)
        self.update_block = Update(config)
        self.mask_predictor = MaskHead(config) if config.mask else None

    def forward(
        self, before: Float[Tensor, "b 3 h w"], after: Float[Tensor, "b 3 h w"], updates: int = 12
    ) -> Float[Tensor, "b 2 h w"]:
        """Pixels to the right and down, from pictures in [-1, 1].

        Raises SizeError unless each side is at least 128 and a multiple of 8.
        """
        _check(before, after)
        first, second = self.feature_encoder(torch.cat([before, after])).chunk(2)
        pyramid = correlations(first, second)
        state, context = self.context_encoder(before).split([self.config.hidden, self.config.context], 1)
        state, context = state.tanh(), context.relu()
        start = grid(first)
        coords = start.expand(len(first), -1, -1, -1)  # [b, 2, h / 8, w / 8]
        for _ in range(updates):
            seen = look_up(pyramid, coords, self.config.radius)
            state, step = self.update_block(state, context, seen, coords - start)
            coords = coords + step
        return enlarge(coords - start, self.mask_predictor(state) if self.mask_predictor else None)


class RaftEncoder(nn.Module):
    """Pictures to features, an eighth of the size."""

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module

    def __init__(self, config: RAFTConfig, out: int, norm: type[nn.Module] | None) -> None:
        super().__init__()
        stem, *stages = config.widths
        self.convnormrelu = unit(3, stem, 7, 2, norm)
        for number, (before, after) in enumerate(zip(config.widths, stages, strict=False), 1):
            blocks = (
                RaftResidual(before, after, 1 if number == 1 else 2, norm, config.bottleneck),
                RaftResidual(after, after, 1, norm, config.bottleneck),
            )
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self.conv = nn.Conv2d(stages[-1], out, 1)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c hs ws"]:
        """Images ``[b, 3, h, w]`` to features at an eighth of the size."""
        return self.conv(self.layer3(self.layer2(self.layer1(self.convnormrelu(x)))))


class RaftResidual(nn.Module):
    """``relu(x + f(x))``, where f is two 3x3 convolutions, or a bottleneck of three."""

    def __init__(
        self, before: int, after: int, stride: int, norm: type[nn.Module] | None, bottleneck: bool
    ) -> None:
        super().__init__()
        narrow = after // 4 if bottleneck else after
        if bottleneck:
            units = [unit(before, narrow, 1, 1, norm), unit(narrow, narrow, 3, stride, norm)]
            units.append(unit(narrow, after, 1, 1, norm))
        else:
            units = [unit(before, after, 3, stride, norm), unit(after, after, 3, 1, norm)]
        self.steps = len(units)
        for place, one in enumerate(units, 1):
            self.add_module(f"convnormrelu{place}", one)
        self.downsample = nn.Identity() if stride == 1 else unit(before, after, 1, stride, norm, relu=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d hs ws"]:
        """The residual block, ``relu(x + f(x))``."""
        y = x
        for place in range(1, self.steps + 1):
            y = self.get_submodule(f"convnormrelu{place}")(y)
        return F.relu(self.downsample(x) + y)


class Update(nn.Module):
    """One step of the recurrence: what is seen there, where we are, what we know -> where to go."""

    def __init__(self, config: RAFTConfig) -> None:
        super().__init__()
        self.motion_encoder = MotionEncoder(config)
        self.recurrent_block = Recurrent(config)
        self.flow_head = FlowHead(config)

    def forward(self, state: Tensor, context: Tensor, seen: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """All ``[b, ?, h / 8, w / 8]`` -> the next state and the change of the flow ``[b, 2, h / 8, w / 8]``."""
        state = self.recurrent_block(state, torch.cat([context, self.motion_encoder(flow, seen)], 1))
        return state, self.flow_head(state)


class MotionEncoder(nn.Module):
    """Correlations and flow to features; the flow itself is among them."""

    def __init__(self, config: RAFTConfig) -> None:
        super().__init__()
        looked = LEVELS * (2 * config.radius + 1) ** 2
        self.convcorr1 = unit(looked, config.compared[0], 1)
        self.convcorr2 = unit(*config.compared, 3) if len(config.compared) == 2 else nn.Identity()
        self.convflow1 = unit(2, config.moved[0], 7)
        self.convflow2 = unit(*config.moved, 3)
        self.conv = unit(config.compared[-1] + config.moved[-1], config.motion - 2, 3)

    def forward(self, flow: Float[Tensor, "b 2 h w"], seen: Float[Tensor, "b k h w"]) -> Tensor:
        """Correlations and the present flow to motion features."""
        both = torch.cat([self.convcorr2(self.convcorr1(seen)), self.convflow2(self.convflow1(flow))], 1)
        return torch.cat([self.conv(both), flow], 1)


class Recurrent(nn.Module):
    """Gated units one after the other: the large network looks across, then down."""

    def __init__(self, config: RAFTConfig) -> None:
        super().__init__()
        self.steps = len(config.kernels)
        for place, kernel in enumerate(config.kernels, 1):
            self.add_module(f"convgru{place}", GRU(config.hidden, config.context + config.motion, kernel))

    def forward(self, state: State, x: Float[Tensor, "b c h w"]) -> State:
        """The next hidden state, by the GRU cells one after the other."""
        for place in range(1, self.steps + 1):
            state = self.get_submodule(f"convgru{place}")(state, x)
        return state


class GRU(nn.Module):
    """A gated recurrent unit of convolutions (Eq. 3 to 6)."""

    def __init__(self, hidden: int, given: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.convz = nn.Conv2d(hidden + given, hidden, kernel, padding=padding)
        self.convr = nn.Conv2d(hidden + given, hidden, kernel, padding=padding)
        self.convq = nn.Conv2d(hidden + given, hidden, kernel, padding=padding)

    def forward(self, state: State, x: Float[Tensor, "b c h w"]) -> State:
        """The next hidden state of one convolutional GRU (Eq. 3 to 6)."""
        both = torch.cat([state, x], 1)
        z, r = self.convz(both).sigmoid(), self.convr(both).sigmoid()
        q = self.convq(torch.cat([r * state, x], 1)).tanh()
        return (1 - z) * state + z * q


class FlowHead(nn.Module):
    """The recurrent state to a change of the flow."""

    def __init__(self, config: RAFTConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(config.hidden, config.head, 3, padding=1)
        self.conv2 = nn.Conv2d(config.head, 2, 3, padding=1)

    def forward(self, state: State) -> Float[Tensor, "b 2 h w"]:
        """The hidden state to an update of the flow."""
        return self.conv2(F.relu(self.conv1(state)))


class MaskHead(nn.Module):
    """Convex upsampling (section 3.3): weights of the 9 neighbours for each of the 64 pixels of a position."""

    def __init__(self, config: RAFTConfig) -> None:
        super().__init__()
        self.convrelu = unit(config.hidden, 256, 3)
        self.conv = nn.Conv2d(256, 9 * STRIDE * STRIDE, 1)

    def forward(self, state: State) -> Float[Tensor, "b 576 h w"]:
        """The hidden state to the mask of convex upsampling."""
        return 0.25 * self.conv(self.convrelu(state))  # 0.25: as the public weights were trained


def unit(
    before: int,
    after: int,
    kernel: int,
    stride: int = 1,
    norm: type[nn.Module] | None = None,
    relu: bool = True,
) -> nn.Sequential:
    """Convolution, norm, ReLU; the latter two where wanted."""
    layers: list[nn.Module] = [nn.Conv2d(before, after, kernel, stride, kernel // 2)]
    if norm is not None:
        layers.append(norm(after))
    if relu:
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def grid(like: Float[Tensor, "b c h w"]) -> Float[Tensor, "1 2 h w"]:
    """The pixel coordinates (x, y) of each position."""
    rows, columns = (torch.arange(size, dtype=like.dtype, device=like.device) for size in like.shape[2:])
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"))[None]


def correlations(first: Float[Tensor, "b c h w"], second: Float[Tensor, "b c h w"]) -> list[Tensor]:
    """All-pairs correlations (Eq. 1) and their pyramid, level l: ``[b * h * w, 1, h / 2**l, w / 2**l]``."""
    batch, channels, height, width = first.shape
    volume = first.flatten(2).transpose(1, 2) @ second.flatten(2) / math.sqrt(channels)  # [b, h * w, h * w]
    pyramid = [volume.view(batch * height * width, 1, height, width)]
    for _ in range(LEVELS - 1):
        pyramid.append(F.avg_pool2d(pyramid[-1], 2))
    return pyramid


def look_up(pyramid: list[Tensor], coords: Float[Tensor, "b 2 h w"], radius: int) -> Float[Tensor, "b k h w"]:
    """The correlations in a square of ``2 * radius + 1`` about each coordinate, on each level; zero outside."""
    batch, _, height, width = coords.shape
    reach = torch.arange(-radius, radius + 1, dtype=coords.dtype, device=coords.device)
    square = torch.stack(torch.meshgrid(reach, reach, indexing="ij"), 2)  # columns first: the weights' order
    centres = coords.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
    seen = []
    for level, volume in enumerate(pyramid):
        size = torch.tensor([volume.shape[3] - 1, volume.shape[2] - 1], device=coords.device)
        at = 2 * (centres / 2**level + square) / size - 1  # [b * h * w, 2 r + 1, 2 r + 1, 2] in [-1, 1]
        seen.append(F.grid_sample(volume, at, align_corners=True).view(batch, height, width, -1))
    return torch.cat(seen, 3).permute(0, 3, 1, 2).contiguous()


def enlarge(
    flow: Float[Tensor, "b 2 h w"], mask: Float[Tensor, "b 576 h w"] | None
) -> Float[Tensor, "b 2 hp wp"]:
    """The flow of pixels from that of the 8 times coarser grid: convex combination of 9 neighbours, or bilinear."""
    batch, _, height, width = flow.shape
    if mask is None:
        return STRIDE * F.interpolate(flow, scale_factor=STRIDE, mode="bilinear", align_corners=True)
    weights = mask.view(batch, 1, 9, STRIDE, STRIDE, height, width).softmax(2)
    around = F.unfold(STRIDE * flow, 3, padding=1).view(batch, 2, 9, 1, 1, height, width)
    fine = (weights * around).sum(2)  # [b, 2, 8, 8, h, w]
    return fine.permute(0, 1, 4, 2, 5, 3).reshape(batch, 2, STRIDE * height, STRIDE * width)


def load_raft(file: str | Path) -> RAFT:
    """The network of torchvision's ``raft_large`` or ``raft_small`` weights, large or small as the file says.

    ``.safetensors``, or ``.pth`` read without unpickling code. Raises CheckpointError.
    """
    weights = read_tensors(file)
    large = any(name.startswith("mask_predictor.") for name in weights)
    with torch.device("meta"):
        network = RAFT(LARGE if large else SMALL)
    fill(network, weights, str(file), f"RAFT ({network.config.name})")
    return network.requires_grad_(False).eval()


@cache
def raft_flow(weights: str, *, device: str, updates: int) -> RAFTFlow:
    """The flow of a file of weights, loaded once a process. Raises CheckpointError; ConfigError without the device."""
    if device != "cpu" and not torch.cuda.is_available():
        raise ConfigError(f"flow device {device}: this machine shows no GPU; set device: cpu")
    network = load_raft(weights)
    return RAFTFlow(network.to(device), f"raft-{network.config.name}:{sha256_of_file(weights)[:12]}", updates)


class RAFTFlow:
    """RAFT as a Flow. Sides below 128 pixels are enlarged for it, others continued to a multiple of 8."""

    colour = True

    def __init__(self, network: RAFT, name: str, updates: int = 12) -> None:
        self.network, self.name, self.updates = network, name, updates

    def __call__(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """See Flow; in colour, or grey."""
        device = next(self.network.parameters()).device
        pair = [torch.from_numpy(np.ascontiguousarray(_in_colour(p))).to(device) for p in (before, after)]
        x = torch.stack(pair).permute(0, 3, 1, 2).float() / 127.5 - 1  # [2, 3, h, w]
        height, width = x.shape[2:]
        grow = -(-LEAST // min(height, width)) if min(height, width) < LEAST else 1
        if grow > 1:
            x = F.interpolate(x, scale_factor=grow, mode="bilinear", align_corners=False)
        down, across = (-(grow * side) % STRIDE for side in (height, width))
        left, top = across // 2, down // 2
        x = F.pad(x, (left, across - left, top, down - top), mode="replicate")
        # on a GPU: float32 as on a CPU, not the 10 bits of TF32, and the same numbers each time
        exact = torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        )
        with torch.inference_mode(), exact:
            field = self.network(x[:1], x[1:], self.updates)
        field = field[:, :, top : top + grow * height, left : left + grow * width]
        field = F.avg_pool2d(field, grow)[0] / grow
        return np.ascontiguousarray(field.permute(1, 2, 0).cpu().numpy())


def _in_colour(picture: np.ndarray) -> np.ndarray:
    return picture if picture.ndim == 3 else np.repeat(picture[:, :, None], 3, 2)


def _check(before: Tensor, after: Tensor) -> None:
    sides = before.shape[2:]
    if before.shape != after.shape or min(sides) < LEAST or any(side % STRIDE for side in sides):
        raise SizeError(
            f"pictures {tuple(before.shape)} and {tuple(after.shape)}: give two of one size, "
            f"each side at least {LEAST} and a multiple of {STRIDE}"
        )
