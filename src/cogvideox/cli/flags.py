"""Flags made from the fields of a settings class: one declaration, one help text, every setting reachable.

``flag`` and the types below are the flags that are no settings, such as ``--json``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Annotated, Any, Literal, Optional, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from cogvideox.config import Config

SPEED, OUTPUT = "Speed and memory", "Output"


def flag(help: str, panel: str | None = None, *names: str, **more: Any) -> Any:
    """An option of a command under the heading ``panel``; ``names``: where the flag is not called as its parameter."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


Debug = Annotated[bool, flag("show tracebacks", OUTPUT, "--debug")]
Json = Annotated[bool, flag("results as JSON", OUTPUT, "--json")]
Overwrite = Annotated[bool, flag("replace files that exist", OUTPUT, "--overwrite")]
Dtype = Annotated[str | None, flag("float32, bfloat16 or float16; default: as stored", SPEED)]
Device = Annotated[str | None, flag("cpu, cuda, cuda:1 or mps; default: cuda, else mps, else cpu", SPEED)]
Memory = Annotated[
    str,
    flag(
        "auto, resident (all weights on the device), phases (one stage at a time), stream (block by block from "
        "host memory), disk (block by block from the files)",
        SPEED,
    ),
]
TextDevice = Annotated[
    str | None,
    flag("run the text encoder there (cpu), read layer by layer from its files; default: as the rest", SPEED),
]
TextEncoderFile = Annotated[
    str | None,
    flag(
        "a T5 instead of the model's text encoder: a .gguf file (4 or 8 bits), a safetensors file or a folder",
        "Model",
    ),
]
TransformerFile = Annotated[
    str | None,
    flag(
        "a transformer instead of the model's: a safetensors file, a folder or a hub id",
        "Model",
        "--transformer",
    ),
]
VaeFile = Annotated[
    str | None,
    flag("a VAE instead of the model's: a safetensors file, a folder or a hub id", "Model", "--vae"),
]
TextCache = Annotated[
    str, flag("keep text embeddings for later runs: on (the user's cache folder), a folder, or off", SPEED)
]
MemoryLimit = Annotated[
    str | None, flag("memory to stay within, such as 12GB; default: what the device has free", SPEED)
]
Kind = Annotated[
    str | None,
    flag(
        "what the model makes a video from, where its files do not say: i2v-every-frame or control",
        "Model",
        "--as",
    ),
]
Storage = Annotated[
    str,
    flag(
        "weights of the linear layers: auto, stored, int8, fp8 (one byte each; pip install 'cogvideox[lowp]') or int4",
        SPEED,
    ),
]
Products = Annotated[
    str,
    flag(
        "products of the transformer: full, int8 or fp8 (activations in 8 bits too; an approximation)", SPEED
    ),
]
ENHANCE = "write the prompt out: rules, the address of an OpenAI-compatible server, or a model folder"
ENHANCE_MODEL = "the model on that server; its key is read from OPENAI_API_KEY"
Engine = Annotated[str, flag("local (this machine) or ray (a cluster, one worker per GPU)", SPEED)]
Workers = Annotated[
    int | None,
    flag("processes here, or actors of ray; default: this process, one actor per GPU", SPEED, min=1),
]
Settings = Annotated[list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...")]


def with_flags(config: type[Config], groups: Mapping[str, str]) -> Callable[..., Callable[..., None]]:
    """A decorator that gives a command one flag for each field of ``config`` that ``groups`` names.

    The command has a parameter ``options``, which receives the values of the flags that were given, by field.
    ``groups``: heading in the help -> names of its fields with spaces between; they stand in this order.
    """
    flags = {
        name: _flag(name, config.model_fields[name], group)
        for group, names in groups.items()
        for name in names.split()
    }

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = dict(inspect.signature(function, eval_str=True).parameters)
        del own["options"]

        @functools.wraps(function)
        def run(**values: Any) -> None:
            given = {name: value for name in flags if (value := values.pop(name, None)) not in (None, [])}
            function(options=given, **values)

        parameters = [*flags.values(), *own.values()]
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # what inspect.signature looks for
            [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
        )
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate


def _flag(name: str, field: FieldInfo, group: str) -> inspect.Parameter:
    """The parameter of a command for one field; None when the flag is not given."""
    kind, choices = _kind_of(field.annotation)
    text = f"--{name.replace('_', '-')}"
    if kind is bool and field.default is True:
        text = f"{text}/--no-{text.removeprefix('--')}"
    metavar = "|".join(map(str, choices)) or None
    option = flag(_help_of(field), group, text, metavar=metavar, show_default=False)
    annotation = Annotated[Optional[kind], option]  # noqa: UP045  made at run time
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _kind_of(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """The type that the command line reads, and the values it may have where they are listed."""
    if get_origin(annotation) is Literal:
        return str, get_args(annotation)
    kinds = [each for each in get_args(annotation) or (annotation,) if each is not NoneType]
    if get_origin(annotation) is tuple:
        return list[str], ()
    assert len(kinds) == 1 and kinds[0] in (str, int, float, bool), annotation  # no other fields so far
    return kinds[0], ()


def _help_of(field: FieldInfo) -> str:
    text, default = field.description or "", field.default
    if default in (None, "", False, ()) or "default" in text:
        return text
    return f"{text}; default: {'on' if default is True else default}"
