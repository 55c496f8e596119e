"""SwissArmyTransformer checkpoints, what the models were trained in: read without running code, and written.

A SAT file is a pickle, read by ``pickled`` and mapped rather than loaded: a 20 GB file costs no memory until a tensor
is used. It holds weights alone. In the SAT folders that we write, the small files of the diffusers layout stand beside
them, which SAT does not look at, so that reading them back guesses nothing:

    transformer/  latest, 1/mp_rank_00_model_states.pt, config.json      vae/  3d-vae.pt, config.json
    scheduler/    text_encoder/    tokenizer/    cogvideox.json
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cogvideox.brief import Brief
from cogvideox.checkpoints.families import check_floats
from cogvideox.checkpoints.folders import copy_file
from cogvideox.checkpoints.keymap import Keymap, sat_transformer, sat_vae
from cogvideox.checkpoints.pickled import is_plain, load_pickled, unwrapped
from cogvideox.checkpoints.record import read_record
from cogvideox.checkpoints.specs import TRANSFORMER_CLASS, VAE_CLASS, read_transformer_config, read_vae_config
from cogvideox.checkpoints.tensors import is_finite, link_root, owned, read_json
from cogvideox.errors import CheckpointError, few
from cogvideox.files import check_link, read_small_text, short
from cogvideox.files.atomic import atomic_file
from cogvideox.transformer import TransformerConfig
from cogvideox.vae import VAEConfig

Component = Literal["transformer", "vae", "lora"]
SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
STATES = "mp_rank_00_model_states.pt"
PREFIX = "model.diffusion_model."


@dataclass(frozen=True, repr=False)
class SatFile(Brief):
    """What a SAT file holds: which component of the model, and its tensors under SAT's own names."""

    path: Path
    component: Component
    tensors: dict[str, Tensor]

    @property
    def has_positions(self) -> bool:
        """Whether a table of positions is among the tensors: a weight of 5B-I2V, frozen in 2B."""
        return any(name.endswith("pos_embed.pos_embedding") for name in self.tensors)

    def ours(self, stages: int = 4, learned_positions: bool = False) -> dict[str, Tensor]:
        """The tensors under our names; raises CheckpointError on names nobody knows."""
        return keymap(self.component, stages, learned_positions).to_ours(self.tensors)


def keymap(component: Component, stages: int = 4, learned_positions: bool = False) -> Keymap:
    """The rename rules of one component of the model."""
    return sat_vae(stages) if component == "vae" else sat_transformer(learned_positions)


def read_sat(path: str | Path) -> SatFile:
    """Read a SAT file, or a SAT training folder (``latest`` names the iteration inside). Raises CheckpointError when it
    is cut, is not one, or would have to run code to be read."""
    file = find_file(Path(path))
    values = unwrapped(load_pickled(file))
    odd = [str(name) for name, value in values.items() if not isinstance(name, str) or not is_plain(value)]
    if odd or not values:
        raise CheckpointError(
            f"{file}: {'entries that are not plain tensors: ' + few(odd) if odd else 'holds no tensors'}"
        )
    beside = [name for name in values if not name.startswith(PREFIX)]
    if beside and len(beside) < len(values):  # what SAT trains the network with, and saves along with it
        warnings.warn(
            f"{file}: {len(beside)} tensors beside the network are passed over: {few(beside)}", stacklevel=3
        )
        values = {name: value for name, value in values.items() if name.startswith(PREFIX)}
    component = _component_of(file, values)
    check_floats(values, file)
    return SatFile(file, component, values)


