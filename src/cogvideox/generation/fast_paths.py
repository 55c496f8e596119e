"""How the transformer runs during one sampling: modulation tables, attention kernel, reuse; undone afterwards."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cogvideox.diffusion import SamplerStep, is_guided
from cogvideox.errors import ConfigError
from cogvideox.generation.options import GenerateOptions
from cogvideox.generation.residual_reuse import read_calibration
from cogvideox.generation.sampling import guidance_of
from cogvideox.model import CogVideoX
from cogvideox.transformer.compiled import compiled, graph_replay
from cogvideox.transformer.fused import COMPILED_FORMS, FORMS, faster_forms, fused
from cogvideox.transformer.kernels import using_kernel
from cogvideox.transformer.layout import ClipTokens
from cogvideox.transformer.modulation import tabulated
from cogvideox.transformer.reuse import reusing


@dataclass
class Engine:
    """How the transformer runs.

    ``tables``: modulations are computed once for all steps. ``factors``: one for each step, see ``Calibration.choose``;
    [] when every step is computed. ``kernels``: the attention kernels that were used, known when the run is over.
    ``fused``: the fused forms of blocks (``transformer.fused``), measured before the run.
    """

    options: GenerateOptions
    tables: bool
    factors: list[float | None]
    kernels: tuple[str, ...] = ()
    fused: tuple[str, ...] = ()

    @property
    def reused_steps(self) -> list[int]:
        """The steps (from 0) that reused a residual."""
        return [i for i, factor in enumerate(self.factors) if factor is not None]

    def to_dict(self) -> dict[str, Any]:
        """These facts as JSON-ready values for the manifest."""
        options = self.options
        facts: dict[str, Any] = {
            "modulation": "tables" if self.tables else "layers",
            "compile": options.compile,
            "attention": {"asked": options.attention, "used": list(self.kernels)},
        }
        if self.fused:
            facts["fused"] = list(self.fused)
        if options.reuse > 0:
            facts["reuse"] = {"threshold": options.reuse, "reused_steps": self.reused_steps}
        return facts


@contextmanager
def running(
    model: CogVideoX, options: GenerateOptions, path: Sequence[SamplerStep], clip: ClipTokens
) -> Iterator[Engine]:
    """The transformer of ``model`` as the options want it, for the times of ``path`` and one ``clip`` only.

    Raises ConfigError for an attention kernel that does not exist, for a calibration of other steps, and for a
    compiled transformer that is spread over processes.
    """
    network, factors = model.transformer, chosen_steps(options, path)
    if options.compile and is_spread(network):
        raise ConfigError(
            "compile: the transformer is spread over processes, which talk between its layers; "
            "turn compile off, or make the video by one process"
        )
    with ExitStack() as stack:
        attention = stack.enter_context(using_kernel(network, options.attention))
        tables = options.modulation == "tables" and not is_sharded(network)
        if tables:
            stack.enter_context(tabulated(network, [step.t for step in path], _host_of_modulation(model)))
        guided = is_guided(guidance_of(options))
        in_turn = options.guidance_pair == "sequence" and guided
        if options.compile and model.compute_device is not None:
            warnings.warn("compile has no effect while weights visit the device", stacklevel=4)
        elif options.compile:
            stack.enter_context(compiled(network, 2 if guided and not in_turn else 1, clip))
            stack.enter_context(graph_replay(network))
        forms = fused_forms(model, options)
        stack.enter_context(fused(network, forms))
        if factors:
            stack.enter_context(reusing(network, factors, branches=2 if in_turn else 1))
        engine = Engine(options, tables, factors, fused=tuple(sorted(forms)))
        yield engine
        engine.kernels = tuple(sorted(attention.used))


def chosen_steps(options: GenerateOptions, path: Sequence[SamplerStep]) -> list[float | None]:
    """For each step the factor of the residual it reuses, or None; [] when nothing is reused. Raises ConfigError."""
    if options.reuse == 0:
        return []
    if options.reuse_table is None:
        raise ConfigError(
            f"reuse {options.reuse:g}: needs the calibration of this model as reuse_table; "
            "make one with cogvideox calibrate"
        )
    return read_calibration(options.reuse_table).choose([step.t for step in path], options.reuse)


def fused_forms(model: CogVideoX, options: GenerateOptions) -> frozenset[str]:
    """The fused forms of blocks that are timed and found faster; none where an attention kernel is named, and beside a
    compiler only what it cannot do itself."""
    if not options.attention.startswith("fastest") or is_spread(model.transformer):
        return frozenset()
    is_compiled = options.compile and model.compute_device is None
    among = COMPILED_FORMS if is_compiled else FORMS
    return faster_forms(model.transformer.config, model.device, model.dtype, among)


def is_sharded(network: nn.Module) -> bool:
    """Whether weights are sharded over processes: they are gathered only while the whole network is called."""
    return any(hasattr(weight, "placements") for weight in network.parameters())


def is_spread(network: nn.Module) -> bool:
    """Whether several processes share the network: its weights, or every sequence."""
    # imported here: one process never needs torch's distributed
    from cogvideox.parallel.sequence import SequenceParallelAttention

    attn_fns = (getattr(module, "attn_fn", None) for module in network.modules())
    return is_sharded(network) or any(isinstance(attn_fn, SequenceParallelAttention) for attn_fn in attn_fns)


def _host_of_modulation(model: CogVideoX) -> str | None:
    """Where modulation layers wait while their tables are used: in host memory where the device is short of its own.

    None where they are there anyway, and where half of the device is free: moving them there and back costs a second.
    """
    if model.compute_device is not None or model.device.type == "cpu":
        return None
    if model.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(model.device)
        return None if free > total / 2 else "cpu"
    return "cpu"
