"""Read images and videos that may be damaged, huge or hostile: every answer is pixels or one MediaError.

A file is recognised by its first bytes and opened as that container only, so a playlist or a description that
names other files or addresses is never followed. Limits are checked on the header and again while decoding,
because headers lie. Frames are chosen by timestamp, not by counting: frame ``i`` is nearest to ``i / fps``.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
from PIL import Image, ImageOps

from cogvideox.errors import MediaError

VIDEO_SUFFIXES = ".mp4, .mov, .mkv, .webm, .avi, .ts or .gif"
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
Frame = TypeVar("Frame")
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}  # ITU-T H.273 transfer characteristics


@dataclass(frozen=True)
class Limits:
    """What reading one file may cost; anything larger is refused by name."""

    file_bytes: int = 4 << 30
    image_bytes: int = 64 << 20
    image_pixels: int = 33_000_000
    video_pixels: int = 4096 * 2304  # of one frame
    frames: int = 4096  # decoded, wanted or not
    seconds: float = math.inf  # of play
    kept_bytes: int = 2 << 30  # of pixels in memory
    wall_seconds: float = 120.0
    streams: int = 32
    side: int = 16_384
    fps: float = 240.0


LIMITS = Limits()


@dataclass(frozen=True)
class Probe:
    """What the header says, with square pixels; ``frames`` and ``seconds`` are 0 when it does not say."""

    width: int
    height: int
    fps: float
    frames: int
    seconds: float
    codec: str
    container: str
    pixel_format: str = ""
    aspect: float = 1.0  # width / height of one stored pixel; ``width`` above has it applied
    bit_rate: int = 0  # of the pictures where the file says so, else of the whole file
    sound: bool = False


def probe(path: str | Path, limits: Limits = LIMITS) -> Probe:
    """Read the header only. Raises MediaError."""
    with OpenVideo(path, limits) as opened:
        return opened.probe()


def read_frames(
    path: str | Path, max_frames: int | None = None, fps: float | None = None, limits: Limits = LIMITS
) -> tuple[np.ndarray, float]:
    """Frames ``uint8 [t, h, w, 3]`` at a constant rate, and that rate.

    fps: frames per second wanted; the file's own average rate when None. max_frames: stop after so many;
    without it a video beyond the limits is an error. Raises MediaError.
    """
    with OpenVideo(path, limits) as opened:
        header = opened.probe()
        rate = float(fps) if fps else header.fps
        most = max_frames if max_frames is not None else limits.frames
        if most < 1 or not math.isfinite(rate) or rate <= 0:
            raise MediaError(f"{path}: {most} frames at {rate} per second asked for; both must be above zero")
        kept = header.width * header.height * 3 * min(most, max(1, header.frames))
        if kept > limits.kept_bytes:
            raise MediaError(
                f"{path}: {min(most, header.frames)} frames of {header.width}x{header.height} need "
                f"{kept >> 20} MiB, the limit is {limits.kept_bytes >> 20} MiB; read fewer frames"
            )
        frames = list(_at_rate(opened, rate, most, complete=max_frames is None))
    if not frames:
        raise MediaError(f"{path}: no frame could be decoded; the file is damaged, re-encode it")
    if any(frame.shape != frames[0].shape for frame in frames):
        raise MediaError(f"{path}: the frame size changes on the way; re-encode it at one size")
    return np.stack(frames), rate


def _at_rate(opened: OpenVideo, rate: float, most: int, complete: bool) -> Iterator[np.ndarray]:
    """The pixels of the frames nearest in time to i / rate, at most so many; beyond them an error if ``complete``."""
    kept = 0
    for count, frame in enumerate(nearest_in_time(opened.frames(), rate), 1):
        if count > most:
            raise opened.error(f"more than {most} frames; cut it, or read with max_frames or a lower fps")
        pixels = opened.pixels(frame)
        kept += pixels.nbytes
        if kept > opened.limits.kept_bytes:
            raise opened.error(f"more than {opened.limits.kept_bytes >> 20} MiB of pixels; read fewer frames")
        yield pixels
        if count == most and not complete:
            return


def nearest_in_time(frames: Iterable[tuple[float, Frame]], rate: float) -> Iterator[Frame]:
    """Of (seconds, frame) in rising order, the frame nearest to i / rate for i = 0, 1, ...; the earlier on a tie."""
    before: tuple[float, Frame] | None = None
    wanted = 0
    for moment, frame in frames:
        while before is not None and wanted / rate <= moment:
            yield before[1] if wanted / rate - before[0] <= moment - wanted / rate else frame
            wanted += 1
        before = (moment, frame)
    while before is not None and wanted / rate <= before[0] + 1e-6:
        yield before[1]
        wanted += 1


class OpenVideo:
    """One video file, open, with its limits; leaves as MediaError whatever went wrong inside.

    A context manager; ``frames`` can be walked once.
    """

    def __init__(self, path: str | Path, limits: Limits):
        self.path, self.limits = path, limits
        self.started = time.monotonic()
        self.container: av.container.InputContainer | None = None

    def error(self, why: str) -> MediaError:
        return MediaError(f"{self.path}: {why}")

    def __enter__(self) -> OpenVideo:
        file = _regular_file(self.path, self.limits.file_bytes)
        kind = _container_of(file, self.path)
        try:
            self.container = av.open(
                f"file:{file}", format=kind, options={"protocol_whitelist": "file"}, metadata_errors="replace"
            )
            if len(self.container.streams) > self.limits.streams:
                raise self.error(f"{len(self.container.streams)} streams; the limit is {self.limits.streams}")
            pictures = [s for s in self.container.streams.video if not _is_cover_art(s)]
            if pictures and all(s.codec_context is None for s in pictures):
                raise self.error("no decoder for its codec; re-encode it as h264")
            pictures = [s for s in pictures if s.codec_context is not None]
            if not pictures:
                raise self.error("there is no video in it, only sound or covers; give moving pictures")
            self.stream = max(pictures, key=lambda s: (s.width or 0) * (s.height or 0))
            self._check_header()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.container is not None:
            self.container.close()
            self.container = None
        if isinstance(error, (av.error.FFmpegError, ValueError, MemoryError, RuntimeError)):
            what = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
            raise self.error(f"damaged or not a video ({what}); re-encode it or download it again") from None

    def _check_header(self) -> None:
        codec = self.stream.codec_context
        width, height = codec.width, codec.height
        if width < 1 or height < 1:
            raise self.error("the header gives no frame size; the file is damaged, re-encode it")
        if width * height > self.limits.video_pixels or max(width, height) > self.limits.side:
            raise self.error(
                f"frames of {width}x{height} pixels; the limit is {self.limits.video_pixels}, scale it down"
            )
        transfer = HDR_TRANSFERS.get(int(codec.color_trc or 0))
        if transfer:
            raise self.error(f"HDR ({transfer}) video; tone-map it to 8-bit BT.709 first")

    def probe(self) -> Probe:
        stream, codec = self.stream, self.stream.codec_context
        rate = float(stream.average_rate or stream.base_rate or stream.guessed_rate or 0)
        seconds = float(stream.duration * stream.time_base) if stream.duration else 0.0
        if not seconds and self.container.duration:
            seconds = self.container.duration / av.time_base
        rate = min(rate, self.limits.fps) if rate > 0 else 25.0
        width, height = codec.width, codec.height
        aspect = float(codec.sample_aspect_ratio or 1) or 1.0
        if 1 / 16 <= aspect <= 16:
            width = max(1, round(width * aspect))
        return Probe(
            width,
            height,
            rate,
            int(stream.frames or round(seconds * rate)),
            seconds,
            codec.name,
            self.container.format.name,
            codec.pix_fmt or "",
            aspect if 1 / 16 <= aspect <= 16 else 1.0,
            int(stream.bit_rate or self.container.bit_rate or 0),
            bool(self.container.streams.audio),
        )

    def frames(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """(seconds since the first, frame) in display order; refuses a file that is cut off."""
        first, last, count = None, 0.0, 0
        fps = self.probe().fps
        for frame in self.container.decode(self.stream):
            count += 1
            if count > self.limits.frames:
                raise self.error(f"more than {self.limits.frames} frames; cut it to the part you need")
            if time.monotonic() - self.started > self.limits.wall_seconds:
                raise self.error(
                    f"decoding took more than {self.limits.wall_seconds:g} s; scale it down or cut it"
                )
            if frame.width * frame.height > self.limits.video_pixels:
                raise self.error(
                    f"a frame of {frame.width}x{frame.height} pixels; the limit is on the header too"
                )
            moment = frame.time if frame.time is not None else (first or 0.0) + (count - 1) / fps
            first = moment if first is None else first
            last = max(last, moment - first)
            if last > self.limits.seconds:
                raise self.error(f"longer than {self.limits.seconds:g} s; cut it to the part you need")
            yield last, frame
        promised = self._promised()
        if count and last + 2 / fps < 0.8 * promised:
            raise self.error(
                f"cut off: it ends at {last:.2f} s of {promised:.2f} s; download or export it again"
            )

    def _promised(self) -> float:
        """The seconds the header speaks of; Matroska says them of the whole file only, and sound may be longer."""
        if self.stream.duration:
            return float(self.stream.duration * self.stream.time_base)
        alone = len(self.container.streams) == 1 and self.container.duration
        return (
            (self.container.duration - max(0, self.container.start_time or 0)) / av.time_base
            if alone
            else 0.0
        )

    def pixels(self, frame: av.VideoFrame) -> np.ndarray:
        """uint8 [h, w, 3], square pixels, upright."""
        aspect = float(self.stream.codec_context.sample_aspect_ratio or 1) or 1.0
        width = max(1, round(frame.width * aspect)) if 1 / 16 <= aspect <= 16 else frame.width
        if width * frame.height > self.limits.video_pixels * 4:
            raise self.error(f"{width}x{frame.height} with square pixels; scale it down")
        array = frame.to_ndarray(format="rgb24", width=width, height=frame.height)
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(array, turns)) if turns else array


def read_image(path: str | Path, limits: Limits = LIMITS) -> np.ndarray:
    """A picture as ``uint8 [h, w, 3]``: upright (EXIF), first frame of an animation, transparency over white.

    Raises MediaError for anything that is not a whole picture within the limits.
    """
    file = _regular_file(path, limits.image_bytes)
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
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        KeyError,
        TypeError,
        MemoryError,
        OverflowError,
    ) as error:
        names = ", ".join(IMAGE_FORMATS)
        raise MediaError(f"{path}: {_why_not_image(error)}; give a whole picture, one of {names}") from None


def _why_not_image(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (
        "not an image" if "cannot identify" in text else f"a damaged image ({text or type(error).__name__})"
    )


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit grey
        grey = (np.asarray(image).astype(np.float64) / 257).clip(0, 255).round().astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, over)
    return np.array(image.convert("RGB"))


def _regular_file(path: str | Path, most_bytes: int) -> Path:
    """The absolute path of a plain, non-empty file within the size limit."""
    try:
        file = Path(path).expanduser().absolute()
        status = os.stat(file)
    except FileNotFoundError:
        raise MediaError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise MediaError(f"{str(path)!r}: cannot be opened ({why}); check the path") from None
    if stat.S_ISDIR(status.st_mode):
        raise MediaError(f"{path}: a folder; give one file")
    if not stat.S_ISREG(status.st_mode):
        raise MediaError(f"{path}: a device or pipe; give a plain file")
    if status.st_size == 0:
        raise MediaError(f"{path}: the file is empty; download or export it again")
    if status.st_size > most_bytes:
        raise MediaError(f"{path}: {status.st_size >> 20} MiB; the limit is {most_bytes >> 20} MiB")
    return file


def _container_of(file: Path, path: str | Path) -> str:
    """The demuxer for these first bytes; containers that can name other files are not among them."""
    try:
        with open(file, "rb") as stream:
            head = stream.read(400)
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
        return "mov"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    if head[:4] == b"GIF8":
        return "gif"
    if head[:4] == b"RIFF" and head[8:11] == b"AVI":
        return "avi"
    if head[:1] == b"G" and head[188:189] == b"G":
        return "mpegts"
    raise MediaError(f"{path}: not a video; give {VIDEO_SUFFIXES}")


def _is_cover_art(stream: av.VideoStream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def sha256_of_file(path: str | Path) -> str:
    """The SHA-256 of a file as 64 hex digits. Raises OSError."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
