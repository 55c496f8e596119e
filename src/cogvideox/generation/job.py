"""One video from a request to its pixels: prepare (check and plan), load, make; ``video_files`` writes it.

The command line, batches and evaluations go through these; each step takes what the one before has decided.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed import get_world_size

from cogvideox import checkpoints
from cogvideox.checkpoints.components import Components, is_packed
from cogvideox.checkpoints.shipped import is_shipped
from cogvideox.checkpoints.specs import read_spec
from cogvideox.device import best_device, check_device
from cogvideox.errors import CheckpointError, ConfigError
from cogvideox.generation import preflight
from cogvideox.generation.control_net_entry import ControlNetEntry
from cogvideox.generation.control_nets import fetch_control_nets, load_control_nets
from cogvideox.generation.distilled import bring_settings, warn_of_adapters, warn_of_left_settings
from cogvideox.generation.given import Given, GivenSize, read_given
from cogvideox.generation.options import SAMPLER_NAMES, GenerateOptions
from cogvideox.generation.pipeline import run
from cogvideox.generation.plan import Plan, plan_run, with_policy
from cogvideox.generation.preflight import DTYPES, Forecast, choose, model_folder
from cogvideox.generation.prompt_enhance import Enhance, Enhanced
from cogvideox.generation.recommended import merged, without_folders
from cogvideox.generation.record import Generation
from cogvideox.generation.sampling import guidance_of
from cogvideox.generation.text_cache import cache_folder, digests_of_run, use_cache
from cogvideox.generation.turn import OnStep, Progress
from cogvideox.generation.watch import Previewer, Watch
from cogvideox.memory import MemoryPlan, Policy, lower, offload
from cogvideox.memory.lowbit import read_low_bits
from cogvideox.model import CogVideoX
from cogvideox.parallel.inference import Spread, spread
from cogvideox.parallel.mesh import is_distributed, is_main_process
from cogvideox.progress import SILENT, Reporter, duration
from cogvideox.spec import Kind, ModelSpec
from cogvideox.strength import Strength
from cogvideox.text import check_prompt
from cogvideox.transformer.hub_kernels import check_hub_kernels
from cogvideox.transformer.kernels import read_attention
from cogvideox.vae.tiny import LATENT_CHANNELS, TinyVAE
from cogvideox.video import watched_of

SHIPPED, SHIPPED_I2V = "tiny", "tiny-i2v"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked for besides the options: model and adapters, device and memory, and how the result is written.

    model: a folder, a hub id or a preset; "" is the shipped one that reads what is given. ``kind``: what it makes a
    video from, where its files leave that open (``spec.ABOUT_KINDS``). ``adapters`` are paths with
    their strengths, ``alpha`` is that of adapters whose file does not say theirs. memory: "auto" or one of
    ``memory.RESIDENCES``; memory_limit: such as "12GB"; storage and products: as in ``memory.lower``, or auto.
    ``metadata`` false: neither prompt nor settings are written. ``preview``: an enlarged GIF and a contact sheet too.
    ``tiny_vae``: the file of a tiny autoencoder. ``watch``: the steps between two previews of the video so far, in a
    GIF beside it; 0: none.
    ``text_device``: where the text encoder runs, read layer by layer from its files. ``text_cache``: "on", "off" or a
    folder of text embeddings (``cache_folder``); with one, the text encoder is read only when an embedding is missing.
    ``transformer``, ``vae``, ``text_encoder``: networks in place of the model's own, each a folder, a file or a hub id;
    a text encoder in a .gguf file is read layer by layer too.
    ``second_pass``: the transformer of a removal's second pass, which follows in the same run (``two_passes``).
    ``preset``: a name of ``recommended.SETTINGS_PRESETS``; ``recommended``: of each option that nobody gave, what asks
    for it (``settled`` fills it in).
    """

    model: str = ""
    kind: Kind | None = None
    adapters: tuple[tuple[str, Strength], ...] = ()
    alpha: float | None = None
    dtype: str | None = None
    device: str | None = None
    memory: str = "auto"
    memory_limit: str | None = None
    storage: str = "auto"
    products: str = "full"
    enhance: Enhance = field(default_factory=Enhance)
    overwrite: bool = False
    metadata: bool = True
    preview: bool = False
    tiny_vae: str | None = None
    watch: int = 0
    text_device: str | None = None
    text_cache: str = "off"
    text_encoder: str | None = None
    transformer: str | None = None
    vae: str | None = None
    second_pass: str | None = None
    preset: str = ""
    recommended: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        read_low_bits(self.storage, self.products)
        adapters = tuple((path, Strength.of(strength)) for path, strength in self.adapters)
        object.__setattr__(self, "adapters", adapters)
        if self.dtype is not None:
            object.__setattr__(self, "dtype", choose("dtype", self.dtype, DTYPES))

    @property
    def target_device(self) -> str:
        """The device: as asked, or the best there is."""
        return self.device or best_device()

    @property
    def text_apart(self) -> str | None:
        """The device on which the text encoder is read from its files when it is called; None: it is as the rest."""
        packed = self.text_encoder is not None and is_packed(self.text_encoder)
        apart = packed or cache_folder(self.text_cache) is not None
        return self.text_device or (self.target_device if apart else None)

    def components(self, download: bool = True) -> Components:
        """The networks in place of the model's own. Raises CheckpointError for what is not there, or is not run."""
        return Components.find(self.transformer, self.vae, self.text_encoder, download=download)

    def model_for(self, settings: Mapping[str, Any]) -> str:
        """The model asked for, or the shipped one that reads images where ``settings`` name one."""
        pictures = any(settings.get(name) for name in ("image", "last_image", "keyframe"))
        return self.model or (SHIPPED_I2V if pictures else SHIPPED)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A request that was checked and planned: nothing about it is decided again.

    ``forecast`` is None where the time is not known. ``memory`` has a choice.
    """

    job: Job
    name: str
    folder: Path
    spec: ModelSpec
    plan: Plan
    given: Given
    memory: MemoryPlan
    forecast: Forecast | None
    enhanced: Enhanced | None = None
    given_size: GivenSize | None = None

    @property
    def policy(self) -> Policy:
        """How the model is kept in memory."""
        assert self.memory.choice is not None  # fit raises otherwise
        return self.memory.choice.policy

    def noted(self, generation: Generation) -> Generation:
        """A video of this request whose record says what was done about memory and the prompt."""
        recommended = without_folders(self.job.recommended)
        return generation.noted(memory=self.memory, enhanced=self.enhanced, recommended=recommended)


def parse_options(settings: Mapping[str, Any]) -> GenerateOptions:
    """Options from plain settings, everything checked that needs no model. Raises InputError or ConfigError."""
    for name in ("prompt", "negative_prompt"):
        if name in settings:
            check_prompt(settings[name], name.replace("_", " "))
    if "sampler" in settings:
        settings = {**settings, "sampler": choose("sampler", settings["sampler"], SAMPLER_NAMES)}
    return GenerateOptions.parse(dict(settings))


def settled(job: Job, settings: Mapping[str, Any]) -> tuple[Job, dict[str, Any]]:
    """The settings with those that a preset and the adapters ask for, and the job that names where they come from.

    Raises ConfigError.
    """
    values, sources = merged(settings, job.preset, job.adapters)
    return replace(job, recommended=sources), values


def prepare(
    job: Job,
    options: GenerateOptions,
    *,
    download: bool = True,
    ask: bool = True,
    limit: int | None = None,
    given: Given | None = None,
    bring: Callable[[ModelSpec], Mapping[str, Any]] | None = None,
    reporter: Reporter = SILENT,
) -> Prepared:
    """Check and plan one video before a weight is read: model, inputs, sizes, prompt, time, memory. Raises our errors.

    download: whether a model of the hub may be downloaded. ask: whether a language model may be asked to write the
    prompt out; else the prompt stays. limit: bytes the run may take; default: what is free (``limit_of``).
    ``bring`` makes what a model of this kind is given besides what the options name: arguments of ``read_given``.
    ``given``: what was brought, in place of the files that the options name.
    """
    name = job.model_for(vars(options))
    kernels = read_attention(options.attention)
    folder = model_folder(name, download)
    spec = read_spec(folder, job.kind, job.components(download))
    if download and is_here(job.target_device):
        precision = preflight.dtype_of(spec, job.dtype, job.target_device)
        check_hub_kernels(
            kernels, torch.device(job.target_device), precision, spec.transformer.attention_head_dim
        )
    if given is None:
        given = read_given(options, **(bring(spec) if bring is not None else {}))
    preflight.check_request(spec, options, given)
    if options.vae_coding == "tiny" and job.tiny_vae is None:
        raise ConfigError("vae-coding tiny: which tiny autoencoder? give its file with --tiny-vae")
    if job.tiny_vae is not None:
        read_tiny_vae(job, spec)  # a file that is none is refused before the model is read
    fetch_control_nets(options.control_nets, download)
    options = preflight.with_changing_adapters(options, job.adapters)
    if not bring_settings(job.preset, job.adapters):
        warn_of_left_settings(spec, options, name)
    if job.transformer is None:
        warn_of_adapters(job.adapters, spec, folder, name)
    plan = plan_run(spec, options, given)
    enhanced = job.enhance.apply(plan.options.prompt, spec.name) if ask or job.enhance.is_rules else None
    if enhanced is not None:
        plan = replace(plan, options=plan.options.changed(prompt=enhanced.enhanced))
    is_own = is_shipped(folder) and not job.adapters and job.transformer is None
    if is_own and (enhanced is not None or job.enhance.spec is None):
        preflight.warn_of_unknown(folder.resolve().name, plan.options.prompt, given)
    plan = replace(plan, options=preflight.with_calibration(plan.options, folder))
    forecast = foresee(job, spec, plan)
    limit = limit_of(job, plan.options.anyway) if limit is None else limit
    memory = fit_memory(job, spec, plan, limit, reporter)
    prepared = Prepared(
        job=job, name=name, folder=folder, spec=spec, plan=plan, given=given, given_size=given.size, memory=memory,
        forecast=forecast, enhanced=enhanced,
    )  # fmt: skip
    prepared = replace(prepared, plan=with_policy(spec, plan, prepared.policy))
    check_shareable(prepared)
    return prepared


def check_shareable(prepared: Prepared) -> None:
    """Raises ConfigError for what one process can do alone only, when torchrun started several."""
    if not is_distributed():
        return
    policy = prepared.policy
    if policy.residence != "resident" or policy.storage != "stored":
        raise ConfigError(
            f"memory {policy.name}: several processes hold the weights in parts already; pass --memory resident"
        )
    if prepared.spec.stored_bytes:
        raise ConfigError(
            f"{prepared.name}: quantised weights are not shared by several processes; start one, or convert them to "
            "plain numbers: cogvideox convert"
        )
    if prepared.plan.options.cache:
        raise ConfigError("cache: not for several processes; leave out --cache, or start one process")
    if prepared.plan.options.control_net:
        raise ConfigError(
            "control-net: not for several processes; leave out --control-net, or start one process"
        )
    if prepared.plan.options.compile:
        raise ConfigError("compile: not for several processes; leave out --compile, or start one process")


def foresee(job: Job, spec: ModelSpec, plan: Plan) -> Forecast | None:
    """How long a run will take here; None where that is not known: on a device elsewhere, and for several processes.

    Raises InputError for more than a day, unless the options say ``anyway``.
    """
    if is_distributed():
        return None
    if not is_here(job.target_device):
        return None
    expected = preflight.forecast(_request(job, spec, plan), plan.steps)
    preflight.refuse_hours(plan, expected, "--anyway")
    return expected


def is_here(device: str) -> bool:
    """Whether this machine has the device; what is planned may run elsewhere."""
    try:
        check_device(device)
    except ConfigError:
        return False
    return True


def fit_memory(
    job: Job, spec: ModelSpec, plan: Plan, limit: int | None, reporter: Reporter = SILENT
) -> MemoryPlan:
    """How the run fits into memory. Raises InputError when it cannot, ConfigError."""
    with reporter.progress("planning the memory") as report:
        report("planning the memory", 0, 1)  # large pictures are counted tile by tile
        return preflight.fit(
            _request(job, spec, plan),
            job.memory,
            limit,
            plan.options.anyway,
            storage=job.storage,
            products=job.products,
        )


def _request(job: Job, spec: ModelSpec, plan: Plan) -> preflight.Request:
    dtype = preflight.dtype_of(spec, job.dtype, job.target_device)
    place = preflight.text_place(job.text_apart, job.target_device)
    if job.text_device is not None:
        check_device(job.text_device)
    return preflight.request_of(
        spec, plan, encoded=plan.encoded, dtype=dtype, device=job.target_device, text=place,
        adapters=[path for path, _ in job.adapters],
    )  # fmt: skip


def limit_of(job: Job, anyway: bool = False) -> int | None:
    """The bytes a run may take: as asked, and unless ``anyway`` no more than are free. Raises ConfigError."""
    asked, free = preflight.read_limit(job.memory_limit), preflight.free_memory(job.target_device)
    if asked is None or free is None or asked <= free or anyway:
        return asked or free
    warnings.warn(
        f"memory-limit {job.memory_limit}: only {free / 1e9:.3g} GB are free, and the run is planned for these",
        stacklevel=2,
    )
    return free


def load(
    job: Job,
    folder: Path,
    *,
    policy: Policy | None = None,
    control_nets: Sequence[ControlNetEntry] = (),
    weights: dict[str, str] | None = None,
    reporter: Reporter = SILENT,
) -> CogVideoX:
    """The model with its adapters, on the job's device, or where a memory policy keeps it.

    ``control_nets`` are loaded beside it. ``weights``: the SHA-256 of the model's files, where they are known already.
    Raises CheckpointError, ConfigError.
    """
    device, policy = job.target_device, policy or Policy()
    check_device(device)
    components = job.components()
    spec = read_spec(folder, job.kind, components) if job.adapters else None
    preflight.check_adapters(job.adapters, job.alpha, spec)
    offloaded = policy.residence != "resident" or policy.storage != "stored"
    files = policy.from_files(device.split(":")[0] == "cpu")
    name, began = job.model or folder.name, time.monotonic()
    with reporter.progress(f"loading {name}") as report:
        report(f"loading {name}", 0, 1)
        model = checkpoints.load_model(
            folder, dtype=job.dtype, device="cpu" if offloaded else device, compute_device=device, digests=False,
            kind=job.kind, read_weights=not files, text_device=job.text_apart, text_encoder=job.text_encoder,
            transformer=job.transformer, vae=job.vae,
        )  # fmt: skip
        use_cache(model, job.text_cache, folder, job.text_apart or device, components)
        for path, strength in job.adapters:
            checkpoints.load_lora(model, path, strength, alpha=job.alpha)
        if job.metadata and weights is None:
            report("digests of the weights", 0, 1)
            weights = digests_of_run(folder, components)
        if job.metadata:
            model.weights = weights or {}
        load_control_nets(model, control_nets, read_weights=not files, digests=job.metadata)
        report(f"moving to {device}", 0, 1)
        if job.tiny_vae is not None:
            model.tiny_vae = read_tiny_vae(job, model.spec, device)
        lower(model, policy.storage, device, policy.products)
        if offloaded or job.text_apart:
            model = offload(model, device, policy.residence, job.text_apart)
    if is_main_process():
        reporter.note(f"{name}: loaded in {duration(time.monotonic() - began)}, on {device}")
    return model


def share(model: CogVideoX, options: GenerateOptions) -> None:
    """Let the processes that torchrun started make one video together."""
    if is_distributed():
        pair = guidance_of(options).branches == ("negative", "prompt")
        guided = pair and options.guidance_pair != "sequence"
        spread(model.transformer, Spread.over(get_world_size(), guided), model.device.type)


def make(
    model: CogVideoX,
    prepared: Prepared,
    title: str,
    reporter: Reporter = SILENT,
    out: Path | None = None,
    then: OnStep | None = None,
) -> Generation:
    """One video of a prepared request; its record says what was done about memory and the prompt.

    ``out``: the file it will be written to; where the job says ``watch``, previews of its steps are beside that.
    ``then``: called with every Progress after it was reported; what it raises stops the run.
    """
    stages, job = prepared.forecast.stages if prepared.forecast else None, prepared.job
    with reporter.progress(title, stages) as report:

        def told(step: Progress) -> None:
            report(step.stage, step.done, step.total)
            if then is not None:
                then(step)

        on_step: OnStep = told
        if job.watch and out is not None and is_main_process():
            on_step = Watch(Previewer(model, model.tiny_vae), prepared.plan, watched_of(out), job.watch, told)
        generation = run(model, prepared.plan, prepared.given, on_step)
    return prepared.noted(generation)


def read_tiny_vae(job: Job, spec: ModelSpec, device: str = "cpu") -> TinyVAE:
    """The tiny autoencoder of a job. Raises CheckpointError for a file that is none, and for other latents."""
    assert job.tiny_vae is not None
    tiny, channels = checkpoints.load_tiny_vae(job.tiny_vae, device), spec.vae.latent_channels
    if channels != LATENT_CHANNELS:
        raise CheckpointError(
            f"tiny-vae {job.tiny_vae}: decodes {LATENT_CHANNELS} latent channels, the model has {channels}; leave it "
            "out"
        )
    return tiny
