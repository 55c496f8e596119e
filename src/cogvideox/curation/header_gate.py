"""The technical gate: what a file says of itself decides before anything is decoded."""

from __future__ import annotations

from pydantic import Field

from cogvideox.config import Config
from cogvideox.video import Probe


class Gate(Config):
    """What a film must have at least, by its header."""

    short_side: int = Field(256, gt=0, description="pixels of the shorter side")
    fps: float = Field(8.0, gt=0, description="frames per second")
    bits_per_pixel: float = Field(
        0.0, ge=0, description="bit rate / (width * height * fps); 0.02 refuses junk"
    )
    widest: float = Field(3.0, ge=1, description="width / height, or height / width")

    def refuses(self, header: Probe) -> tuple[str, str] | None:
        """(reason, detail) when a film with this header is not worth decoding."""
        short, long = sorted((header.width, header.height))
        if short < self.short_side:
            return "small", f"{header.width}x{header.height} pixels, the shorter side needs {self.short_side}"
        if long > self.widest * short:
            return "shape", f"{header.width}x{header.height} pixels, at most {self.widest:g} to 1"
        if header.fps < self.fps:
            return "slow", f"{header.fps:.3g} frames per second, the least is {self.fps:g}"
        bits = header.bit_rate / (header.width * header.height * header.fps)
        if self.bits_per_pixel and header.bit_rate and bits < self.bits_per_pixel:
            return "starved", f"{bits:.3g} bits per pixel, the least is {self.bits_per_pixel:g}"
        return None
