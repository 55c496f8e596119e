"""Masks over a video: white (or a box) where something is to happen, black elsewhere."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from cogvideox.errors import MediaError
from cogvideox.files.paths import IMAGE_SUFFIXES
from cogvideox.video.image import read_image
from cogvideox.video.video import Video, read_video

BOX = re.compile(r"\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*")
COLOURED, FEW = 64, 0.002
"""The distance of the colours of a pixel that is not grey, and the share of such pixels that encoding may make."""
NUMBERS = re.compile(r"[-\d\s.]+(,[-\d\s.]*)+")
"""What was meant as a box."""


def read_mask(source: str | Path | np.ndarray | Video, video: Video, what: str = "mask") -> np.ndarray:
    """A mask over ``video`` as uint8 [t, h, w] of its size: 255 where it is white, 0 where it is black.

    source: a video or picture file, a box "x,y,width,height" in pixels of the video, an array [h, w] or [t, h, w]
    (uint8, or bool), or a Video. A picture and a box hold for all frames. Grey values stay, of colours the brightness.
    Warns of a box that is cut and of colours. Raises MediaError for another number of frames or another shape, with
    both.
    """
    if isinstance(source, str) and (box := BOX.fullmatch(source)):
        return _box([int(number) for number in box.groups()], video, source.strip(), what)
    frames = _frames(source, what)
    if len(frames) not in (1, len(video)):
        raise MediaError(
            f"{what} of {len(frames)} frames: the video has {len(video)}; give as many, or one picture for all"
        )
    size = video.height, video.width
    if frames.shape[1:] != size:
        aspect, wanted = frames.shape[2] / frames.shape[1], size[1] / size[0]
        if abs(aspect / wanted - 1) > 0.02:
            raise MediaError(
                f"{what} of {frames.shape[2]}x{frames.shape[1]}: the video has {size[1]}x{size[0]}, another shape; "
                "draw it on a frame of the video"
            )
        frames = np.stack(
            [
                np.asarray(Image.fromarray(each).resize(size[::-1], Image.Resampling.BILINEAR))
                for each in frames
            ]
        )
    return np.broadcast_to(frames, (len(video), *size))


def boxes(things: np.ndarray) -> np.ndarray:
    """The smallest box around what is true in each frame of ``[t, h, w]``."""
    rows, columns = np.logical_or.reduce(things, axis=2), np.logical_or.reduce(things, axis=1)
    between = [
        np.maximum.accumulate(line, axis=1) & np.maximum.accumulate(line[:, ::-1], axis=1)[:, ::-1]
        for line in (rows, columns)
    ]
    return between[0][:, :, None] & between[1][:, None, :]


def grown(mask: np.ndarray, margin: int) -> np.ndarray:
    """A mask ``[t, h, w]`` with all pixels within ``margin`` along both sides of one that is true."""
    for axis in (1, 2):
        padding = [(0, 0)] * 3
        padding[axis] = (margin + 1, margin)
        total = np.pad(mask, padding).astype(np.int32).cumsum(axis)
        size = mask.shape[axis]
        high = np.take(total, range(2 * margin + 1, 2 * margin + 1 + size), axis)
        mask = high > np.take(total, range(size), axis)
    return mask


def _frames(source: str | Path | np.ndarray | Video, what: str) -> np.ndarray:
    """The grey frames of a source that is no box: uint8 [t, h, w]."""
    if isinstance(source, Video):
        return _grey(source.frames, what)
    if isinstance(source, np.ndarray):
        array = source.astype(np.uint8) * 255 if source.dtype == bool else source
        if array.dtype != np.uint8 or array.ndim not in (2, 3) or 0 in array.shape:
            raise MediaError(
                f"{what} of {source.dtype} {list(source.shape)}: expected uint8 or bool, [height, width] or "
                "[frames, height, width]"
            )
        return array if array.ndim == 3 else array[None]
    if not isinstance(source, str | Path) or NUMBERS.fullmatch(str(source)):
        raise MediaError(
            f"{what} {source}: neither a file nor a box; write a box as text, 'x,y,width,height' in pixels, such as "
            "'8,8,16,16'"
        )
    if Path(source).suffix.lower() in IMAGE_SUFFIXES:
        return _grey(read_image(source)[None], f"{what} {source}")
    return _grey(read_video(source).frames, f"{what} {source}")


def _grey(frames: np.ndarray, what: str) -> np.ndarray:
    """The brightness; warns where more than a few pixels are not grey: a picture may have been taken for a mask."""
    if ((frames.max(axis=3) - frames.min(axis=3)) > COLOURED).mean() > FEW:
        warnings.warn(
            f"{what}: in colour, and only its brightness counts; a mask is white where something happens, black "
            "elsewhere",
            stacklevel=5,
        )
    return frames.astype(np.uint16).mean(axis=3).round().astype(np.uint8)


def _box(numbers: list[int], video: Video, text: str, what: str) -> np.ndarray:
    x, y, width, height = numbers
    if width < 1 or height < 1 or x >= video.width or y >= video.height or x + width <= 0 or y + height <= 0:
        raise MediaError(
            f"{what} {text}: x,y,width,height; nothing of it lies in the video of {video.width}x{video.height}"
        )
    left, top, right, bottom = (
        max(0, x),
        max(0, y),
        min(x + width, video.width),
        min(y + height, video.height),
    )
    if (left, top, right, bottom) != (x, y, x + width, y + height):
        warnings.warn(
            f"{what} {text}: reaches beyond the video of {video.width}x{video.height}; of it "
            f"{left},{top},{right - left},{bottom - top} is used",
            stacklevel=4,
        )
    mask = np.zeros((1, video.height, video.width), dtype=np.uint8)
    mask[:, top:bottom, left:right] = 255
    return np.broadcast_to(mask, (len(video), *mask.shape[1:]))
