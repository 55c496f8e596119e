"""Everything about a request that can be refused in a second, before weights are loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideox.errors import CheckpointError, ConfigError, PromptError, suggest
from cogvideox.presets import PRESETS

if TYPE_CHECKING:
    import numpy as np

    from cogvideox.generation.options import GenerateOptions
    from cogvideox.generation.plan import Given, Plan
    from cogvideox.spec import ModelSpec

SHIPPED, SHIPPED_I2V = "tiny", "tiny-i2v"
ABSURD = 20  # times the token budget: not a long prompt but a mistake
DTYPES = {"float32": "float32", "fp32": "float32", "float16": "float16", "fp16": "float16"}
DTYPES |= {"bfloat16": "bfloat16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Ready:
    """A request that passed: the model's folder and spec, the plan, and the image or video it begins with."""

    folder: Path
    spec: ModelSpec
    plan: Plan
    given: Given


def choose(what: str, name: Any, options: dict[str, str]) -> str:
    """The canonical name of a choice; raises ConfigError with a suggestion."""
    known = ", ".join(options)
    if not isinstance(name, str):
        raise ConfigError(f"{what} {name!r}: not a name; choose one of {known}")
    if name not in options:
        raise ConfigError(f"{what} {name!r}: unknown{suggest(name, options)}; choose one of {known}")
    return options[name]


def model_folder(name: str, download: bool = True) -> Path:
    """Where the model lies; a hub id is downloaded where ``download`` allows it. Raises CheckpointError."""
    from cogvideox.checkpoints.hub import find_folder

    if "\0" in name or not name.strip():
        raise CheckpointError(
            f"model {name!r}: not a name; pass a folder, a hub id or one of {', '.join(PRESETS)}"
        )
    folder = find_folder(name, download=download)
    if not folder.is_dir():
        from cogvideox.checkpoints.trainers import not_a_model

        raise not_a_model(folder)
    return folder


def check_request(
    model: str,
    options: GenerateOptions,
    first: Callable[[], np.ndarray] | None = None,
    download: bool = True,
) -> Ready:
    """Plan the run from the model's config files alone and read what it begins with. Raises our errors.

    ``first`` makes the image that an image-to-video model will be given where the options name none.
    download: whether a model of the hub may be downloaded for it; a dry run never does.
    """
    from cogvideox.checkpoints.specs import read_spec
    from cogvideox.generation.plan import plan_run, read_given
    from cogvideox.transformer.kernels import arm_of

    arm_of(options.attention)  # says which kernels there are
    folder = model_folder(model, download)
    spec = read_spec(folder)
    given = read_given(options, first() if first is not None and spec.kind == "i2v" else None, None)
    budget = spec.text_tokens
    for what, text in (("prompt", options.prompt), ("negative prompt", options.negative_prompt)):
        words = len(text.split())
        if words > ABSURD * budget or len(text) > 40 * ABSURD * budget:
            raise PromptError(f"{what}: {words} words, the model reads about {budget} tokens; shorten it")
    if given.shape is None:
        from cogvideox.conditioning import from_text

        from_text(spec)  # an image-to-video model says here that it needs an image
        if not options.prompt.strip():
            raise PromptError("prompt: empty; say what the video should show")
    return Ready(folder, spec, plan_run(spec, options, given), given)


def with_calibration(options: GenerateOptions, folder: Path) -> GenerateOptions:
    """The options with the calibration of reuse that they need: as named, or beside the model. Raises ConfigError."""
    if not options.reuse:
        return options
    from cogvideox.generation.residual_reuse import beside, read_calibration

    path = options.reuse_table or str(beside(folder, options.steps))
    if options.reuse_table is None and not Path(path).is_file():
        raise ConfigError(
            f"reuse {options.reuse:g}: {path} is missing; make it once with cogvideox calibrate, "
            "or name one with --reuse-table"
        )
    steps = len(read_calibration(path).times)
    if steps != options.steps:
        raise ConfigError(
            f"{path}: calibrated for {steps} steps, asked for {options.steps}; calibrate for these"
        )
    return options.model_copy(update={"reuse_table": path})


def check_adapters(
    adapters: Sequence[tuple[str, float]], alpha: float | None, folder: Path | None = None
) -> None:
    """Read adapters, and hold them against the shapes of the model in ``folder``, before weights are read.

    Raises CheckpointError.
    """
    if not adapters:
        return
    import torch

    from cogvideox.checkpoints.adapter import read_adapter
    from cogvideox.checkpoints.adapter_names import Layers, layers_of
    from cogvideox.checkpoints.lora import check_fits
    from cogvideox.checkpoints.specs import read_transformer_config
    from cogvideox.transformer import Transformer

    network = None
    if folder is not None:
        with torch.device("meta"):
            network = Transformer(read_transformer_config(folder / "transformer"))
    layers = Layers(layers_of(network)) if network is not None else None
    for path, _ in adapters:
        adapter = read_adapter(path, alpha, layers)
        if network is not None:
            check_fits(network, adapter, path)


def warn_of_unknown(ready: Ready, options: GenerateOptions, adapters: Sequence[Any]) -> None:
    """Warn of words and pictures that a shipped model has never seen; an adapter may have taught it others."""
    from cogvideox.checkpoints.hub import is_shipped
    from cogvideox.generation.beyond import warn_of_unknown as warn

    if is_shipped(ready.folder) and not adapters:
        warn(ready.folder.resolve().name, options.prompt, ready.given)
