"""The file of a batch: one prompt, one JSON object or one CSV row for each video, with the names of the flags as keys.

A line becomes an ``Item``: its settings and the file it is made into. The file is named by the key ``name``, or by the
words of the prompt and a hash of the settings and of the files they name: where the line stands does not matter.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

from cogvideox.checkpoints.kinds import check_kind
from cogvideox.errors import CogVideoXError, ConfigError, InputError, MediaError, suggest
from cogvideox.files import parse_json, read_small_text, short
from cogvideox.files.digest import sha256_of
from cogvideox.files.jsonl import lines_of
from cogvideox.generation.control_net_entry import ControlNetEntry
from cogvideox.generation.given import read_keyframe
from cogvideox.generation.job import Job, settled
from cogvideox.generation.options import GenerateOptions, as_list
from cogvideox.generation.preflight import DTYPES, choose
from cogvideox.generation.prompt_enhance import Enhance
from cogvideox.generation.recommended import read_adapter_flag
from cogvideox.generation.record import FILES
from cogvideox.strength import Strength

Line = dict[str, Any] | CogVideoXError
"""The values of a line, or what is wrong with it."""
MOST_BYTES = 64 << 20
OF_THE_RUN = ("batch", "count", "debug", "device", "dry_run", "engine", "enhance", "enhance_model", "json", "memory",
              "memory_limit", "no_metadata", "out", "overwrite", "preview", "products", "second_pass", "storage",
              "text_cache", "text_device", "text_encoder", "tiny_vae", "transformer", "vae", "watch",
              "workers")  # fmt: skip
"""Flags of the command line that a line cannot have."""
OF_A_LINE = ("as", "continue", "dtype", "lora", "lora_alpha", "model", "name", "preset")
"""Keys of a line besides the fields of GenerateOptions."""
ELSEWHERE = {
    "out": "a line is named by its key name",
    "enhance": "a line's prompt is written as it should be",
}
YES, NO = {"true", "yes", "1"}, {"false", "no", "0"}
FAILURES = "failed.json"
"""The list of lines that were not made, in the folder of a batch."""
MOST_NAME = 200  # bytes; file systems allow 255
MOST_WORDS = 40  # characters of a prompt in the name of its file


@dataclass(frozen=True, kw_only=True)
class Item:
    """One line: its number (from 1), its settings, their hash, its job (model, adapters) and the file it becomes.

    ``named``: the file has a name that the line gives. ``fault``: what is wrong with the line; nothing is made of it.
    """

    line: int
    settings: dict[str, Any]
    path: Path
    key: str
    job: Job
    named: bool = False
    fault: CogVideoXError | None = None

    def to_plain(self) -> dict[str, Any]:
        """The item as plain values, its path absolute; for ``from_plain`` in a process elsewhere."""
        job = {each.name: getattr(self.job, each.name) for each in fields(Job)}
        return {
            "line": self.line, "settings": self.settings, "path": str(self.path.absolute()), "key": self.key,
            "named": self.named,
            "job": job | {"enhance": asdict(self.job.enhance), "adapters": _plain(self.job.adapters)},
        }  # fmt: skip

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Item:
        """The item that ``to_plain`` made these values of."""
        job = values["job"]
        adapters = tuple((path, strength) for path, strength in job["adapters"])
        job = Job(**job | {"adapters": adapters, "enhance": Enhance(**job["enhance"])})
        return cls(**values | {"path": Path(values["path"]), "job": job})

    @property
    def weights(self) -> tuple[Any, ...]:
        """What must be loaded for it: lines with equal weights are made one after the other."""
        job = self.job
        nets = {each.path for each in control_nets_of(self.settings)}
        return job.model_for(self.settings), job.kind, job.adapters, job.alpha, job.dtype, tuple(sorted(nets))


def read_items(
    source: Path, folder: Path, settings: Mapping[str, Any], job: Job, *, download: bool = True
) -> list[Item]:
    """Every line as an item; flags are defaults, the line decides. ``download``: whether adapters of the hub may be.

    Raises MediaError, ConfigError.
    """
    lines = read_lines(source)
    digest = functools.cache(_digest)
    if "prompt" in settings and all("prompt" in values for _, values in lines if isinstance(values, dict)):
        warnings.warn("--prompt has no effect: every line has its own", stacklevel=2)
    copies: Counter[str] = Counter()
    items = [
        _item(number, values, settings, folder, job, digest, copies, download) for number, values in lines
    ]
    names: dict[str, int] = {}
    for item in items:
        name = item.path.name.casefold()
        if item.fault is None and name in names:
            raise ConfigError(f"{source}: lines {names[name]} and {item.line} have one name; change one")
        names[name] = item.line
    return items


def _item(
    number: int,
    line: Line,
    flags: Mapping[str, Any],
    folder: Path,
    job: Job,
    digest: Callable[[str], str],
    copies: Counter[str],
    download: bool,
) -> Item:
    path = folder / f"line-{number}.mp4"
    if isinstance(line, CogVideoXError):
        return Item(line=number, settings={}, path=path, key="", job=job, fault=line)
    values = {**flags, **line}
    name = values.pop("name", None)
    try:
        job = _job_of(values, job, download)
        _check_name(name)
        job, values = settled(job, values)
    except CogVideoXError as error:
        return Item(line=number, settings=values, path=path, key="", job=job, fault=error)
    begins = {what: digest(file) for what in FILES if isinstance(file := values.get(what), str)}
    for text in as_list(values.get("keyframe")):
        with suppress(InputError):  # refused when the line is checked
            begins[str(text)] = digest(read_keyframe(str(text))[1])
    for entry in control_nets_of(values):
        begins[entry.path] = digest(entry.path)
        begins |= {entry.video: digest(entry.video)} if entry.video else {}
    adapters = _plain((digest(file), strength) for file, strength in job.adapters)
    asked = [values, begins, job.model_for(values), adapters, job.alpha, job.dtype]
    asked += [job.kind] if job.kind else []
    asked += [job.enhance.spec, job.enhance.model] if job.enhance.spec else []
    others = {name: file for name, file in vars(job).items() if name in ("transformer", "vae") and file}
    asked += [{name: digest(file) for name, file in others.items()}] if others else []
    low_bits = [job.storage, job.products]
    asked += low_bits if low_bits != ["auto", "full"] else []
    text = json.dumps(asked, sort_keys=True, default=str)
    if name is None:
        copies[text] += 1
        text += f" {copies[text]}" if copies[text] > 1 else ""  # equal lines are several videos
    key = hashlib.sha256(text.encode(errors="replace")).hexdigest()
    if name is not None:
        return Item(line=number, settings=values, path=folder / f"{name}.mp4", key=key, job=job, named=True)
    words = str(values.get("prompt") or "").lower() if job.metadata else ""
    words = "-".join(re.findall("[a-z0-9]+", words))[:MOST_WORDS].strip("-") or "video"
    return Item(line=number, settings=values, path=folder / f"{words}-{key[:8]}.mp4", key=key, job=job)


def _job_of(values: dict[str, Any], job: Job, download: bool) -> Job:
    """The job with what this line says of model, adapters and precision, which leave ``values``. Raises our errors."""
    model, dtype, alpha = (values.pop(name, None) for name in ("model", "dtype", "lora_alpha"))
    lora, preset = values.pop("lora", None), values.pop("preset", None)
    changes: dict[str, Any] = {}
    if (kind := values.pop("as", None)) is not None:
        changes["kind"] = check_kind(kind)
    if preset is not None:
        if not isinstance(preset, str):
            raise ConfigError(f"preset {short(preset)}: write its name")
        changes["preset"] = preset
    if model is not None:
        if not isinstance(model, str):
            raise ConfigError(f"model {short(model)}: write its name or folder")
        changes["model"] = model
    if dtype is not None:
        changes["dtype"] = choose("dtype", dtype, DTYPES)
    if lora is not None:
        each = as_list(lora)
        if not all(isinstance(text, str) for text in each):
            raise ConfigError(f"lora {short(lora)}: write NAME or NAME:STRENGTH, or a list of them")
        changes["adapters"] = tuple(read_adapter_flag(text, download) for text in each)
    if alpha is not None:
        try:
            changes["alpha"] = float(alpha)
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(f"lora-alpha {short(alpha)}: write a number") from None
    return replace(job, **changes) if changes else job


def control_nets_of(settings: Mapping[str, Any]) -> list[ControlNetEntry]:
    """The ControlNets that a line names; what cannot be read is refused when the line is checked."""
    entries = []
    for text in as_list(settings.get("control_net")):
        with suppress(ConfigError):
            entries.append(ControlNetEntry.read(str(text)))
    return entries


def _plain(adapters: Iterable[tuple[str, Strength]]) -> list[tuple[str, float | str]]:
    """Adapters and their strengths as plain values."""
    return [(name, strength.plain) for name, strength in adapters]


def _check_name(name: Any) -> None:
    """Raises ConfigError for what cannot be the name of a file in the folder of the batch."""
    if name is None:
        return
    safe = isinstance(name, str) and name and not set(name) & set('/\\:*?"<>|\0') and name.isprintable()
    if not safe or name.startswith(".") or len(name.encode()) > MOST_NAME:
        raise ConfigError(f"name {short(name)}: is not a file name; use letters and digits")
    if f"{name}.json".casefold() == FAILURES:
        raise ConfigError(f"name {name!r}: is that of the failures; choose another")


def _digest(path: str) -> str:
    """What a file or folder holds now; '' for one that cannot be read: it fails when it is checked."""
    try:
        return sha256_of(path) if Path(path).is_file() or Path(path).is_dir() else ""
    except (MediaError, OSError, ValueError):
        return ""


def read_lines(source: Path) -> list[tuple[int, Line]]:
    """Every line that says something, by its number from 1: its values, or what is wrong with it.

    Raises MediaError for a file that cannot be read, ConfigError for one that holds nothing or whose header is wrong.
    """
    text = read_small_text(source, most=MOST_BYTES, error=MediaError)
    lines = _csv_lines(source, text) if source.suffix.lower() == ".csv" else _lines(source, text)
    if not lines:
        raise ConfigError(f"{source}: holds no prompts; write one per line")
    return lines


def _lines(source: Path, text: str) -> list[tuple[int, Line]]:
    lines: list[tuple[int, Line]] = []
    for number, line in enumerate(lines_of(text), 1):
        if line.lstrip().startswith("{"):
            lines.append((number, _named(parse_json(line, f"{source}: line {number}", error=ConfigError))))
        elif line.strip():
            lines.append((number, {"prompt": line.strip()}))
    return lines


def _named(values: dict[str, Any]) -> Line:
    try:
        return named_as_options(values)
    except CogVideoXError as error:
        return error


def _csv_lines(source: Path, text: str) -> list[tuple[int, Line]]:
    """A CSV with a header of the flags' names; an empty cell says nothing."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines: list[tuple[int, Line]] = []
    try:
        header = next(reader, [])
        if isinstance(fault := _named(dict.fromkeys(header)), CogVideoXError):
            raise ConfigError(f"{source}: line 1: {fault}")
        if len({key_of(name) for name in header}) != len(header):
            raise ConfigError(f"{source}: line 1: a column stands twice; keep one")
        before = reader.line_num
        for row in reader:
            number, before = before + 1, reader.line_num
            if not any(cell.strip() for cell in row):
                continue
            if len(row) > len(header):
                fields = f"{len(row)} fields, the header has {len(header)}"
                lines.append((number, ConfigError(f"{fields}; put a prompt with commas in quotes")))
                continue
            cells = {name: cell for name, cell in zip(header, row, strict=False) if cell.strip()}
            lines.append((number, _named(cells)))
    except csv.Error as error:
        raise ConfigError(f"{source}: line {reader.line_num}: not CSV ({error}); correct it") from None
    return lines


