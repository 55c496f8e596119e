"""A low-rank adapter as a value, and the files it travels in: diffusers, PEFT, kohya and SAT.

    W + scale * alpha / rank * B A        A: [rank, in]   B: [out, rank]

The same two matrices mean different things under another ``alpha``, and guessing it is the best known way to
get a LoRA that "does nothing": alpha comes from the file, or from the caller, or reading stops.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from cogvideox.checkpoints.keymap import few
from cogvideox.checkpoints.sat import PREFIX, SUFFIXES, keymap, read_sat, write_sat
from cogvideox.checkpoints.tensors import Tensors, read_file, read_json, write_file
from cogvideox.errors import CheckpointError
from cogvideox.files.atomic import atomic_file

Form = Literal["diffusers", "peft", "sat"]
FILE = "pytorch_lora_weights.safetensors"
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
METADATA = "lora_adapter_metadata"
DIFFUSERS_PREFIX, PEFT_PREFIX = "transformer.", "base_model.model."
SIDES = {"lora_A": "a", "lora_down": "a", "lora.down": "a", "lora_B": "b", "lora_up": "b", "lora.up": "b"}
_SIDE = re.compile(
    r"(?P<module>.+)\.(?P<side>lora_A|lora_B|lora_down|lora_up|lora\.down|lora\.up)(\.[\w-]+)?\.weight"
)
_KOHYA = re.compile(r"lora_(?:unet|transformer)_transformer_blocks_(\d+)_(.+)")
_KOHYA_LEAVES = {
    name.replace(".", "_"): name
    for name in ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2",
                 "norm1.linear", "norm2.linear")
}  # fmt: skip
_SAT_QKV = "transformer.layers.{i}.attention.query_key_value.matrix_{side}.{p}"
_SAT_DENSE = "transformer.layers.{i}.attention.dense.matrix_{side}.{p}"
_SAT_KEY = re.compile(r"transformer\.layers\.(\d+)\.attention\.(query_key_value|dense)\.matrix_([AB])\.(\d+)")


class AlphaUnknownError(CheckpointError):
    """A sound adapter whose file does not say its alpha."""


@dataclass(frozen=True)
class Pair:
    """The two matrices of one linear layer, and the alpha they were trained with."""

    a: Tensor
    b: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """Rows of A, columns of B."""
        return self.a.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """Outputs and inputs of the layer they are for."""
        return self.b.shape[0], self.a.shape[1]

    @property
    def scaling(self) -> float:
        """What B A is multiplied by."""
        return self.alpha / self.rank


@dataclass(frozen=True)
class Adapter:
    """Pairs by the name of the linear layer in our transformer."""

    pairs: dict[str, Pair]

    @property
    def ranks(self) -> list[int]:
        """The ranks that occur."""
        return sorted({pair.rank for pair in self.pairs.values()})

    def delta_norm(self) -> float:
        """The Frobenius norm of all changes to the weights; 0 means that the adapter does nothing."""
        return sum(_delta_square(pair) for pair in self.pairs.values()) ** 0.5


def read_adapter(path: str | Path, alpha: float | None = None) -> Adapter:
    """Read an adapter from a file or folder in any of the four forms; the form is recognised by its names.

    ``alpha`` overrides the file's. Raises CheckpointError for unknown names, a pair that is not whole,
    matrices that do not fit each other, and a file that does not say its alpha when none is given.
    """
    file = find_adapter(Path(path))
    if file.suffix in SUFFIXES:
        return _from_sat(file, alpha)
    tensors = read_file(file)
    halves: dict[str, dict[str, Tensor]] = {}
    alphas: dict[str, float] = {}
    unknown = []
    for name in tensors:
        if name.endswith(".alpha") and tensors.entries[name].elements == 1:
            alphas[_module(name.removesuffix(".alpha"))] = float(tensors[name])
            continue
        found = _SIDE.fullmatch(name)
        if found is None:
            unknown.append(name)
            continue
        halves.setdefault(_module(found["module"]), {})[SIDES[found["side"]]] = tensors[name]
    if unknown:
        raise CheckpointError(f"{file}: not tensors of a LoRA: {few(unknown)}")
    given = _alphas_of(file, tensors)
    known = {module: alpha if alpha is not None else alphas.get(module, given(module)) for module in halves}
    unsaid = [module for module, value in known.items() if value is None]
    if unsaid:
        ranks = sorted({pair["a"].shape[0] for pair in halves.values() if "a" in pair})
        raise AlphaUnknownError(
            f"{file}: does not say its alpha (rank {few([str(rank) for rank in ranks])}); pass alpha "
            "(--lora-alpha): the value it was trained with, or the rank for an effective scale of 1, as "
            "diffusers assumes"
        )
    return Adapter(
        {module: _pair(file, module, half, float(known[module] or 0)) for module, half in halves.items()}
    )


def write_adapter(
    adapter: Adapter, path: str | Path, form: Form = "diffusers", overwrite: bool = False
) -> Path:
    """Write an adapter with its rank and alpha; returns the file.

    ``path`` is a folder, or for ``diffusers`` also a ``.safetensors`` file. SAT has no place for alpha (it is
    always 1), so B is multiplied by alpha there: exact when alpha is a power of two.
    """
    path = Path(path)
    if not adapter.pairs:
        raise CheckpointError(f"{path}: an adapter without layers is not written")
    if form == "sat":
        return write_sat(path, "lora", _to_sat(adapter), overwrite)
    prefix = DIFFUSERS_PREFIX if form == "diffusers" else PEFT_PREFIX
    tensors = {}
    for module, pair in adapter.pairs.items():
        tensors[f"{prefix}{module}.lora_A.weight"] = pair.a
        tensors[f"{prefix}{module}.lora_B.weight"] = pair.b
    settings = _settings(adapter)
    if form == "diffusers":
        metadata = {
            METADATA: json.dumps(
                {f"transformer.{key}": value for key, value in settings.items()}, sort_keys=True
            )
        }
        file = path if path.suffix == ".safetensors" else path / FILE
    else:
        metadata, file = {}, path / PEFT_FILE
    with atomic_file(file, overwrite) as work:
        write_file(work, tensors, metadata)
    if form == "peft":
        with atomic_file(path / PEFT_CONFIG, overwrite) as work:
            work.write_text(json.dumps({"peft_type": "LORA", **settings}, indent=2) + "\n", encoding="utf-8")
    return file


def is_adapter(names: Iterable[str]) -> bool:
    """Whether a file with these tensor names holds an adapter."""
    return any(_SIDE.fullmatch(name) or ".matrix_A." in name for name in names)


def find_adapter(path: Path) -> Path:
    """The file of an adapter, given it or a folder that holds one. Raises CheckpointError."""
    if path.is_dir():
        for name in (FILE, PEFT_FILE):
            if (path / name).is_file():
                return path / name
        if (path / "latest").is_file():
            return read_sat(path).path
        several = sorted(path.glob("*.safetensors"))
        if len(several) == 1:
            return several[0]
        raise CheckpointError(f"{path}: holds {len(several)} safetensors files and no {FILE}; name one file")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    return path


def _module(name: str) -> str:
    """Our name of a layer from that of any form."""
    for prefix in (PEFT_PREFIX, DIFFUSERS_PREFIX, "diffusion_model."):
        name = name.removeprefix(prefix)
    kohya = _KOHYA.fullmatch(name)
    if kohya and kohya[2] in _KOHYA_LEAVES:
        return f"transformer_blocks.{kohya[1]}.{_KOHYA_LEAVES[kohya[2]]}"
    # before PEFT, diffusers kept adapters in attention processors
    return re.sub(
        r"\.processor\.(to_\w+)_lora$", lambda m: f".{m[1]}.0" if m[1] == "to_out" else f".{m[1]}", name
    )


def _pair(file: Path, module: str, half: Mapping[str, Tensor], alpha: float) -> Pair:
    for side, name in (("a", "lora_A"), ("b", "lora_B")):
        if side not in half:
            raise CheckpointError(f"{file}: {module} has no {name}: the pair is not whole")
    a, b = half["a"], half["b"]
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or not a.shape[0]:
        raise CheckpointError(
            f"{file}: {module}: lora_A {list(a.shape)} and lora_B {list(b.shape)} do not fit each other"
        )
    return Pair(a, b, alpha)


def _alphas_of(file: Path, tensors: Tensors) -> Any:
    """From a layer to the alpha that the file's metadata, or the PEFT config beside it, gives it."""
    settings: dict[str, Any] = {}
    if METADATA in tensors.metadata:
        try:
            values = json.loads(tensors.metadata[METADATA])
            settings = {key.removeprefix("transformer."): value for key, value in values.items()}
        except (ValueError, AttributeError):
            raise CheckpointError(f"{file}: metadata {METADATA!r} is not a JSON object; pass alpha") from None
    elif (file.parent / PEFT_CONFIG).is_file() and file.name == PEFT_FILE:
        settings = read_json(file.parent / PEFT_CONFIG)
    whole = settings.get("lora_alpha")
    for key in ("lora_alpha", "alpha", "ss_network_alpha"):
        whole = tensors.metadata.get(key) if whole is None else whole
    pattern = settings.get("alpha_pattern") or {}
    rank_scaled = bool(settings.get("use_rslora"))
    if rank_scaled or settings.get("use_dora"):
        raise CheckpointError(
            f"{file}: rank-stabilised and DoRA adapters are not read; merge it with the tool that made it"
        )

    def alpha(module: str) -> float | None:
        own = next((value for key, value in pattern.items() if re.fullmatch(rf"(.*\.)?{key}", module)), None)
        try:
            return None if own is None and whole is None else float(whole if own is None else own)
        except (TypeError, ValueError):
            raise CheckpointError(
                f"{file}: alpha {whole!r} in its metadata is not a number; pass alpha"
            ) from None

    return alpha


