"""What is this file or folder? Its kind, preset, settings, sizes, precision, and what is wrong with it."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from cogvideox.checkpoints import inspect_adapter
from cogvideox.checkpoints.adapter import is_adapter
from cogvideox.checkpoints.diffusers import load_schedule, meta_names, read_index
from cogvideox.checkpoints.families import (
    FAMILY_NAMES,
    check_floats,
    family_of_config,
    family_of_file,
    family_of_tensors,
)
from cogvideox.checkpoints.fill import check_finite, check_names
from cogvideox.checkpoints.hub import find_folder
from cogvideox.checkpoints.record import NAME, read_record
from cogvideox.checkpoints.sat import find_parts, is_sat, read_sat
from cogvideox.checkpoints.specs import STEM, read_transformer_config, read_vae_config
from cogvideox.checkpoints.tensors import Tensors, link_root, read_file, read_folder, read_json
from cogvideox.checkpoints.text import TIED, read_t5_config, text_names
from cogvideox.checkpoints.trainers import network_in, recognise
from cogvideox.errors import CogVideoXError
from cogvideox.files import inside
from cogvideox.files.digest import sha256_of
from cogvideox.presets import PRESETS, guess_preset
from cogvideox.spec import kind_of


@dataclass(frozen=True)
class TensorSet:
    """One set of tensors: its place, how many there are, what they weigh, and their precision."""

    name: str
    tensors: int
    parameters: int
    bytes: int
    dtypes: dict[str, int]
    files: list[str]


@dataclass
class CheckpointReport:
    """What was found, ready to be shown as text or JSON; ``problems`` is empty for a sound checkpoint."""

    path: str
    kind: str = "unknown"
    preset: str = ""
    task: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    parts: list[TensorSet] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    todo: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.problems

    def to_json(self) -> str:
        """Everything, as JSON."""
        return json.dumps({**asdict(self), "ok": self.ok}, indent=2, default=str)

    def to_text(self) -> str:
        """A few lines for people."""
        lines = [f"{self.path}", f"  {'kind':<10}{self.kind}"]
        lines += [f"  {'preset':<10}{self.preset}"] if self.preset else []
        lines += [f"  {'task':<10}{self.task}"] if self.task else []
        for part in self.parts:
            types = ", ".join(f"{name} x {count}" for name, count in part.dtypes.items())
            lines.append(
                f"  {part.name:<14}{part.tensors:>5} tensors {part.parameters:>15,} values "
                f"{part.bytes / 2**20:>11,.1f} MiB  {types}  in {len(part.files)} file(s)"
            )
        lines += self._lora_as_text()
        lines += [f"  {'checked':<10}{', '.join(self.checked)}"] if self.checked else []
        lines += [f"  problem   {problem}" for problem in self.problems] or [
            f"  to use it {self.todo}" if self.todo else "  no problems found"
        ]
        return "\n".join(lines)

    def _lora_as_text(self) -> list[str]:
        return inspect_adapter.as_text(self.config["lora"]) if "lora" in self.config else []

    __str__ = to_text


def inspect(path: str | Path, check: bool = False) -> CheckpointReport:
    """Look at a model folder, a part, a SAT checkpoint or an adapter without making a model of it.

    ``check`` reads every tensor: NaN and Inf, and the digests in ``cogvideox.json``. What is wrong goes into
    ``problems``; only a path that leads nowhere raises (CheckpointError).
    """
    place = find_folder(path)
    report = CheckpointReport(str(place))
    try:
        _look(place, report, check)
    except CogVideoXError as error:
        report.problems.append(str(error))
    return report


def _look(place: Path, report: CheckpointReport, check: bool) -> None:
    if (container := family_of_file(place)) is not None:
        report.kind = container.name
        raise container.refusal(place)
    if place.is_dir() and not is_model_or_part(place) and _look_at_trained(place, report, check):
        return
    if is_sat(place):
        _look_at_sat(place, report, check)
    elif place.is_file():
        _look_at_file(place, report, check)
    elif (place / "model_index.json").is_file():
        _look_at_model(place, report, check)
    elif (place / "config.json").is_file():
        _look_at_part(place, report, check)
    elif parts := find_parts(place):
        for part in parts.values():
            _look_at_sat(part, report, check)
        report.kind = "SAT model"
        report.todo = f"cogvideox convert {place} OUT --to diffusers makes a model folder of it"
    elif found := sorted(place.glob("*.safetensors")):
        for file in found:
            _look_at_file(file, report, check)
    else:
        held = ", ".join(sorted(child.name for child in place.iterdir())[:8])
        report.problems.append(f"{place}: nothing that is a checkpoint; the folder holds {held or 'nothing'}")


def is_model_or_part(place: Path) -> bool:
    """Whether a folder has the files of a model folder or of a part of one."""
    return any((place / name).is_file() for name in ("model_index.json", "config.json", NAME))


def _look_at_trained(place: Path, report: CheckpointReport, check: bool, weigh: bool = True) -> bool:
    """Look at what a trainer left; false when it is of SAT, an adapter, or not known."""
    found = recognise(place)
    if found is None or (found.weights is None and found.model is None and place.is_file()):
        return False
    if found.weights is None:
        report.kind = found.kind
        report.problems.append(f"{place}: {found.kind}, not a model: {found.do}")
        return True
    with warnings.catch_warnings(record=True) as beside:
        warnings.simplefilter("always")
        tensors = network_in(place)
    if tensors is None:
        if not place.is_dir() or is_sat(place):
            return False
        report.kind = found.kind
        report.problems.append(
            f"{place}: {found.kind}; it holds no transformer: go on with what wrote it, or name another folder"
        )
        return True
    report.kind = f"{found.kind}, with the network of CogVideoX"
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    report.preset = next((n for n, row in PRESETS.items() if meta_names(row.transformer) == shapes), "")
    if weigh:
        _weigh(place.name, tensors, report, check)
    report.checked += [" ".join(str(note.message).split()) for note in beside]
    report.todo = found.do
    if place.is_dir():
        report.problems.append(f"{place}: {found.kind}, not a model: {found.do}")
    return True


def _look_at_model(folder: Path, report: CheckpointReport, check: bool) -> None:
    report.kind = "model folder"
    index = read_index(folder)
    record = read_record(folder)
    report.config["record"] = record.model_dump(mode="json", exclude_none=True)
    for part in ("transformer", "vae", "text_encoder"):
        if (folder / part).is_dir():
            _try(report, lambda part=part: _look_at_part(folder / part, report, check))
        elif index.get(part, [None, None])[1] is not None:
            report.problems.append(f"{folder}: {part}/ is missing, though model_index.json names it")
    _try(report, lambda: report.config.update(schedule=load_schedule(folder).config.model_dump(mode="json")))
    report.kind = "model folder" if report.kind not in FAMILY_NAMES else report.kind
    report.preset = record.preset or report.preset
    report.task = record.kind or report.task
    if check:
        _check_digests(folder, record.files, report)


def _look_at_part(folder: Path, report: CheckpointReport, check: bool) -> None:
    values = read_json(folder / "config.json")
    if (family := family_of_config(values, own=(folder.parent / NAME).is_file())) is not None:
        report.kind = family.name
        raise family.refusal(folder)
    name = str(values.get("_class_name") or (values.get("architectures") or ["unknown"])[0])
    if name == "AutoencoderKLCogVideoX":
        report.kind, vae = "vae", read_vae_config(folder)
        report.config["vae"] = vae.model_dump(mode="json")
        _weigh(folder.name, read_folder(folder, STEM), report, check, meta_names(vae))
    elif name == "CogVideoXTransformer3DModel":
        report.kind, transformer = "transformer", read_transformer_config(folder)
        report.config["transformer"] = transformer.model_dump(mode="json")
        report.preset, report.task = guess_preset(transformer), kind_of(transformer)
        _weigh(folder.name, read_folder(folder, STEM), report, check, meta_names(transformer))
    elif name == "T5EncoderModel":
        report.kind, config = "text encoder", read_t5_config(folder / "config.json")
        report.config["text_encoder"] = config.model_dump(mode="json")
        tensors = read_folder(folder, "model")
        tensors.entries.pop(TIED, None)
        _weigh(folder.name, tensors, report, check, text_names(config))
    else:
        report.problems.append(f"{folder / 'config.json'}: {name} is not a part of this kind of model")


def _look_at_sat(place: Path, report: CheckpointReport, check: bool) -> None:
    if place.is_file() and _look_at_trained(place, report, check):
        return
    sat = read_sat(place)
    report.kind = f"SAT {sat.part}"
    report.todo = f"cogvideox convert {place} OUT --to diffusers makes a model folder of it"
    _weigh(f"sat {sat.part}", sat.tensors, report, check, files=[sat.path.name])
    if sat.part == "lora":
        _look_at_adapter(sat.path, report)
    else:
        learned = any(name.endswith("pos_embed.pos_embedding") for name in sat.tensors)
        sat.ours(learned_positions=learned)
        report.checked.append("names")


def _look_at_file(file: Path, report: CheckpointReport, check: bool) -> None:
    tensors = read_file(file)
    family = family_of_tensors(tensors.shapes, tensors.dtypes, tensors.metadata)
    _weigh(file.name, tensors, report, check, floats=family is None)
    if family is not None:
        report.kind = family.name
        raise family.refusal(file)
    if is_adapter(tensors):
        report.kind = inspect_adapter.kind_of_adapter(tensors)
        _look_at_adapter(file, report)
    elif not _look_at_trained(file, report, check=False, weigh=False):
        report.kind = "safetensors file"
        report.todo = "nothing here is known: it holds no network of CogVideoX and no adapter"


def _look_at_adapter(file: Path, report: CheckpointReport) -> None:
    report.config["lora"], problems = inspect_adapter.facts_of(file)
    report.problems += problems


def _weigh(
    name: str,
    tensors: Mapping[str, Tensor],
    report: CheckpointReport,
    check: bool,
    expected: Mapping[str, tuple[int, ...]] | None = None,
    files: list[str] | None = None,
    floats: bool = True,
) -> None:
    if isinstance(tensors, Tensors):
        sizes = [(entry.elements, entry.bytes, entry.dtype) for entry in tensors.entries.values()]
        files = sorted({entry.file.name for entry in tensors.entries.values()})
    else:
        sizes = [
            (value.numel(), value.numel() * value.element_size(), value.dtype) for value in tensors.values()
        ]
    types = Counter(str(dtype).removeprefix("torch.") for _, _, dtype in sizes)
    parameters, weight = sum(size[0] for size in sizes), sum(size[1] for size in sizes)
    report.parts.append(
        TensorSet(name, len(sizes), parameters, weight, dict(types.most_common()), files or [])
    )
    if floats and isinstance(tensors, Tensors):
        _try(report, lambda: check_floats(tensors.shapes, tensors.dtypes, name, tensors.metadata))
    if expected is not None and isinstance(tensors, Tensors):
        _try(report, lambda: check_names(expected, tensors.shapes, name))
        report.checked.append(f"{name} names and shapes")
    if check:
        _try(report, lambda: check_finite(tensors, name))
        report.checked.append(f"{name} finite")


def _check_digests(folder: Path, files: Mapping[str, str], report: CheckpointReport) -> None:
    root = link_root(folder)
    for name, digest in files.items():
        file = folder / name
        if not inside(file, root) or not file.is_file():
            report.problems.append(f"{file}: named in cogvideox.json, but not there")
        elif sha256_of(file) != digest:
            report.problems.append(f"{file}: is not the file that was saved (SHA-256 differs); copy it again")
    if files:
        report.checked.append(f"{len(files)} digests")


def _try(report: CheckpointReport, look: Any) -> None:
    try:
        look()
    except CogVideoXError as error:
        report.problems.append(str(error))