def named_as_options(values: dict[str, Any]) -> dict[str, Any]:
    """A line's values under the names of the options; flags are written with ``-`` or ``_``.

    Raises ConfigError for a name that is no flag, with a suggestion, and for a flag of the whole run.
    """
    options: dict[str, Any] = {}
    for name, value in values.items():
        key = key_of(name)
        if key in OF_THE_RUN:
            why = ELSEWHERE.get(key, "give it on the command line")
            raise ConfigError(f"{short(name)}: is a flag of the whole run; {why}")
        if key not in line_keys():
            hint = suggest(key, line_keys())
            raise ConfigError(f"{short(name)}: unknown setting{hint}; the keys are the names of the flags")
        if isinstance(value, str) and key in (*_fields_of(bool), "continue"):
            value = _switch(name, value)
        if isinstance(value, str) and key in _fields_of(int, float):
            value = _number(value)
        if key == "continue":
            if value is None or value is False:
                continue
            if value is not True:
                raise ConfigError(f"{short(name)} {short(value)}: write true or false")
            key, value = "video_use", "continue"
        if key in options:
            raise ConfigError(f"{short(name)}: stands twice; keep one")
        options[key] = value
    return options


def key_of(name: str) -> str:
    """``--negative-prompt``, ``Negative_Prompt`` -> ``negative_prompt``."""
    return name.strip().lstrip("-").replace("-", "_").lower()


def _switch(name: str, text: str) -> bool:
    if text.strip().lower() not in YES | NO:
        raise ConfigError(f"{short(name)} {short(text)}: write true or false")
    return text.strip().lower() in YES


def _number(text: str) -> Any:
    """The number that a text is, as the command line reads it; other text as it is, for the options to refuse."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@cache
def _fields_of(*types: type) -> frozenset[str]:
    """Options whose value is of one of these types."""
    fields = GenerateOptions.model_fields.items()
    return frozenset(
        name for name, field in fields if set(types) & {field.annotation, *get_args(field.annotation)}
    )


@cache
def line_keys() -> frozenset[str]:
    """What a line may say: every option, model, adapters and precision, and the name of its file."""
    return frozenset({*GenerateOptions.model_fields, *OF_A_LINE})
