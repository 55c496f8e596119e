"""Optimisers (torch's), the learning-rate curve with its warmup, the exponential moving average (EMA) of weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cogvideox.config import Config
from cogvideox.cpu_ops import half_is_native
from cogvideox.errors import ConfigError
from cogvideox.parallel.shard import local_shard, to_local

INPUT_PROJECTION = "patch_embed.proj."
"""The layer of a transformer that reads latents and conditions."""


class OptimConfig(Config):
    """Settings of the optimiser, of its learning rate and of the moving average of the weights."""

    name: Literal["adamw", "muon"] = Field("adamw", description="muon for matrices in blocks, else adamw")
    lr: float = Field(1e-3, gt=0, description="peak learning rate of adamw")
    input_lr: float | None = Field(
        None, gt=0, description="peak of the input projection, patch_embed; null: lr"
    )
    muon_lr: float = Field(0.02, gt=0, description="peak learning rate of the matrices under muon")
    betas: tuple[float, float] = Field((0.9, 0.95), description="Table 6")
    eps: float = Field(1e-8, gt=0, description="Table 6")
    weight_decay: float = Field(1e-4, ge=0, description="Table 6")
    warmup: int = Field(100, ge=0, description="warmup: steps in which the rate rises from 0")
    schedule: Literal["cosine", "wsd"] = Field(
        "cosine",
        description="of the rate: cosine (Table 6), or wsd: warmup, stable at the peak, linear decay",
    )
    decay: float = Field(
        0.25, gt=0, le=1, description="wsd: share of the steps, the last ones, in which it falls"
    )
    floor: float = Field(0.02, ge=0, le=1, description="last learning rate, as a fraction of the peak")
    clip: float = Field(1.0, gt=0, description="gradient clipping: largest gradient norm (Table 6)")
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the averaged weights; 0 turns averaging off")

    @model_validator(mode="after")
    def _decay_has_an_effect(self) -> Self:
        if self.schedule == "cosine" and self.decay != type(self).model_fields["decay"].default:
            raise ConfigError(
                f"decay {self.decay}: a cosine has none; set schedule to wsd, or leave decay out"
            )
        return self


class Muon(torch.optim.Muon):
    """torch's Muon, which makes updates orthogonal in bfloat16; in float32 on a CPU without units for bfloat16.

    There the products of bfloat16 take seven times as long, more than a step's forward and backward.
    """

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; see torch."""
        weight = self.param_groups[0]["params"][0]
        slow = weight.device.type == "cpu" and not half_is_native(torch.bfloat16)
        with _Bfloat16AsFloat32() if slow else nullcontext():
            return super().step(closure)


class _Bfloat16AsFloat32(TorchFunctionMode):
    """Inside, ``Tensor.bfloat16`` gives a copy in float32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.bfloat16:
            return args[0].to(torch.float32, copy=True)
        return func(*args, **(kwargs or {}))


def build_optimizers(module: nn.Module, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """AdamW for all weights that get gradients; with ``name: muon``, Muon for the matrices inside blocks.

    ``input_lr`` is for channels that begin at zero (a condition that is new to the model): beside old weights of
    0.5 they would need hundreds of steps at the rate that the rest can bear. Raises ConfigError when it is set and
    the module has no such layer to train.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if config.name == "muon" and p.ndim == 2 and "block" in name]
    taken = {id(p) for p in matrices}
    inputs = [p for name, p in named if config.input_lr is not None and name.startswith(INPUT_PROJECTION)]
    if config.input_lr is not None and not inputs:
        raise ConfigError(
            "optim.input_lr: this run trains no input projection (patch_embed); leave the setting out"
        )
    taken |= {id(p) for p in inputs}
    rest = [p for _, p in named if id(p) not in taken]
    decayed = [p for p in rest if p.ndim > 1]
    plain = [p for p in rest if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    groups.append({"params": inputs, "weight_decay": 0.0, "lr": config.input_lr})
    optimizers: list[torch.optim.Optimizer] = []
    if rest or inputs:  # of an adapter muon takes all
        optimizers.append(
            torch.optim.AdamW(
                [group for group in groups if group["params"]],
                lr=config.lr,
                betas=config.betas,
                eps=config.eps,
                weight_decay=config.weight_decay,
                fused=True,  # one pass over the weights
            )
        )
    if matrices:
        optimizers.append(Muon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def learning_rate_factor(step: int, steps: int, config: OptimConfig) -> float:
    """Linear warmup, then down to ``floor`` at the last step: by a cosine (Table 6), or ``wsd``.

    Warmup, stable, decay (arXiv 2405.18392): at the peak until the last share ``decay`` of the steps, then linear. A
    longer run can go on from before the decay, where a cosine would have to rise again.
    """
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "wsd":
        left = (steps - step) / max(1.0, config.decay * steps)
        return config.floor + (1 - config.floor) * min(1.0, left)
    done = min(1.0, (step - config.warmup) / max(1, steps - config.warmup))
    return config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * done))


def set_learning_rate(
    optimizers: list[torch.optim.Optimizer], step: int, steps: int, config: OptimConfig
) -> None:
    """Give every group its learning rate of ``step``: its peak times ``learning_rate_factor``."""
    factor = learning_rate_factor(step, steps, config)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor


class EMA:
    """Exponential moving average of the weights that are trained; its decay warms up as min(decay, (1 + n) / (10 + n)).

    Frozen weights are not copied: an adapter's average is as small as the adapter. Of sharded weights each process
    averages its own shard.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay, self.count = module, decay, 0
        self.values = {name: p.detach().clone() for name, p in _trained(module)}

    @torch.no_grad()
    def update(self) -> None:
        """Average the weights as they are now into the EMA; the first call copies them."""
        now = [to_local(p.detach()) for _, p in _trained(self.module)]
        values = [to_local(value) for value in self.values.values()]
        n = float(self.count)
        if self.count:
            torch._foreach_lerp_(values, now, 1 - min(self.decay, (1 + n) / (10 + n)))
        else:
            torch._foreach_copy_(values, now)
        self.count += 1

    @contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """The module with the averaged weights; they are swapped back on exit."""
        training = {child: child.training for child in self.module.modules()}
        self._swap()
        try:
            yield self.module
        finally:
            self._swap()
            for child, was in training.items():
                child.training = was

    @torch.no_grad()
    def _swap(self) -> None:
        """In place: FSDP2 gathers weights from the memory it knows."""
        for name, p in _trained(self.module):
            weight, average = to_local(p.detach()), to_local(self.values[name])
            held = weight.clone()
            weight.copy_(average)
            average.copy_(held)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: the count of updates and the averaged weights."""
        return {"count": self.count, "values": dict(self.values)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where ``state_dict`` was taken; whole and sharded states fit both."""
        self.count = int(state["count"])
        for name, value in self.values.items():
            to_local(value).copy_(local_shard(state["values"][name], value))


def _trained(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]
