"""Before the first step: what a request needs in time and memory, and whether it can be made.

Everything here reads config files, prompts, adapters' shapes and calibrations; no weight is loaded and no network runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch

from cogvideox import memory
from cogvideox.checkpoints.adapter_names import Layers, layers_of
from cogvideox.checkpoints.adapter_reading import adapted_layers, adapter_bytes, read_adapter
from cogvideox.checkpoints.components import Components
from cogvideox.checkpoints.hub import find_folder
from cogvideox.checkpoints.lora import check_fits, of_modulation
from cogvideox.checkpoints.specs import find_spec, with_components
from cogvideox.checkpoints.tensors import to_bytes
from cogvideox.checkpoints.trainers import not_a_model
from cogvideox.conditioning import from_text
from cogvideox.device import available, best_device, check_device, peak_of
from cogvideox.errors import CheckpointError, ConfigError, InputError, PromptError, suggest
from cogvideox.generation.fast_paths import check_compiled
from cogvideox.generation.given import Given
from cogvideox.generation.options import GenerateOptions, read_cache
from cogvideox.generation.plan import Plan, plan_run
from cogvideox.generation.prompt_times import texts_of
from cogvideox.generation.residual_reuse import calibration_path, read_calibration
from cogvideox.generation.sampling import guidance_of
from cogvideox.memory import MemoryPlan, Request
from cogvideox.memory.lowbit import check_low_bits, read_low_bits
from cogvideox.memory.plan import MemoryPrediction
from cogvideox.memory.request import AdapterBytes, TextPlace
from cogvideox.memory.seconds import Rates, efforts, estimate, measured
from cogvideox.model import CogVideoX
from cogvideox.presets import PRESETS
from cogvideox.spec import Kind, ModelSpec
from cogvideox.strength import Strength
from cogvideox.text import check_prompt
from cogvideox.transformer import Transformer
from cogvideox.world import read_caption
from cogvideox.world.vocabulary import resembles_world, unknown_words, vocabulary_text

LONG = 600.0
"""Seconds above which a Python program is warned how long a run will take; the command line always says it."""
LONGEST = 86_400.0
"""Seconds above which a run is refused unless ``anyway`` is set."""
SMALL = 3e11
"""FLOPs that need no estimate: minutes on the slowest machine; a GPU does a thousand times as many."""
ABSURD = 20
"""Times the token budget: not a long prompt but a mistake."""
MOST_SHOWN = 6
DTYPES = {"float32": "float32", "fp32": "float32", "float16": "float16", "fp16": "float16"}
DTYPES |= {"bfloat16": "bfloat16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Forecast:
    """Estimated seconds of each stage, and what the estimate is based on."""

    stages: dict[str, float]
    basis: str

    @property
    def seconds(self) -> float:
        """Estimated seconds of the whole run; loading and writing are not counted."""
        return sum(self.stages.values())


def choose(what: str, name: Any, known: dict[str, str]) -> str:
    """The canonical name of a choice. Raises ConfigError with a suggestion."""
    names = ", ".join(known)
    if not isinstance(name, str):
        raise ConfigError(f"{what} {name!r}: not a name; choose one of {names}")
    if name not in known:
        raise ConfigError(f"{what} {name!r}: unknown{suggest(name, known)}; choose one of {names}")
    return known[name]


def model_folder(name: str, download: bool = True) -> Path:
    """The folder of a model; a hub id is downloaded where ``download`` allows it. Raises CheckpointError."""
    if "\0" in name or not name.strip():
        raise CheckpointError(
            f"model {name!r}: not a name; pass a folder, a hub id or one of {', '.join(PRESETS)}"
        )
    folder = find_folder(name, download=download)
    if not folder.is_dir():
        raise not_a_model(folder)
    return folder


def check_request(spec: ModelSpec, options: GenerateOptions, given: Given) -> None:
    """Refuse prompts that are no text, absurdly long or missing, and a missing image. Raises InputError."""
    check_prompt(options.prompt)
    check_prompt(options.negative_prompt, "negative prompt")
    texts = [("prompt", text) for text in texts_of(options.prompt)]
    for what, text in (*texts, ("negative prompt", options.negative_prompt)):
        count, budget = len(text.split()), spec.text_tokens
        if count > ABSURD * budget or len(text) > 40 * ABSURD * budget:
            raise PromptError(f"{what}: {count} words, the model reads about {budget} tokens; shorten it")
    if not given.for_model:
        from_text(spec)  # a model that needs an image or a video is refused here when there is none
        if not options.prompt.strip():
            raise PromptError("prompt: empty; say what the video should show")


def with_calibration(options: GenerateOptions, folder: Path) -> GenerateOptions:
    """The options with the path of the calibration that ``reuse`` needs: as named, or beside the model.

    Raises ConfigError when it is missing or was made for another number of steps.
    """
    if not options.reuse:
        return options
    path = options.reuse_table or str(calibration_path(folder, options.steps))
    if options.reuse_table is None and not Path(path).is_file():
        raise ConfigError(
            f"reuse {options.reuse:g}: {path} is missing; make it once with cogvideox calibrate, "
            "or name one with --reuse-table"
        )
    if (steps := len(read_calibration(path).times)) != options.steps:
        raise ConfigError(
            f"{path}: calibrated for {steps} steps, asked for {options.steps}; calibrate for these"
        )
    return options.changed(reuse_table=path)


def check_adapters(
    adapters: Sequence[tuple[str, Strength]], alpha: float | None, spec: ModelSpec | None = None
) -> None:
    """Read adapters and compare their shapes with those of a model's transformer. Raises CheckpointError."""
    if not adapters:
        return
    with torch.device("meta"):
        network = Transformer(spec.transformer) if spec is not None else None
    layers = Layers(layers_of(network)) if network is not None else None
    for path, _ in adapters:
        adapter = read_adapter(path, alpha, layers)
        if network is not None:
            check_fits(network, adapter, path)


