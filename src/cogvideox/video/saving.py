"""Write videos and pictures, and never over existing files unless asked to.

mp4 is H.264 4:2:0 with the index in front and BT.709 tags, so it
plays everywhere; what made it stands in its tags and in a JSON file beside it.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.GifImagePlugin import getdata, getheader
from PIL.PngImagePlugin import PngInfo

from cogvideox.errors import ConfigError, OutputError
from cogvideox.files import read_json
from cogvideox.video.spool import passing

SUFFIXES = (".mp4", ".mkv", ".gif", ".png")
RECORDS = (".json", ".html")
TAGGED = (".mp4", ".mkv")
LABEL = "digitalSourceType"
AI_MADE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
LEAST_FPS = 0.01  # far below it mp4 and GIF write another rate than the one asked for
BT709 = 1  # ITU-T H.273 code for primaries, transfer and matrix


def sidecar_of(path: str | Path) -> Path:
    """``red.mp4`` -> ``red.json``: where what made it is written."""
    return Path(path).with_suffix(".json")


def previews_of(path: str | Path) -> list[Path]:
    """``red.mp4`` -> ``red.gif`` and ``red.png``: where a quick look at it is written."""
    path = Path(path)
    return [path.with_suffix(suffix) for suffix in (".gif", ".png") if suffix != path.suffix.lower()]


def watched_of(path: str | Path) -> Path:
    """``red.mp4`` -> ``red.watch.gif``: where it is shown while it is made."""
    return Path(path).with_suffix(".watch.gif")


def label() -> str:
    """The mark that a model made a video or picture, as JSON."""
    return json.dumps({LABEL: AI_MADE})


def is_ours(path: str | Path) -> bool:
    """Whether this package made this file, by what it says of itself: a record by its fields, a video or picture by the
    mark in its tags. What others mark as AI-made is theirs.
    """
    path = Path(path)
    mark = json.dumps({LABEL: AI_MADE})[1:-1].encode()
    try:
        if not path.is_file():  # a pipe or a device is not read
            return False
        if path.suffix.lower() != ".json":
            return mark in path.read_bytes()
        record = read_json(path)
    except (OSError, ConfigError):
        return False
    if not isinstance(record, dict):
        return False
    if record.get("kind") == "world" and {"config", "checks"} <= set(record):  # a scene, see cli/world.py
        return True
    return {LABEL, "kind", "config", "seed"} <= set(record)  # see manifest.py


def check_output(path: str | Path, overwrite: bool = False, sidecar: bool = False) -> Path:
    """Say now, before hours of work, that a result could not be written there. Raises OutputError."""
    try:
        path = Path(path)
        if "\0" in str(path):
            raise ValueError("a NUL byte in the name")
        if path.suffix.lower() not in (*SUFFIXES, *RECORDS):
            found = f"the ending {path.suffix!r}" if path.suffix else "no file ending"
            raise OutputError(
                f"{path}: {found} is not known; name it {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
            )
        for target in (path, sidecar_of(path)) if sidecar else (path,):
            if target.is_dir():
                raise OutputError(f"{target}: is a folder; give a file name in it")
            if os.path.lexists(target) and not overwrite:
                raise OutputError(f"{target}: exists already; choose another name or pass --overwrite")
            if target.exists() and not target.is_file():
                raise OutputError(f"{target}: is a pipe or a device; choose another name")
            if os.path.lexists(target) and target != path and not is_ours(target):
                raise OutputError(
                    f"{target}: was not made here, and the record of {path.name} would replace it; "
                    "choose another name, or move it away"
                )
        _check_folder(path)
    except (OSError, ValueError) as error:
        raise OutputError(f"{str(path)!r}: {_reason(error)}; choose another path") from None
    return path


def _check_folder(path: Path) -> None:
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise OutputError(f"{path}: {folder} is a file, not a folder; choose another folder")
    try:
        with tempfile.TemporaryFile(dir=folder):  # os.access says yes to root, whatever the folder
            pass
    except OSError as error:
        raise OutputError(
            f"{path}: {folder} cannot be written in ({_reason(error)}); choose another folder"
        ) from None


def write_mp4(path: Path, frames: np.ndarray, fps: float, tags: dict[str, str]) -> None:
    """H.264, yuv420p, crf 18, faststart, BT.709. frames ``uint8 [t, h, w, 3]``; odd sides repeat a line."""
    rate = Fraction(fps).limit_denominator(1001)
    with mp4_writer(path, frames.shape[1], frames.shape[2], rate, tags) as add:
        for array in passing(frames):
            add(array)


@contextmanager
def mp4_writer(
    path: Path,
    height: int,
    width: int,
    fps: Fraction,
    tags: dict[str, str],
    crf: int = 18,
    preset: str = "medium",
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields ``add(frame)`` for frames ``uint8 [h, w, 3]``, which are encoded as they come; see write_mp4.

    The same frames give the same bytes. So one thread encodes, and x264's macroblock tree is off: with B-frames its
    vector code reads memory that nobody has written (other bytes under each value of glibc's MALLOC_PERTURB_).
    """
    import av

    options = {"movflags": "+faststart+use_metadata_tags"}
    written = 0
    with _muxer_errors(), av.open(str(path), "w", format="mp4", options=options) as container:
        for key, value in tags.items():
            container.metadata[key] = value
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = height + height % 2, width + width % 2
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(crf), "preset": preset, "x264-params": "mbtree=0"}
        context = stream.codec_context
        context.thread_count = 1
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = 1  # limited

        def add(array: np.ndarray) -> None:
            nonlocal written
            frame = av.VideoFrame.from_ndarray(even(array[None])[0], format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=BT709, dst_color_range=1)
            frame.color_primaries = frame.color_trc = BT709
            container.mux(stream.encode(frame))
            written += 1

        yield add
        container.mux(stream.encode())
    _check_whole(path, written)


