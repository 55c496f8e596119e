"""How the transformer runs during one sampling: modulation tables, attention kernel, reuse; undone afterwards."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cogvideox.checkpoints.lora import changing_layers, of_modulation
from cogvideox.diffusion import SamplerStep
from cogvideox.errors import ConfigError
from cogvideox.generation.options import GenerateOptions, read_cache
from cogvideox.generation.residual_reuse import read_calibration, tea_polynomial
from cogvideox.generation.sampling import guidance_of, stg_layers
from cogvideox.model import CogVideoX
from cogvideox.transformer.calls import skipping
from cogvideox.transformer.compiled import compiled, graph_replay
from cogvideox.transformer.controlnet import Control, controlled
from cogvideox.transformer.fused import COMPILED_FORMS, FORMS, faster_forms, fused
from cogvideox.transformer.kernels import using_kernel
from cogvideox.transformer.layout import ClipTokens
from cogvideox.transformer.modulation import tabulated
from cogvideox.transformer.position import riflex
from cogvideox.transformer.reuse import first_block_cached, reusing, tea_factors
from cogvideox.transformer.transformer import Transformer


@dataclass
class Engine:
    """How the transformer runs.

    ``tables``: modulations are computed once for all steps. ``reused_steps``: the steps (from 0) that reused a
    residual, and ``kernels``: the attention kernels that were used, both known when the run is over. ``fused``: the
    fused forms of blocks (``transformer.fused``), measured before the run. ``tea``: whose polynomial TeaCache uses.
    """

    options: GenerateOptions
    tables: bool
    reused_steps: list[int]
    kernels: tuple[str, ...] = ()
    fused: tuple[str, ...] = ()
    tea: str = ""

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
        if options.cache:
            facts["cache"] = {"asked": options.cache, "skipped_steps": self.reused_steps}
            if self.tea:
                facts["cache"]["polynomial"] = self.tea
        if options.reuse > 0:
            facts["reuse"] = {"threshold": options.reuse, "reused_steps": self.reused_steps}
        return facts


@contextmanager
def running(
    model: CogVideoX,
    options: GenerateOptions,
    path: Sequence[SamplerStep],
    clip: ClipTokens,
    controls: Sequence[Control] = (),
) -> Iterator[Engine]:
    """The transformer of ``model`` as the options want it, for the times of ``path`` and one ``clip`` only.

    ``controls``: the ControlNets beside it. Raises ConfigError for an attention kernel that does not exist, for a
    calibration of other steps, for compiled blocks whose adapters change over the steps, and for what a transformer
    that is spread over processes cannot do.
    """
    network = model.transformer
    _check_spread(network, options)
    changing = changing_layers(network)
    check_compiled(options, bool(changing))
    cache = _cache_of(network, options, path)
    with ExitStack() as stack:
        attention = stack.enter_context(using_kernel(network, options.attention))
        for control in controls:
            stack.enter_context(using_kernel(control.network, options.attention))
        tables = options.modulation == "tables" and not is_sharded(network) and not of_modulation(changing)
        if tables:
            stack.enter_context(tabulated(network, [step.t for step in path], _host_of_modulation(model)))
        guider = guidance_of(options)
        in_turn = options.guidance_pair == "sequence" and len(guider.branches) > 1
        if options.compile and model.compute_device is not None:
            warnings.warn("compile has no effect while weights visit the device", stacklevel=4)
        elif options.compile:
            stack.enter_context(compiled(network, 1 if in_turn else len(guider.branches), clip))
            stack.enter_context(graph_replay(network))
        if options.riflex and network.rotary is not None:
            stack.enter_context(riflex(network.rotary))
        forms = fused_forms(model, options)
        stack.enter_context(fused(network, forms))
        if guider.stg:
            stack.enter_context(skipping(network, stg_layers(model.spec, options)))
        stack.enter_context(controlled(network, controls, len(path)))
        reused = stack.enter_context(cache)
        tea = tea_polynomial(network.config)[0] if read_cache(options.cache)[0] == "tea" else ""
        engine = Engine(options, tables, reused, fused=tuple(sorted(forms)), tea=tea)
        yield engine
        engine.kernels = tuple(sorted(attention.used))


def check_compiled(options: GenerateOptions, changing: bool) -> None:
    """Refuse to compile blocks whose adapters change in strength over the steps. Raises ConfigError."""
    if options.compile and changing:
        raise ConfigError(
            "compile: an adapter's strength changes over the steps, compiled blocks do not; give it one strength, or "
            "leave compile out"
        )


def _check_spread(network: Transformer, options: GenerateOptions) -> None:
    """Refuse what several processes cannot do together. Raises ConfigError."""
    if options.compile and is_spread(network):
        raise ConfigError(
            "compile: the transformer is spread over processes, which talk between its layers; "
            "turn compile off, or make the video by one process"
        )
    if options.control_net and is_spread(network):
        raise ConfigError(
            "control_net: the transformer is spread over processes, a ControlNet is not; make the video by one process"
        )
    if options.cache and is_spread(network):
        raise ConfigError(
            f"cache {options.cache!r}: the transformer is spread over processes, each of which would choose its own "
            "steps; use reuse with a calibration, or make the video by one process"
        )


def _cache_of(
    network: Transformer, options: GenerateOptions, path: Sequence[SamplerStep]
) -> AbstractContextManager[list[int]]:
    """What leaves out blocks at some steps; it gives the list of these steps, which grows as they are made."""
    kind, threshold = read_cache(options.cache)
    if kind == "first-block" and threshold > 0:
        return first_block_cached(network, threshold)
    factors = chosen_steps(options, path)
    if kind == "tea" and threshold > 0:
        name, polynomial = tea_polynomial(network.config)
        if name == "none":
            warnings.warn(
                "cache tea: no polynomial is published for this model; the plain distance of time embeddings is used, "
                "whose thresholds are others",
                stacklevel=5,
            )
        factors = tea_factors(network, [step.t for step in path], threshold, polynomial)
    return reusing(network, factors) if factors else nullcontext([])


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