def with_changing_adapters(
    options: GenerateOptions, adapters: Sequence[tuple[str, Strength]]
) -> GenerateOptions:
    """The options for adapters whose strength changes over the steps: no tables of what they change at each of them.

    Raises ConfigError with compile, CheckpointError.
    """
    changing = [path for path, strength in adapters if strength.constant is None]
    check_compiled(options, bool(changing))
    if options.modulation == "tables" and any(of_modulation(adapted_layers(path)) for path in changing):
        return options.changed(modulation="layers")
    return options


def warn_of_unknown(name: str, prompt: str, given: Given) -> None:
    """Warn when a prompt uses words, or a picture shows things, that the shipped model ``name`` has never seen.

    The video is made all the same and shows the nearest shapes of the tiny world.
    """
    better = "5b-i2v" if given.has_pictures else "5b"
    advice = f"for anything in the world use a public checkpoint (--model {better})"
    prompt = "; ".join(texts_of(prompt))
    unknown = unknown_words(prompt)
    if unknown:
        more = f" and {len(unknown) - MOST_SHOWN} more" if len(unknown) > MOST_SHOWN else ""
        shown = ", ".join(repr(word[:30]) for word in unknown[:MOST_SHOWN]) + more
        share = "only part of" if read_caption(prompt) else "nothing of"
        warnings.warn(
            f"prompt: {name} knows {share} it: {shown} {'is' if len(unknown) == 1 else 'are'} unknown. "
            f"It knows {vocabulary_text()}; {advice}",
            stacklevel=3,
        )
    pictures = [given.video.frames[-1]] if given.video is not None else list(given.pictures(2**31).values())
    if pictures and not resembles_world(pictures[0]):
        what = "video" if given.video is not None else "image"
        warnings.warn(
            f"{what}: does not look like the tiny world, the only pictures {name} has seen: flat coloured shapes on "
            f"smooth grey (see: cogvideox world render); expect a blurred picture; {advice}",
            stacklevel=3,
        )


# time and memory


def dtype_of(spec: ModelSpec, dtype: str | None, device: str) -> torch.dtype:
    """The precision of a run: as asked, or as stored; float16 becomes float32 on a CPU."""
    stored = "float32" if spec.dtype == "float16" and device.split(":")[0] == "cpu" else spec.dtype
    return cast(torch.dtype, getattr(torch, dtype or stored))  # both are checked names


def text_place(apart: str | None, device: str) -> TextPlace:
    """How the text encoder takes memory: as the rest, read from files, or read from files on another device."""
    if apart is None:
        return "resident"
    return "files" if apart.split(":")[0] == device.split(":")[0] else "elsewhere"


