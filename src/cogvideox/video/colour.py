"""Which colours the numbers of a video file mean: what its tags say, or a guess that is reported.

Y'CbCr becomes RGB by a matrix: BT.601 of old television, BT.709 of HD, BT.2020. A file says which one in its tags, and
many say nothing. Then this reader does as players do (mpv, VLC, Chrome, Firefox): a frame of at least 720 lines, or of
at least 1280 columns, is HD and read as BT.709, a smaller one as BT.601. A setting (``colour``) replaces the guess for
whoever knows better; tags are always believed. Numbers without a full-range tag are limited range.

BT.2020 of standard range is read by its own matrix; its wider primaries are not mapped to those of BT.709.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast, get_args

from cogvideox.errors import ConfigError

if TYPE_CHECKING:
    import av

Colour = Literal["guess", "bt601", "bt709"]
"""How untagged videos are read: by their size, or as one of both."""

HD_LINES, HD_COLUMNS = 720, 1280
MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}  # H.273
UNTAGGED = (0, 2, 3)  # RGB (which a Y'CbCr format cannot mean), unspecified, reserved
CODES = {"bt601": 5, "bt709": 1}
FULL = 2  # AVCOL_RANGE_JPEG
FULL_FORMATS = ("yuvj", "gray", "ya8")


@dataclass(frozen=True)
class Colours:
    """What the numbers of a video mean. ``matrix``: bt601, bt709, bt2020, ..., or rgb and grey, which need none;
    ``guessed``: no tag says so; ``full``: whether 0 is black and the highest number white.
    """

    matrix: str = "rgb"
    full: bool = True
    guessed: bool = False

    def __str__(self) -> str:
        """For people: 'bt709, limited range (untagged: guessed from the size)'."""
        if self.matrix in ("rgb", "grey"):
            return self.matrix
        reach = "full range" if self.full else "limited range"
        return f"{self.matrix}, {reach}" + (" (a guess by the frame size)" if self.guessed else "")


def colour_of(text: str) -> Colour:
    """A word of the command line as the setting. Raises ConfigError for any other."""
    if text not in get_args(Colour):
        raise ConfigError(f"colour {text[:40]!r}: must be one of {', '.join(get_args(Colour))}")
    return cast(Colour, text)


def colours_of(source: av.VideoFrame | av.VideoCodecContext, colour: Colour = "guess") -> Colours | None:
    """What the numbers of a frame, or of a stream by its header, mean; None for a matrix that cannot be read."""
    name = source.format.name if source.format is not None else ""
    if is_rgb(name):
        return Colours()
    full = name.startswith(FULL_FORMATS) or int(source.color_range or 0) == FULL
    if name.startswith(("gray", "ya8", "mono")):
        return Colours("grey", full)
    code = int(source.colorspace if source.colorspace is not None else 2)
    if code not in UNTAGGED:
        return Colours(MATRICES[code], full) if code in MATRICES else None
    if colour != "guess":
        return Colours(colour, full)
    high = source.height >= HD_LINES or source.width >= HD_COLUMNS
    return Colours("bt709" if high else "bt601", full, guessed=True)


def is_rgb(pixel_format: str) -> bool:
    """Whether pixels of this format are RGB already: packed, planar (gbrp) or with a palette."""
    return pixel_format.startswith(
        ("rgb", "bgr", "gbr", "argb", "abgr", "0rgb", "0bgr", "x2rgb", "x2bgr", "pal8")
    )


def code_for(frame: av.VideoFrame, colours: Colours) -> int | None:
    """What to tell the scaler that the frame's matrix is; None where the frame says it itself."""
    untagged = int(frame.colorspace if frame.colorspace is not None else 2) in UNTAGGED
    return CODES.get(colours.matrix) if untagged else None