def find_file(path: Path) -> Path:
    """The weights file of a SAT path: itself, ``<latest>/mp_rank_00_model_states.pt``, or ``3d-vae.pt``."""
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    if not path.is_dir():
        if not path.is_file():
            raise CheckpointError(f"{path}: not a regular file")
        return path
    root, latest = link_root(path), path / "latest"
    if latest.exists():
        tag = read_small_text(latest, root=root, most=4096, error=CheckpointError).strip()
        if not tag or Path(tag).name != tag or tag == "..":
            raise CheckpointError(f"{latest}: {short(tag)} is not the name of a folder beside it")
        inner = path / tag
        held = [inner / name for name in (STATES, f"pytorch_model/{STATES}") if (inner / name).is_file()]
        if not held:
            raise CheckpointError(
                f"{latest}: names {tag}, but {inner / STATES} is missing; copy the folder again"
            )
        check_link(held[0], root, CheckpointError)
        return held[0]
    for name in (STATES, "3d-vae.pt"):
        if (path / name).is_file():
            check_link(path / name, root, CheckpointError)
            return path / name
    raise CheckpointError(f"{path}: not a SAT folder: holds neither 'latest', {STATES} nor 3d-vae.pt")


def is_sat(path: Path) -> bool:
    """Whether a path looks like one component of a SAT checkpoint; nothing is read."""
    if path.is_file():
        return path.suffix in SUFFIXES
    return any((path / name).is_file() for name in ("latest", STATES, "3d-vae.pt"))


def find_components(folder: Path) -> list[Path]:
    """The folders of transformer and VAE in a whole SAT release; empty when there is none. Raises CheckpointError."""
    names = ("transformer", "transformer_t2v", "transformer_i2v", "vae")
    held = [folder / name for name in names if is_sat(folder / name)]
    transformers = [path.name for path in held if path.name != "vae"]
    if len(transformers) > 1:
        raise CheckpointError(f"{folder}: holds {' and '.join(transformers[:2])}; name one of them")
    return held


def write_sat(
    path: str | Path, component: Component, tensors: Mapping[str, Tensor], overwrite: bool = False
) -> Path:
    """Write tensors under SAT names as the file SAT reads; returns it.

    ``path`` is the component's folder: a transformer or adapter becomes ``latest`` and
    ``1/mp_rank_00_model_states.pt``, a VAE becomes ``3d-vae.pt``. Raises CheckpointError for NaN or Inf.
    """
    bad = [name for name, tensor in tensors.items() if not is_finite(tensor)]
    if bad:
        raise CheckpointError(f"{path}: not written: NaN or Inf in {few(bad)}")
    own = {name: owned(tensor) for name, tensor in tensors.items()}
    folder = Path(path)
    file = folder / "3d-vae.pt" if component == "vae" else folder / "1" / STATES
    with atomic_file(file, overwrite) as work:
        torch.save({"state_dict" if component == "vae" else "module": own}, work)
    if component != "vae":
        (folder / "latest").write_text("1", encoding="utf-8")
    return file


def settings_beside(file: SatFile) -> TransformerConfig | VAEConfig | None:
    """The settings that stand beside a SAT file, None when there are none."""
    wanted = VAE_CLASS if file.component == "vae" else TRANSFORMER_CLASS
    for folder in (file.path.parent, file.path.parent.parent):
        config = folder / "config.json"
        if config.is_file() and read_json(config).get("_class_name") == wanted:
            return read_vae_config(folder) if file.component == "vae" else read_transformer_config(folder)
    return None


def keep_settings(component: Path, target: Path) -> None:
    """Copy a component's settings into ``target``, and the record above it without its digests of other files."""
    copy_file(component / "config.json", target / "config.json", link_root(component))
    read_record(component.parent).changed(files={}).write(target.parent)


def _component_of(file: Path, names: Mapping[str, Tensor]) -> Component:
    shorts = [name.removeprefix(PREFIX) for name in names]
    if any(".matrix_A." in name or ".matrix_B." in name for name in shorts):
        return "lora"
    if any(name.startswith(("transformer.", "mixins.", "time_embed.")) for name in shorts):
        return "transformer"
    if any(name.startswith(("encoder.", "decoder.")) for name in shorts):
        return "vae"
    raise CheckpointError(f"{file}: neither a SAT transformer nor a SAT VAE: it holds {few(shorts)}")