def request_of(
    spec: ModelSpec,
    plan: Plan,
    *,
    encoded: int,
    dtype: torch.dtype,
    device: str,
    text: TextPlace = "resident",
    adapters: Iterable[str | Path] = (),
) -> Request:
    """What a run asks the planners of memory and time for; ``encoded`` given frames are encoded first.

    ``adapters``: their paths. Raises CheckpointError for one that cannot be read.
    """
    options = plan.options
    cache = read_cache(options.cache)[0]
    return Request(
        spec=spec,
        frames=plan.frames.generated,
        latents=plan.frames.latents,
        height=plan.height,
        width=plan.width,
        dtype=dtype,
        device=device,
        given=encoded,
        guided=len(guidance_of(options).branches) > 1,
        guider=guidance_of(options),
        sampler=options.sampler,
        steps=options.steps,
        float32_latents=options.latents == "float32",
        tables=options.modulation == "tables",
        reuse=options.reuse > 0 or cache == "tea",
        first_block=cache == "first-block",
        text=text,
        control_nets=plan.control_nets,
        windows=plan.windows,
        adapters=AdapterBytes.of(adapter_bytes(path) for path in adapters),
    )


def size_of(plan: Plan) -> str:
    """Frames, size and steps of a run, for messages."""
    windows = f", {len(plan.windows.at(0))} windows each" if plan.windows is not None else ""
    return f"{plan.frames.asked} frames of {plan.height}x{plan.width} in {plan.options.steps} steps{windows}"


def forecast(request: Request, steps: int, card: str | None = None) -> Forecast:
    """The time of a run on the device of the request, which must be here; or on a card by name.

    Raises ConfigError for a card that nobody has figures of.
    """
    rates = Rates.of_card(card) if card is not None else measured(request)
    return Forecast(estimate(request, steps, rates), rates.text())


def forecast_anywhere(request: Request, card: str | None = None) -> Forecast:
    """The time of a run on a card by name, on the device of the request where it is here, else on an H100.

    Raises ConfigError for a card that nobody has figures of, and for one on a CPU.
    """
    check_card(card, request.device)
    try:
        check_device(request.device)
    except ConfigError:
        card = card or "H100"
    return forecast(request, request.steps, card)


def check_card(card: str | None, device: str) -> None:
    """Raises ConfigError for a card that nobody has figures of, and for one on a CPU."""
    if card is None:
        return
    peak_of(card)
    if device.split(":")[0] == "cpu":
        raise ConfigError(f"card {card}: the device is {device}; add --device cuda")


def refuse_hours(plan: Plan, expected: Forecast, flag: str) -> None:
    """Raises InputError for a run of more than a day; ``flag`` is what makes it all the same."""
    if expected.seconds > LONGEST and not plan.options.anyway:
        stage = max(expected.stages, key=lambda name: expected.stages[name])
        raise InputError(
            f"{size_of(plan)}: about {expected.seconds / 3600:,.0f} hours are estimated, most of them to {stage} "
            f"({expected.basis}); ask for a smaller or shorter video or fewer steps; {flag} makes it all the same"
        )


def check(model: CogVideoX, plan: Plan) -> None:
    """Refuse what the device of a loaded model cannot hold or would take more than a day for; warn of a long run.

    Loaded weights are not counted again. Raises InputError unless the options say ``anyway``.
    """
    request = request_of(model.spec, plan, encoded=plan.encoded, dtype=model.dtype, device=str(model.device))
    flag = "GenerateOptions(anyway=True)"
    stages = efforts(request, plan.steps).values()
    flops = sum(stage.products + stage.attention + stage.convolutions for stage in stages)
    if flops > (SMALL if request.on_cpu else 1000 * SMALL):
        expected = forecast(request, plan.steps)
        refuse_hours(plan, expected, flag)
        if expected.seconds > LONG:
            duration = f"{expected.seconds / 60:,.0f} minutes for {size_of(plan)}"
            warnings.warn(f"estimated time: about {duration} ({expected.basis})", stacklevel=3)
    if not plan.options.anyway:  # last: large pictures are counted tile by tile
        _check_memory(request, plan, flag)


def _check_memory(request: Request, plan: Plan, flag: str) -> None:
    limit = available(request.device)
    if limit is None:
        return
    prediction = MemoryPrediction(request)
    bound = prediction.bound
    if max(bound.text, bound.encode, bound.denoise, bound.decode) < limit / 2:
        return
    options = plan.options
    coding: Literal["tiled", "chunked"] = "tiled" if options.vae_coding == "tiled" else "chunked"
    work = prediction.work("sequence" if options.guidance_pair == "sequence" else "batched", coding)
    stages = {"encode": work.encode, "denoise": work.denoise, "decode": work.decode}
    stage = max(stages, key=lambda name: stages[name])
    if stages[stage] > limit:
        raise InputError(
            f"{size_of(plan)}: {stages[stage] / 1e9:.3g} GB are needed to {stage}, {limit / 1e9:.3g} GB are free; "
            f"ask for a smaller or shorter video, or vae_coding 'tiled'; {flag} makes it all the same"
        )


