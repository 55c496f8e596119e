"""The 3D causal video autoencoder (section 2.1): whole, in chunks, as a stream, in tiles.

Files, in reading order:

| file | what it does |
|---|---|
| `config` | `VAEConfig`, under the names of the public `config.json`, and `Tiles`; loads no torch |
| `vae` | `VAE` and `Gaussian`: encode and decode, in chunks, whole or as a stream |
| `network` | encoder and decoder: residual blocks in stages |
| `conv` | causal convolution, downsampling, upsampling |
| `winograd` | wide convolutions on a CPU with half of the multiplications |
| `norm` | group normalisation and its modulation by the latents, as one scale and one shift |
| `frames` | `Frames`: normalised and activated when they are read, a few at a time |
| `past` | `Past`: which frames came before the chunk |
| `tiling` | large pictures in tiles that overlap |
| `tiny` | `TinyVAE`: a stand-in for previews and fast decoding (taecvx) |
| `losses` | what training minimises, and the discriminator of the GAN loss |
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cogvideox.vae.config import Tiles, VAEConfig
    from cogvideox.vae.past import Past, Remember, StartOfVideo
    from cogvideox.vae.tiling import decode_tiled, encode_tiled
    from cogvideox.vae.vae import VAE, Coding, Gaussian

__all__ = [
    "VAE",
    "Coding",
    "Gaussian",
    "Past",
    "Remember",
    "StartOfVideo",
    "Tiles",
    "VAEConfig",
    "decode_tiled",
    "encode_tiled",
]

_HOMES = {
    "config": ("Tiles", "VAEConfig"),
    "past": ("Past", "Remember", "StartOfVideo"),
    "tiling": ("decode_tiled", "encode_tiled"),
    "vae": ("VAE", "Coding", "Gaussian"),
}


def __getattr__(name: str) -> Any:
    """Import a module when one of its names is first used: the settings alone need no torch."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
