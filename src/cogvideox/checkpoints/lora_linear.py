"""A linear layer with LoRA adapters on it; it stands where the layer stood, which keeps its weights' names.

    y = W x + b + Σ strength · alpha / rank · (B A x + bias of B)

and with DoRA, where row o of the changed weight W' has the norm g[o]: the output of all that came before is first made
g / ‖W'‖ times as large (its bias apart), and so is the adapter's, as PEFT computes it. A strength may change over the
steps of a sampler; at steps that have none the layer is as without the adapter.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import takewhile
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from cogvideox.checkpoints.adapter import Pair
from cogvideox.cpu_ops import via_float32
from cogvideox.errors import CheckpointError
from cogvideox.files.stored import stored_of
from cogvideox.strength import Strength
from cogvideox.transformer.calls import sampler_call
from cogvideox.transformer.transformer import FlatPatch


class LoraLinear(nn.Linear):
    """A linear layer and the adapters on it, in the order they were added.

    Whatever asks for linear layers (storing weights in fewer bits) finds this one; a patch convolution, whose inputs
    are flat patches, is one matrix product too.
    """

    def __init__(self, layer: nn.Linear | FlatPatch) -> None:
        nn.Module.__init__(self)  # no weights of its own
        self.out_features = layer.weight.shape[0]
        self.in_features = layer.weight.shape[1:].numel()
        self.register_parameter("weight", cast(nn.Parameter, layer.weight))
        self.register_parameter("bias", cast(nn.Parameter | None, layer.bias))
        self.lora_A = nn.ParameterDict()
        self.lora_B = nn.ParameterDict()
        self.lora_bias = nn.ParameterDict()
        self.lora_magnitude = nn.ParameterDict()
        self.lora_ratio = (
            nn.ParameterDict()
        )  # magnitude by the norm of W', per output, for each value of a strength
        self.alphas: dict[str, float] = {}
        self.strengths: dict[str, Strength] = {}
        layer.register_parameter("weight", None)
        layer.register_parameter("bias", None)
        self._layer = (layer,)  # in a tuple, so that it is no module of this one
        self.train(layer.training)

    def forward(self, x: Float[Tensor, "... i"]) -> Float[Tensor, "... o"]:
        weight = self.weight if self.weight.ndim == 2 else self.weight.flatten(1)
        y = via_float32(F.linear, x, weight, self.bias)
        for name, a in self.lora_A.items():
            strength = self.strengths[name]
            span = 0 if strength.constant is not None else strength.span_at(*_step())
            if span is None:
                continue
            bias, factor = self.lora_bias.get(name), self.factor(name, strength.spans[span].value)
            update = F.linear(F.linear(x.to(a.dtype), a), self.lora_B[name], bias) * factor
            if name in self.lora_magnitude:
                ratio, fixed = self.lora_ratio[_ratio(name, span)], 0 if self.bias is None else self.bias
                y = ((y - fixed) * ratio + fixed + update * ratio).to(y.dtype)
            else:
                y = (y + update).to(y.dtype)
        return y

    def factor(self, name: str, strength: float) -> float:
        """What B A x is multiplied by where the adapter has this strength."""
        return strength * self.alphas[name] / self.lora_A[name].shape[0]

    def add(self, name: str, pair: Pair, strength: Strength) -> None:
        """Put an adapter on; its matrices keep their precision and move to the layer's device."""
        tables = (self.lora_A, self.lora_B, self.lora_bias, self.lora_magnitude)
        for table, tensor in zip(tables, (pair.a, pair.b, pair.bias, pair.magnitude), strict=True):
            if tensor is not None:
                where = (
                    "cpu" if self.weight.is_meta else self.weight.device
                )  # meta: the weight stays in its file
                table[name] = nn.Parameter(tensor.to(where, copy=True))
        self.alphas[name] = pair.alpha
        self.rescale(name, strength)

    @torch.no_grad()
    def rescale(self, name: str, strength: Strength) -> None:
        """Change the strength of one adapter."""
        self._drop_ratios(name)
        self.strengths[name] = strength
        if name in self.lora_magnitude:
            weight = self._wide()
            for index, span in enumerate(strength):
                norm = (weight + self._delta(name, span.value)).norm(dim=1)
                ratio = self.lora_magnitude[name].float() / norm
                self.lora_ratio[_ratio(name, index)] = nn.Parameter(ratio, requires_grad=False)

    def remove(self, name: str) -> None:
        """Take one adapter off."""
        self._drop_ratios(name)
        for table in (self.lora_A, self.lora_B, self.lora_bias, self.lora_magnitude):
            if name in table:
                del table[name]
        del self.alphas[name], self.strengths[name]

    def pair(self, name: str) -> Pair:
        """The matrices of one adapter."""
        bias, magnitude = (
            table[name].detach() if name in table else None for table in (self.lora_bias, self.lora_magnitude)
        )
        a, b = self.lora_A[name].detach(), self.lora_B[name].detach()
        return Pair(a, b, self.alphas[name], bias, magnitude, tuple(self.weight.shape[2:]))

    def check_mergeable(self, name: str, merged: Collection[str] = ()) -> None:
        """Raises CheckpointError where the weight cannot take the adapter in after those of ``merged``."""
        if self.weight.is_meta:
            raise CheckpointError(
                f"LoRA {name!r}: the weights are in their files; merge it into a model that is in memory"
            )
        if is_traceable_wrapper_subclass(self.weight):
            raise CheckpointError(
                f"LoRA {name!r}: weights in one byte take no adapter in; merge before storing them so"
            )
        if name in self.lora_bias and self.bias is None:
            raise CheckpointError(
                f"LoRA {name!r}: has a bias, the layer has none; leave the adapter beside it"
            )
        if self.strengths[name].constant is None:
            raise CheckpointError(
                f"LoRA {name!r}: its strength {self.strengths[name]} changes over the steps, a weight does not; give "
                "it one number"
            )
        earlier = [each for each in takewhile(name.__ne__, self.strengths) if each not in merged]
        if earlier and any(each in self.lora_magnitude for each in (*earlier, name)):
            raise CheckpointError(
                f"LoRA {name!r}: DoRA scales what the adapters before it added, so they are merged in the order in "
                f"which they were put on; merge {earlier[0]!r} first, or all"
            )

    @torch.no_grad()
    def merge(self, name: str) -> None:
        """Add one adapter into the weight, computed in float32, and take it off."""
        strength = self.strengths[name].spans[0].value
        changed = self._wide() + self._delta(name, strength)
        if name in self.lora_magnitude:
            changed *= self.lora_ratio[_ratio(name, 0)][:, None]
        self.weight.copy_(changed.reshape(self.weight.shape).to(self.weight.dtype))
        if name in self.lora_bias:
            bias = self.bias.float() + self.lora_bias[name].float() * self.factor(name, strength)
            self.bias.copy_(bias.to(self.bias.dtype))
        self.remove(name)

    def plain(self) -> nn.Module:
        """The layer without adapters; it has its weights back."""
        (layer,) = self._layer
        layer.register_parameter("weight", cast(nn.Parameter, self.weight))
        layer.register_parameter("bias", self.bias)
        return layer.train(self.training)

    def _wide(self) -> Float[Tensor, "o i"]:
        stored = stored_of(self.weight)
        weight = self.weight.detach() if stored is None else stored.read()
        dense = weight.dequantize() if is_traceable_wrapper_subclass(weight) else weight
        return dense.flatten(1).float()

    def _delta(self, name: str, strength: float) -> Float[Tensor, "o i"]:
        return self.lora_B[name].float() @ self.lora_A[name].float() * self.factor(name, strength)

    def _drop_ratios(self, name: str) -> None:
        for index in range(len(self.strengths[name].spans) if name in self.strengths else 0):
            if _ratio(name, index) in self.lora_ratio:
                del self.lora_ratio[_ratio(name, index)]


def _ratio(name: str, span: int) -> str:
    """The entry of ``lora_ratio`` for one value of an adapter's strength."""
    return f"{name}/{span}" if span else name


def _step() -> tuple[int, int]:
    """The step that a sampler is at, and of how many."""
    call = sampler_call()
    return call.step, call.count