def fit(
    request: Request,
    policy: str,
    limit: int | None,
    anyway: bool = False,
    *,
    storage: str = "auto",
    products: str = "full",
) -> MemoryPlan:
    """The cheapest way to run a request within ``limit`` bytes. Raises InputError when nothing fits, with what would.

    policy: "auto" or one of ``memory.RESIDENCES``; storage and products: as in ``memory.lower``, auto: int8 where
    nothing else fits. ``anyway``: the least way instead of an error. Raises DependencyError and ConfigError too, for 8
    bits that cannot be had here.
    """
    stored, _ = read_low_bits(storage, products)
    check_low_bits(stored, products, request.device)
    found = memory.settle(
        request, limit, policy, low_bit=memory.has_torchao(), storage=storage, products=products
    )
    if found.choice is None and anyway:
        return MemoryPlan(request, None, [replace(found.least, limit=None)])
    try:
        memory.require(found)
    except InputError as error:
        raise InputError(f"{error}; --anyway makes it all the same") from None
    return found


def free_memory(device: str) -> int | None:
    """Bytes free on a device; None for one that is not here."""
    try:
        return available(device)
    except (RuntimeError, AssertionError):  # planning for a machine that is elsewhere
        return None


def read_limit(text: str | None) -> int | None:
    """Bytes from text such as 12GB. Raises ConfigError."""
    if text is None:
        return None
    size = 0
    with suppress(CheckpointError):  # its message speaks of shards
        size = to_bytes(text)
    if size <= 0:
        raise ConfigError(f"memory-limit {text!r}: not a size; write 12GB or 900MB")
    return size


def plan_memory(
    model: str | Path | ModelSpec,
    options: GenerateOptions | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    memory_policy: str = "auto",
    memory_limit: str | None = None,
    storage: str = "auto",
    products: str = "full",
    encode_video: bool = False,
    kind: Kind | None = None,
    text_device: str | None = None,
    transformer: str | Path | None = None,
    vae: str | Path | None = None,
    text_encoder: str | Path | None = None,
    adapters: Sequence[str | Path] = (),
    **settings: Any,
) -> MemoryPlan:
    """Predict the memory of a run under every policy and choose the cheapest that fits; loads no weights.

    model: a preset, a folder, a hub id or a spec; nothing is downloaded. ``settings`` are fields of GenerateOptions
    (``frames=49, height=480``). device: any name; default: the best one here. memory_limit: such as "12GB"; default:
    what the device has free. storage, products: as in ``memory.lower``, or auto. ``encode_video``: the run begins with
    a video, which is encoded first. ``kind``: what the model makes a video from, where its files leave that open.
    ``text_device``: where the text encoder is read from its files, layer by layer. ``transformer``, ``vae`` and
    ``text_encoder``: networks in place of the model's own, as ``load`` takes them. ``adapters``: files of LoRAs.
    ``MemoryPlan.choice`` is None when nothing fits. Raises ConfigError, CheckpointError, SizeError or FrameError.
    """
    components = Components.find(transformer, vae, text_encoder, download=False)
    spec = find_spec(model, kind, components) if not isinstance(model, ModelSpec) else model
    if isinstance(model, ModelSpec):
        spec = with_components(model, components, kind)
    place = device or best_device()
    precision = dtype_of(spec, choose("dtype", dtype, DTYPES) if dtype is not None else None, place)
    plan = plan_run(spec, (options or GenerateOptions()).changed(**settings))
    reads_video = encode_video or spec.reads_whole_video
    encoded = plan.frames.generated if reads_video else int(spec.needs_image)
    apart = text_place(text_device or (place if components.packed_text else None), place)
    request = request_of(
        spec, plan, encoded=encoded, dtype=precision, device=place, text=apart, adapters=adapters
    )
    limit = read_limit(memory_limit) or free_memory(place)
    return memory.plan(
        request, limit, memory_policy, low_bit=memory.has_torchao(), storage=storage, products=products
    )
