"""The command: its verbs, and those of them that are one call each."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cogvideox import __version__
from cogvideox.cli.calibrate import calibrate
from cogvideox.cli.caption import caption
from cogvideox.cli.curate import curate, data
from cogvideox.cli.evaluate import evaluate
from cogvideox.cli.flags import Debug, Json, Overwrite, TextEncoderFile, TransformerFile, VaeFile, flag
from cogvideox.cli.generate import generate
from cogvideox.cli.plan import plan
from cogvideox.cli.preview import preview
from cogvideox.cli.rate import rate
from cogvideox.cli.recommend import recommend
from cogvideox.cli.reproduce import reproduce
from cogvideox.cli.serve import keys, serve, studio
from cogvideox.cli.terminal import ERROR, INTERRUPTED, GroupedCommand, OneLineGroup, result, verb
from cogvideox.cli.train import settings, train
from cogvideox.cli.world import world
from cogvideox.errors import CheckpointError, ConfigError, MediaError, suggest
from cogvideox.progress import say

if TYPE_CHECKING:
    from cogvideox.strength import Strength

app = typer.Typer(
    name="cogvideox",
    cls=OneLineGroup,
    help="Text, images and videos to video: make, train, convert, measure.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(world, name="world")
app.add_typer(data, name="data")
app.add_typer(rate, name="rate")
app.add_typer(keys, name="keys")
SOURCES = "SAT file or folder, model folder or part, LoRA, trainer's output, preset"
BLEND = "another model of the same shape: the mean of both, or MODEL:0.3 for its share"
FUSED = "adapter added into the weights of a model, as for generate: NAME or NAME:0.8; repeatable"
BASE = "model whose VAE and text encoder go beside a trainer's network"
for each in (
    generate,
    preview,
    plan,
    studio,
    serve,
    train,
    settings,
    curate,
    caption,
    evaluate,
    reproduce,
    calibrate,
    recommend,
):
    app.command(cls=GroupedCommand)(each)


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="print the version and stop")] = False,
) -> None:
    """Text, images and videos to video: make, train, convert, measure."""
    if version:
        result(f"cogvideox {__version__}")
        raise typer.Exit()


@app.command(cls=GroupedCommand)
@verb
def quantise(
    source: Annotated[str, typer.Argument(help="model folder, hub id or preset")],
    target: Annotated[str, typer.Argument(help="new folder")],
    storage: Annotated[
        str, flag("int8 or fp8: one byte for each weight of the transformer's blocks")
    ] = "int8",
    products: Annotated[str, flag("what torchao multiplies in: full, int8 or fp8")] = "full",
    dtype: Annotated[str, flag("of the other weights: bfloat16, float16, float32")] = "bfloat16",
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Write a copy of a model with its transformer in one byte a weight, which diffusers loads through torchao."""
    from cogvideox.quantise import quantise as run

    result(str(run(source, target, storage, products=products, dtype=dtype, overwrite=overwrite)))


