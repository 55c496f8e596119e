"""Read still pictures that may be damaged, huge or hostile: every answer is pixels or one MediaError."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from cogvideox.errors import MediaError
from cogvideox.video.reading import LIMITS, DecodeLimits, regular_file

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
DAMAGED = (OSError, ValueError, SyntaxError, EOFError, KeyError, TypeError, MemoryError, OverflowError)
"""What Pillow raises for files that are broken."""


def read_image(path: str | Path, limits: DecodeLimits = LIMITS) -> np.ndarray:
    """A picture as ``uint8 [h, w, 3]``: upright (EXIF), first frame of an animation, transparency over white.

    Raises MediaError for anything that is not a whole picture within the limits.
    """
    file = regular_file(path, limits.image_bytes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is stricter
            with Image.open(file, formats=IMAGE_FORMATS) as image:
                width, height = image.size
                if width * height > limits.image_pixels or max(width, height) > 4 * limits.side:
                    raise MediaError(
                        f"{path}: an image of {width}x{height} pixels; "
                        f"the limit is {limits.image_pixels} pixels, scale it down"
                    )
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError:
        raise MediaError(
            f"{path}: more pixels than the limit of {limits.image_pixels}; scale it down"
        ) from None
    except DAMAGED as error:
        names = ", ".join(IMAGE_FORMATS)
        raise MediaError(f"{path}: {_why_not_image(error)}; give a whole picture, one of {names}") from None


def _why_not_image(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return "not an image" if "cannot identify" in text else f"a damaged image ({text})"


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit grey
        grey = (np.asarray(image).astype(np.float64) / 257).clip(0, 255).round().astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, over)
    return np.array(image.convert("RGB"))
