"""The 3D causal video autoencoder (section 2.1): whole, in chunks, as a stream, in tiles."""

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
    """Load a part when it is first asked for: the settings alone need no torch."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
