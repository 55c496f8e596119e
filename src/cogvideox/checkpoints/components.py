"""Networks that take the place of those of a model folder: a folder, or a single file as others publish it.

Many weights are published as a transformer alone (Netflix VOID, RIFLEx, most single files). ``Components`` names them
beside the model folder that has the rest. Which settings they have, and whether they fit: ``specs.with_components``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cogvideox.checkpoints.families import ALONE, family_of_config, family_of_tensors
from cogvideox.checkpoints.gguf_file import is_gguf
from cogvideox.checkpoints.hub import find_folder
from cogvideox.checkpoints.network_files import read_network, read_network_file
from cogvideox.checkpoints.tensors import Tensors, read_json
from cogvideox.errors import CheckpointError, few
from cogvideox.files.digest import sha256_of

STEM, TEXT_STEM = "diffusion_pytorch_model", "model"
"""How the weights files of transformer and VAE begin, and those of a text encoder."""
STEMS = {"transformer": STEM, "vae": STEM, "text_encoder": TEXT_STEM}


@dataclass(frozen=True)
class NetworkFiles:
    """Where one network is: a folder with its ``config.json`` and weights, or a single file without settings.

    ``name`` is its folder's name in a model. ``given``: it takes the place of the model folder's own.
    """

    name: str
    where: Path
    given: bool = False

    @classmethod
    def find(cls, name: str, path: str | Path, *, download: bool = True) -> NetworkFiles:
        """From what a person named: a file, a network's folder, a model folder, or a hub id of one.

        Raises CheckpointError for what holds no such network.
        """
        where = find_folder(path, download=download)
        if where.is_file():
            around = where.parent
            beside = where.name.startswith(STEMS[name]) and (around / "config.json").is_file()
            return cls(name, around if beside else where, given=True)
        for folder in (where / name, where):
            if (folder / "config.json").is_file():
                return cls(name, folder, given=True)
        files = [*where.glob("*.safetensors"), *where.glob("*.gguf")]
        if len(files) == 1:
            return cls(name, files[0], given=True)
        held = few(sorted(child.name for child in where.iterdir())) or "nothing"
        raise CheckpointError(
            f"{where}: no {name.replace('_', ' ')}: it has no config.json and not one weights file; it holds {held}"
        )

    @property
    def config(self) -> Path | None:
        """Its settings; None for a single file."""
        return self.where / "config.json" if self.where.is_dir() else None

    def tensors(self, variant: str | None = None) -> Tensors:
        """Its tensors by name, none of them read. Raises CheckpointError.

        ``variant`` as in ``read_folder``; text encoders and what was named by itself have none.
        """
        if self.given or self.name == "text_encoder":
            variant = None
        if self.where.is_file():
            return read_network_file(self.where)
        return read_network(self.where, STEMS[self.name], variant)

    def weights(self) -> list[Path]:
        """The files that hold its weights, sorted."""
        if self.where.is_file():
            return [self.where]
        return sorted([*self.where.rglob("*.safetensors"), *self.where.rglob("*.gguf")])

    def nbytes(self, variant: str | None = None) -> int:
        """The size of its weights files, those of other variants left out."""
        files = self.weights() if self.given else sorted(self.where.glob("*.safetensors"))
        wants = [f".{variant}" in file.name if variant else "." not in file.stem for file in files]
        return sum(file.stat().st_size for file, want in zip(files, wants, strict=True) if want or self.given)

    def digests(self) -> dict[str, str]:
        """The SHA-256 of its weights files, as records name them."""
        root = self.where.parent if self.where.is_file() else self.where
        return {
            f"{self.name}/{file.relative_to(root).as_posix()}": sha256_of(file) for file in self.weights()
        }

    def check_known(self) -> None:
        """Raise CheckpointError, naming what it is, for a single file of weights that are not run."""
        family = family_of_tensors(self.tensors()) if self.config is None else None
        if self.config is not None:
            family = family_of_config(read_json(self.config))
        if family is not None and family not in ALONE:
            raise family.refusal(self.where)


@dataclass(frozen=True)
class Components:
    """Networks in place of those of a model folder; None: the folder's own. ``packed_text``: a T5 in a GGUF file."""

    transformer: NetworkFiles | None = None
    vae: NetworkFiles | None = None
    text_encoder: NetworkFiles | None = None
    packed_text: Path | None = None

    @classmethod
    def find(
        cls,
        transformer: str | Path | None = None,
        vae: str | Path | None = None,
        text_encoder: str | Path | None = None,
        *,
        download: bool = True,
    ) -> Components:
        """From what a person named. Raises CheckpointError for what is not there, or is not run."""
        packed = Path(text_encoder) if text_encoder is not None and is_packed(text_encoder) else None
        paths = {"transformer": transformer, "vae": vae, "text_encoder": None if packed else text_encoder}
        files = {
            name: NetworkFiles.find(name, path, download=download)
            for name, path in paths.items()
            if path is not None
        }
        for each in files.values():
            each.check_known()
        return cls(**files, packed_text=packed)

    def files(self, folder: Path) -> dict[str, NetworkFiles]:
        """Where each network of a model is: as given, or in its folder."""
        return {name: getattr(self, name) or NetworkFiles(name, folder / name) for name in STEMS}

    @property
    def given(self) -> dict[str, NetworkFiles]:
        """Those that were named, a packed text encoder left aside."""
        return {name: each for name in STEMS if (each := getattr(self, name)) is not None}


NO_COMPONENTS = Components()


def is_packed(path: str | Path) -> bool:
    """Whether a text encoder is a GGUF file, by its ending or its first bytes."""
    return str(path).lower().endswith(".gguf") or is_gguf(Path(path))