def _settings(adapter: Adapter) -> dict[str, Any]:
    """What PEFT needs to know: rank and alpha of the most layers, and the layers that differ."""
    ranks = [pair.rank for pair in adapter.pairs.values()]
    alphas = [pair.alpha for pair in adapter.pairs.values()]
    rank, alpha = max(set(ranks), key=ranks.count), max(set(alphas), key=alphas.count)
    pairs = adapter.pairs.items()
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {re.escape(name): pair.rank for name, pair in pairs if pair.rank != rank},
        "alpha_pattern": {re.escape(name): pair.alpha for name, pair in pairs if pair.alpha != alpha},
        "target_modules": sorted(adapter.pairs),
        "lora_dropout": 0.0,
        "bias": "none",
    }


def _from_sat(file: Path, alpha: float | None) -> Adapter:
    """SAT keeps q, k, v as partitions 0, 1, 2 of one layer, and its alpha is always 1."""
    halves: dict[str, dict[str, Tensor]] = {}
    unknown = []
    sat = read_sat(file)
    for name, tensor in sat.tensors.items():
        short = name.removeprefix(PREFIX)
        found = _SAT_KEY.fullmatch(short)
        if found is None:
            # a fine-tuning run saves the frozen weights too, under ``original``
            base = short.replace(".original.", ".")
            if not keymap("transformer").knows(base):
                unknown.append(name)
            continue
        layer, kind, side, part = found.groups()
        leaf = "to_out.0" if kind == "dense" else f"to_{'qkv'[int(part)]}" if int(part) < 3 else None
        if leaf is None or (kind == "dense" and part != "0"):
            unknown.append(name)
            continue
        halves.setdefault(f"transformer_blocks.{layer}.attn1.{leaf}", {})[side.lower()] = tensor
    if unknown:
        raise CheckpointError(f"{file}: unknown tensors: {few(unknown)}")
    if not halves:
        raise CheckpointError(f"{file}: holds no matrix_A and matrix_B: not a SAT LoRA")
    value = 1.0 if alpha is None else alpha
    return Adapter({module: _pair(file, module, half, value) for module, half in sorted(halves.items())})


def _to_sat(adapter: Adapter) -> dict[str, Tensor]:
    found = {}
    wrong = []
    for module, pair in adapter.pairs.items():
        name = re.fullmatch(r"transformer_blocks\.(\d+)\.attn1\.to_(q|k|v|out\.0)", module)
        if name is None:
            wrong.append(module)
            continue
        pattern = _SAT_DENSE if name[2] == "out.0" else _SAT_QKV
        part = "0" if name[2] == "out.0" else str("qkv".index(name[2]))
        for side, tensor in (("A", pair.a), ("B", pair.b if pair.alpha == 1.0 else pair.b * pair.alpha)):
            found[PREFIX + pattern.replace("{i}", name[1]).replace("{side}", side).replace("{p}", part)] = (
                tensor
            )
    if wrong:
        raise CheckpointError(
            f"SAT adapts q, k, v and the attention output only; these have no place: {few(wrong)}"
        )
    return found


def _delta_square(pair: Pair) -> float:
    # |B A|² = trace((Bᵀ B)(A Aᵀ)): rank x rank products, never out x in
    a, b = pair.a.float(), pair.b.float()
    return float(((b.T @ b) * (a @ a.T)).sum().clamp_min(0)) * pair.scaling**2