@contextmanager
def _muxer_errors() -> Iterator[None]:
    """Errors of FFmpeg as the OSError that whoever writes the file expects, such as a full disk."""
    import av

    try:
        yield
    except av.error.FFmpegError as error:
        raise OSError(error.errno, _reason(error)) from error


def write_mkv(path: Path, frames: np.ndarray, fps: float, tags: dict[str, str]) -> None:
    """Lossless: FFV1 in Matroska, every value as it is, for whatever is measured later. ``uint8 [t, h, w, 3]``."""
    import av

    with _muxer_errors(), av.open(str(path), "w", format="matroska") as container:
        for key, value in tags.items():
            container.metadata[key] = value
        stream = container.add_stream("ffv1", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "bgr0"
        for array in passing(frames):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24").reformat(format="bgr0")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    _check_whole(path, len(frames), "matroska")


def _check_whole(path: Path, frames: int, container_format: str = "mov") -> None:
    """A full disk can go unnoticed inside a muxer: count what is really in the file."""
    import av

    with av.open(str(path), format=container_format) as container:
        packets = sum(1 for packet in container.demux(video=0) if packet.size)
    if packets != frames:
        raise OSError(f"only {packets} of {frames} frames reached the disk")


def write_gif(path: Path, frames: np.ndarray, fps: float, comment: str = "", least_height: int = 0) -> None:
    """An endless GIF; frames smaller than ``least_height`` are enlarged by a whole number, without blur.

    Every frame is written, one that equals the frame before it too: a still keeps its length.
    """
    grow = max(1, math.ceil(least_height / frames.shape[1]))
    enlarged = (np.repeat(np.repeat(f, grow, axis=0), grow, axis=1) for f in passing(frames))
    indexed = (Image.fromarray(f).convert("P", palette=Image.Palette.ADAPTIVE) for f in enlarged)
    first = next(indexed)
    extra = {"comment": comment.encode()[:255]} if comment else {}
    duration = max(20, round(100 / fps) * 10)  # GIF counts in hundredths; below 2 players slow down to 10
    header, _ = getheader(first.copy(), info={"loop": 0, "duration": duration, **extra})
    with path.open("wb") as stream:
        stream.writelines(header)
        for image in chain([first], indexed):  # Image.save would merge equal frames into one
            stream.writelines(getdata(image, duration=duration, include_color_table=True))
        stream.write(b";")


def write_png(path: Path | BinaryIO, image: Image.Image, texts: dict[str, str]) -> None:
    """A picture with texts in it, to a file or to a stream."""
    info = PngInfo()
    for key, value in texts.items():
        info.add_text(key, value)
    image.save(path, format="PNG", pnginfo=info)


def even(frames: np.ndarray) -> np.ndarray:
    """4:2:0 needs even sides: repeat the last row or column of ``[t, h, w, 3]`` where one is odd."""
    pad = [(0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)]
    return np.pad(frames, pad, mode="edge") if frames.shape[1] % 2 or frames.shape[2] % 2 else frames


def _reason(error: Exception) -> str:
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