@app.command(cls=GroupedCommand)
@verb
def convert(
    source: Annotated[str, typer.Argument(help=SOURCES)],
    target: Annotated[str, typer.Argument(help="new folder")],
    to: Annotated[str, flag("diffusers or sat")] = "diffusers",
    preset: Annotated[str | None, flag("the model it is, when its shapes do not say")] = None,
    shard_size: Annotated[str, flag("largest file, such as 5GB")] = "5GB",
    alpha: Annotated[float | None, flag("for LoRA files that do not say theirs")] = None,
    base: Annotated[str | None, flag(BASE)] = None,
    lora: Annotated[list[str] | None, flag(FUSED)] = None,
    blend: Annotated[list[str] | None, flag(BLEND)] = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Convert weights between SAT and diffusers, both ways; add adapters into a model; blend two."""
    _check_conversion(source, target, to, preset, overwrite)
    from cogvideox.checkpoints import convert as run
    from cogvideox.generation.recommended import read_adapter_flag

    kind: Literal["sat", "diffusers"] = "sat" if to == "sat" else "diffusers"
    adapters = [read_adapter_flag(text) for text in lora or []]
    folder = run(
        source, target, kind, preset, shard_size=shard_size, overwrite=overwrite, alpha=alpha, base=base,
        lora=adapters, settings=_made_for(adapters) if adapters else None,
        blend=_read_blend(blend) if blend else None,
    )  # fmt: skip
    result(str(folder))


def _made_for(adapters: Sequence[tuple[str, Strength]]) -> dict[str, Any]:
    """What is recommended for these adapters together. Raises ConfigError where two disagree."""
    from cogvideox.generation.recommended import merged

    try:
        return merged({}, "", adapters)[0]
    except ConfigError as error:
        raise ConfigError(f"{error} (convert: let them agree first, `cogvideox recommend`)") from None


def _read_blend(texts: list[str]) -> tuple[str, float]:
    """A model and its share, ``MODEL`` or ``MODEL:0.3``; without one, half. Raises ConfigError for several models."""
    if len(texts) > 1:
        raise ConfigError(
            f"blend {' and '.join(texts)}: two models are blended at a time; blend what comes out"
        )
    text = texts[0]
    name, _, share = text.rpartition(":")
    try:
        return (name, float(share)) if name and not Path(text).exists() else (text, 0.5)
    except ValueError:
        return text, 0.5


def _check_conversion(source: str, target: str, to: str, preset: str | None, overwrite: bool) -> None:
    """Refuse what cannot be converted before torch is loaded, which takes seconds."""
    from cogvideox.presets import PRESETS, get_preset

    if to not in ("diffusers", "sat"):
        raise ConfigError(f"to {to!r}: unknown{suggest(to, ('diffusers', 'sat'))}; choose diffusers or sat")
    if preset is not None and preset not in PRESETS:
        get_preset(preset)  # says which there are
    if "\0" in source + target:
        raise CheckpointError(f"{source!r}, {target!r}: not a path; check it")
    if "/" not in source and source not in PRESETS and not Path(source).exists():
        raise CheckpointError(
            f"{source}: no such file or folder, nor a preset{suggest(source, PRESETS)}; check it"
        )
    if Path(target).exists() and not overwrite:
        raise CheckpointError(f"{target}: exists already; choose another name or pass --overwrite")


@app.command(cls=GroupedCommand)
@verb
def inspect(
    path: Annotated[
        str,
        typer.Argument(
            help="model folder or part, SAT checkpoint, LoRA, hub id, preset, video, picture or its record"
        ),
    ],
    transformer: TransformerFile = None,
    vae: VaeFile = None,
    text_encoder: TextEncoderFile = None,
    check: Annotated[bool, flag("read every tensor: NaN, Inf, digests", None, "--check")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """What a checkpoint is, and what is wrong with it (exit code 1 when something is); what a video says of itself."""
    if "\0" in path or not path.strip():
        raise CheckpointError(f"{path!r}: not a path; pass a folder, a file or a preset")
    if _is_only_a_name(path):
        result(_preset_as_text(path, as_json))
        return
    from cogvideox.files.paths import IMAGE_SUFFIXES, VIDEO_SUFFIXES

    ending, there = Path(path).suffix.lower(), Path(path).is_file()
    if ending in VIDEO_SUFFIXES | IMAGE_SUFFIXES or (ending == ".json" and there):
        if not there:
            raise MediaError(f"{path}: no such file; check the path")
        from cogvideox.video import file_info

        info = file_info(path)
        result(info.to_json() if as_json else info.to_text())
        return
    from cogvideox.checkpoints import inspect as run

    report = run(path, check=check, transformer=transformer, vae=vae, text_encoder=text_encoder)
    result(report.to_json() if as_json else report.to_text())
    if not report.ok:
        raise typer.Exit(ERROR)


def _is_only_a_name(path: str) -> bool:
    """Whether this is a model of the table that does not come with the package and is not a folder here."""
    from cogvideox.checkpoints.shipped import ships
    from cogvideox.presets import PRESETS

    return path in PRESETS and not Path(path).exists() and not ships(path)


def _preset_as_text(name: str, as_json: bool) -> str:
    """A model of the table, whole; nothing is downloaded for it."""
    from cogvideox.presets import PRESETS

    preset = PRESETS[name]
    configs = {"vae": preset.vae, "transformer": preset.transformer, "scheduler": preset.schedule}
    if as_json:
        facts = {key: getattr(preset, key) for key in ("name", "kind", "about", "licence", "hub")}
        return json.dumps(facts | {key: config.model_dump(mode="json") for key, config in configs.items()})
    lines = [
        f"{name}: {preset.about}",
        f"  licence: {preset.licence}",
        f"  weights: {preset.hub or 'train them'}",
    ]
    for key, config in configs.items():
        lines += [f"  {key}:", textwrap.indent(config.to_yaml().rstrip(), "    ")]
    return "\n".join(lines)


def set_allocator() -> None:
    """Let torch's allocator on a GPU extend the memory that it holds instead of gathering fragments, which take up to
    as much again. It is read when torch is loaded; what the user has set is kept."""
    if sys.platform == "linux" and "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")


def main() -> None:
    """Run the command line; Ctrl-C at any moment ends with 130 and no traceback."""
    set_allocator()
    try:
        app()
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(INTERRUPTED)
