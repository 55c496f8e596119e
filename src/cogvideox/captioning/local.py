"""Small networks that write captions, and their folders: ``config.json``, ``model.safetensors``, ``tokenizer/``.

The captioner is what the paper's CogVLM2-Caption is at 12 B. Each picture becomes one vector (convolutions, then a
projection that keeps positions apart); a few layers look across time; a T5 decoder reads the result and writes. It sees
``frames`` pictures spread evenly over the clip, whatever its length.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cogvideox.config import Config
from cogvideox.errors import CheckpointError, MediaError
from cogvideox.files import read_json
from cogvideox.files.digest import sha256_of
from cogvideox.text import T5, T5Config, T5Decoder, Tokenizer
from cogvideox.text.decoder import greedy_decode
from cogvideox.text.tokenizer import END


class CaptionerConfig(Config):
    """Shape of the network, in ``config.json``."""

    frames: int = Field(5, gt=1, le=1024, description="pictures of a clip that are looked at")
    size: int = Field(40, gt=15, le=2048, description="height and width they are made to have, pixels")
    channels: tuple[Annotated[int, Field(ge=4, le=8192)], ...] = Field(
        (24, 48, 64),
        min_length=1,
        max_length=8,
        description="of the convolutions; each halves height and width",
    )
    mixers: int = Field(2, ge=0, le=256, description="layers that look across time")
    longest: int = Field(48, gt=0, le=16_384, description="most tokens of a caption")
    text: T5Config = Field(description="the decoder")


class CaptionerNetwork(nn.Module):
    """``forward(seen, tokens) -> scores of each next token``."""

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        self.config = config
        width, wide = config.text.d_model, [3, *config.channels]
        layers: list[nn.Module] = []
        for index, (before, after) in enumerate(zip(wide[:-1], wide[1:], strict=True)):
            kernel = 4 if index == 0 else 3
            convolution = nn.Conv2d(before, after, kernel, stride=2, padding=1)
            layers += [convolution, nn.GroupNorm(4, after), nn.SiLU()]
        side = config.size // 2 ** len(config.channels)
        self.look = nn.Sequential(*layers, nn.Flatten(), nn.Linear(wide[-1] * side**2, width))
        self.time = nn.Parameter(torch.zeros(config.frames, width))
        mixer = [
            nn.TransformerEncoderLayer(
                width, config.text.num_heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(config.mixers)
        ]
        self.mix = nn.Sequential(*mixer, nn.LayerNorm(width))
        self.shared = nn.Embedding(config.text.vocab_size, width)
        self.decoder = T5Decoder(config.text)
        self.lm_head = nn.Linear(width, config.text.vocab_size, bias=False)

    def encode(self, pictures: UInt8[Tensor, "b t h w 3"]) -> Float[Tensor, "b t d"]:
        """One vector per picture that knows of the others."""
        b, t = pictures.shape[:2]
        x = pictures.flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1
        return self.mix(self.look(x).unflatten(0, (b, t)) + self.time)

    def forward(self, seen: Float[Tensor, "b t d"], tokens: Int[Tensor, "b l"]) -> Float[Tensor, "b l v"]:
        """Scores of each next token, for ``tokens`` that begins with PAD, about what ``encode`` gave."""
        return self.lm_head(self.decoder(self.shared(tokens), seen))


def initialise(network: CaptionerNetwork, generator: torch.Generator) -> CaptionerNetwork:
    """Random weights to train from, a function of the generator alone; returns the network."""
    for name, weight in network.named_parameters():
        if weight.ndim == 1:
            nn.init.constant_(weight, 0.0 if name.endswith("bias") else 1.0)
        elif name in ("shared.weight", "time"):
            nn.init.normal_(weight, std=0.5, generator=generator)
        else:
            fan = weight[0].numel()
            scale = fan**-0.25 if ".q." in name else 1.0  # T5 does not scale its scores
            nn.init.normal_(weight, std=scale * fan**-0.5, generator=generator)
    return network


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
    found = values.get("model_type") if isinstance(values, dict) else None
    if found != kind:
        what = f"model_type is {found!r}, not {kind!r}"
        raise CheckpointError(f"{folder / SETTINGS}: {what}; give another folder")
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
