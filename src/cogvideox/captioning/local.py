"""Small networks that write captions, and their folders: ``config.json``, ``model.safetensors``, ``tokenizer/``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cogvideox.captioning.network import CaptionerConfig, CaptionerNetwork
from cogvideox.config import Config
from cogvideox.errors import CheckpointError, MediaError
from cogvideox.files import read_json
from cogvideox.files.digest import sha256_of
from cogvideox.text import T5, T5Config, Tokenizer
from cogvideox.text.decoder import greedy_decode
from cogvideox.text.tokenizer import END

WEIGHTS, SETTINGS = "model.safetensors", "config.json"
SHIPPED = Path(__file__).resolve().parents[1] / "shipped" / "captioner"


Net = TypeVar("Net", bound=nn.Module)


class CaptionModel:
    """A network that sees a clip and writes a caption."""

    def __init__(self, network: CaptionerNetwork, tokenizer: Tokenizer, name: str) -> None:
        self.network, self.tokenizer, self.name = network.eval(), tokenizer, name

    def __call__(self, frames: np.ndarray) -> str:
        """``uint8 [t, h, w, 3]``, the whole clip, any size and length -> one caption."""
        pictures = torch.from_numpy(sample_frames(frames, self.network.config))[None]
        n = self.network
        with torch.no_grad():
            rows = greedy_decode(n.shared, n.decoder, n.lm_head, n.encode(pictures), None, n.config.longest)
        return text_of_tokens(self.tokenizer, rows[0])


class Summariser:
    """A T5 that reads captions of frames and writes one of the clip."""

    def __init__(self, network: T5, tokenizer: Tokenizer, name: str, longest: int = 226) -> None:
        self.network, self.tokenizer, self.name = network.eval(), tokenizer, name
        self.longest = longest

    def __call__(self, text: str) -> str:
        """The summary of a text."""
        n = self.network
        ids = torch.tensor([[*self.tokenizer.encode(text), END]])
        with torch.no_grad():
            memory, seen = n.encode(ids)
            rows = greedy_decode(n.shared, n.decoder, n.lm_head, memory, seen, self.longest)
        return text_of_tokens(self.tokenizer, rows[0])


def text_of_tokens(tokenizer: Tokenizer, ids: list[int]) -> str:
    """The text of ids; the embedding may have more rows than the vocabulary has tokens, and those mean nothing."""
    return tokenizer.decode([token for token in ids if token < len(tokenizer)])


def sample_frames(frames: np.ndarray, config: CaptionerConfig) -> np.ndarray:
    """The pictures a network sees, ``uint8 [frames, size, size, 3]``: evenly from the first to the last, averaged down.

    Raises MediaError for what is no clip.
    """
    from PIL import Image

    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise MediaError(f"frames {frames.dtype} {list(frames.shape)}: a clip is uint8 [t, h, w, 3]")
    indices = np.linspace(0, len(frames) - 1, config.frames).round().astype(int)
    side = (config.size, config.size)
    way = Image.Resampling.BOX if min(frames.shape[1:3]) >= config.size else Image.Resampling.BILINEAR
    return np.stack([np.asarray(Image.fromarray(frames[index]).resize(side, way)) for index in indices])


def save_captioner(folder: Path, network: CaptionerNetwork, tokenizer: Tokenizer) -> Path:
    """Write a captioner, its weights in float16; returns the folder."""
    return _save(folder, "captioner", network, network.config, tokenizer)


def save_summariser(folder: Path, network: T5, tokenizer: Tokenizer) -> Path:
    """Write a summariser, its weights in float16; returns the folder."""
    return _save(folder, "t5", network, network.config, tokenizer)


def load_captioner(folder: str | Path | None = None) -> CaptionModel:
    """The captioner of a folder, or the shipped one for the tiny world. Raises CheckpointError."""
    path = Path(folder) if folder is not None else SHIPPED
    config, name, weights = _read(path, "captioner", CaptionerConfig)
    network = _filled(CaptionerNetwork(config), weights, path)
    return CaptionModel(network, Tokenizer.read(path / "tokenizer"), name)


def load_summariser(folder: str | Path) -> Summariser:
    """The summariser of a folder: one of ours, or a T5 v1.1 or Flan-T5 as transformers stores it.

    Raises CheckpointError.
    """
    path = Path(folder)
    config, name, weights = _read(path, "t5", T5Config)
    for tied in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        weights.pop(tied, None)
    network = _filled(T5(config), weights, path)
    tokens = path / "tokenizer" if (path / "tokenizer").is_dir() else path
    return Summariser(network, Tokenizer.read(tokens), name)


def _save(folder: Path, kind: str, network: nn.Module, config: Config, tokenizer: Tokenizer) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    half = {name: value.detach().half().contiguous() for name, value in network.state_dict().items()}
    save_file(half, folder / WEIGHTS)
    settings = {"model_type": kind, **config.model_dump(mode="json")}
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    tokenizer.write(folder / "tokenizer")
    return folder


def _read(folder: Path, kind: str, shape: type) -> tuple:
    """Settings, a name that says which weights these are, and the weights."""
    for name in (SETTINGS, WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: {name} is missing; give a folder that training wrote")
    try:
        values = read_json(folder / SETTINGS, error=CheckpointError)
        weights: dict[str, Tensor] = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be read ({' '.join(str(error).split())[:160]})") from None
    if not isinstance(values, dict) or values.get("model_type") != kind:
        found = values.get("model_type") if isinstance(values, dict) else None
        raise CheckpointError(
            f"{folder / SETTINGS}: model_type is {found!r}, not {kind!r}; give another folder"
        )
    known = {name: values[name] for name in shape.model_fields if name in values}  # type: ignore[attr-defined]
    name = f"{kind}:{sha256_of(folder / WEIGHTS)[:12]}"
    return shape.parse(known, str(folder / SETTINGS)), name, weights  # type: ignore[attr-defined]


def _filled(network: Net, weights: dict[str, Tensor], folder: Path) -> Net:
    """The network with these weights. Raises CheckpointError when names or shapes differ."""
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if wanted != found:
        odd = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise CheckpointError(f"{folder}: {len(odd)} tensors do not fit its config.json, such as {odd[0]}")
    network.load_state_dict({name: value.float() for name, value in weights.items()})
    return network
