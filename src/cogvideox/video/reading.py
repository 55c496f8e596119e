"""Read videos that may be damaged, huge or hostile: every answer is pixels or one MediaError.

A file is recognised by its first bytes and opened as that container only, so a playlist or a description that
names other files or addresses is never followed. DecodeLimits are checked on the header and again while decoding,
because headers lie. Frames are chosen by timestamp, not by counting: frame ``i`` is nearest to ``i / fps``; how many
there are, and what a timestamp is worth, is decided in timing.py; which colours they have, in colour.py.
"""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cogvideox.errors import MediaError
from cogvideox.video.colour import Colour, Colours, code_for, colours_of
from cogvideox.video.orientation import Orientation, orientation_of
from cogvideox.video.timing import Timing, exact, fit

if TYPE_CHECKING:
    import av

KNOWN = ".mp4, .mov, .mkv, .webm, .avi, .ts or .gif"
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}  # ITU-T H.273 transfer characteristics
DECLARES_RATE = ("mov", "matroska", "avi")  # others' rates are guesses of the demuxer
CONTAINER_TICKS = 1_000_000  # a second of a container's own times, AV_TIME_BASE
REORDERED = 64  # frames that may be stored before an earlier one


class UnknownContainerError(MediaError):
    """A file whose first bytes are of no kind of video that is read."""


@dataclass(frozen=True)
class DecodeLimits:
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


LIMITS = DecodeLimits()
READER = 2  # higher where the same file gives other frames, times or colours than before; stands in digests


@dataclass(frozen=True)
class Probe:
    """What a file is. ``width`` and ``height``: with square pixels, and upright where the first frame was looked at.

    From ``probe``, ``frames``, ``seconds`` and ``fps`` are those of the pictures in the file, exactly; from a header
    alone they are what it says, 0 for ``frames`` and ``seconds`` where it does not say.
    """

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
    steady: bool = True  # all frames last equally long
    colours: Colours = Colours()
    orientation: Orientation = Orientation()


def probe(path: str | Path, limits: DecodeLimits = LIMITS, colour: Colour = "guess") -> Probe:
    """Read the header, the timestamps and the first frame. Raises MediaError."""
    return survey(path, limits, colour)[0]


def survey(path: str | Path, limits: DecodeLimits = LIMITS, colour: Colour = "guess") -> tuple[Probe, Timing]:
    """As ``probe``, and the clock of its frames. Raises MediaError."""
    with OpenVideo(path, limits, colour) as opened:
        header, timing = opened.probe(), opened.timing
        if timing.whole:
            header = replace(header, frames=timing.frames, seconds=timing.seconds, steady=timing.steady)
            header = replace(header, fps=min(timing.fps, limits.fps))
        _, first = next(opened.frames(), (0.0, None))
        if first is None:
            raise MediaError(f"{path}: no frame could be decoded; the file is damaged, re-encode it")
        colours, orientation = opened.colours(first), orientation_of(first)
        if orientation.on_its_side:
            header = replace(header, width=header.height, height=header.width)
        return replace(header, colours=colours, orientation=orientation), timing


class OpenVideo:
    """One video file, open, with its limits; leaves as MediaError whatever went wrong inside.

    A context manager; ``frames`` can be walked once. ``colour``: how untagged colours are read; ``kind``: the container
    (mov, matroska, avi, gif or mpegts); ``stream``: the largest video stream.
    """

    def __init__(self, path: str | Path, limits: DecodeLimits, colour: Colour = "guess"):
        self.path, self.limits, self.colour = path, limits, colour
        self.started = time.monotonic()
        self._container: av.container.InputContainer | None = None

    @property
    def container(self) -> av.container.InputContainer:
        """The open file of PyAV; there is one inside the ``with`` block only."""
        assert self._container is not None, "used outside its with block"
        return self._container

    def error(self, why: str) -> MediaError:
        """A MediaError about this file."""
        return MediaError(f"{self.path}: {why}")

    def __enter__(self) -> OpenVideo:
        file = regular_file(self.path, self.limits.file_bytes)
        self._url, self.kind = f"file:{file}", _container_of(file, self.path)
        try:
            self._container = self._open()
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

    def _open(self) -> av.container.InputContainer:
        import av

        options = {"protocol_whitelist": "file"}
        return av.open(self._url, format=self.kind, options=options, metadata_errors="replace")

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        import av

        if self._container is not None:
            self._container.close()
            self._container = None
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
        self.colours(codec)

    def _aspect(self) -> float:
        """Width over height of a stored pixel; 1 where the header says nothing credible."""
        aspect = float(self.stream.codec_context.sample_aspect_ratio or 1)
        return aspect if 1 / 16 <= aspect <= 16 else 1.0

    def _stream_seconds(self) -> float:
        """The length that the stream's header gives; 0 where it gives none."""
        duration, tick = self.stream.duration, self.stream.time_base
        return float(duration * tick) if duration and tick else 0.0

    def probe(self) -> Probe:
        """What the header says."""
        stream, codec = self.stream, self.stream.codec_context
        rate = float(exact(stream.average_rate) or exact(stream.base_rate) or exact(stream.guessed_rate) or 0)
        seconds = self._stream_seconds()
        if not seconds and self.container.duration:
            seconds = self.container.duration / CONTAINER_TICKS
        rate = min(rate, self.limits.fps) if rate > 0 else 25.0
        aspect = self._aspect()
        return Probe(
            max(1, round(codec.width * aspect)),
            codec.height,
            rate,
            int(stream.frames or round(seconds * rate)),
            seconds,
            codec.name,
            self.container.format.name,
            codec.pix_fmt or "",
            aspect,
            int(stream.bit_rate or self.container.bit_rate or 0),
            bool(self.container.streams.audio),
            colours=self.colours(codec),
        )

    def colours(self, source: av.VideoFrame | av.VideoCodecContext) -> Colours:
        """What the numbers of a frame, or of the stream by its header, mean. Raises MediaError for rare matrices."""
        colours = colours_of(source, self.colour)
        if colours is None:
            raise self.error(f"colours by matrix {int(source.colorspace)} of H.273; convert it to BT.709")
        return colours

    @cached_property
    def timing(self) -> Timing:
        """The clock of the frames, from the timestamps of all packets (as far as ``limits.frames`` goes); no decoding.

        Where timestamps are missing, or all the same, frames follow each other at the header's rate.
        """
        import av

        times: list[int | None] = []
        final = (-math.inf, 0)  # timestamp and duration of the frame that is shown last
        whole = True
        with self._open() as container:
            stream = container.streams[self.stream.index]
            try:
                for packet in container.demux(stream):
                    if not packet.size or packet.is_discard:  # an edit list shows none of it
                        continue
                    self._in_time()
                    if len(times) >= self.limits.frames + REORDERED:
                        whole = False
                        break
                    times.append(packet.pts if packet.pts is not None else packet.dts)
                    if times[-1] is not None:
                        final = max(final, (times[-1], packet.duration or 0))
            except av.error.FFmpegError:  # decoding has the last word on what is damaged
                whole = False
        known = sorted(time for time in times if time is not None)
        declared = [self.stream.average_rate, self.stream.base_rate] if self.kind in DECLARES_RATE else []
        if len(known) == len(times) and (len(known) == 1 or len(set(known)) > 1):
            tick, stored = self.stream.time_base, self.kind == "avi"
            assert tick is not None, "a stream with timestamps has a unit for them"
            return fit(known, tick, last=final[1], declared=declared, whole=whole, numbered=stored)
        rate = Fraction(self.probe().fps).limit_denominator(1001)
        return fit(range(max(1, len(times))), 1 / rate, declared=[rate], whole=whole, numbered=True)

    def _timestamp(self, frame: av.VideoFrame, number: int) -> float:
        """Seconds on the file's clock of a decoded frame, the ``number``-th to be shown."""
        timing = self.timing
        if frame.pts is not None and not timing.numbered:
            assert frame.time_base is not None, "a frame with a timestamp has a unit for it"
            return float(frame.pts * frame.time_base)
        known = timing.times
        return float(known[number]) if number < len(known) else timing.origin + number / timing.fps

    def _in_time(self) -> None:
        if time.monotonic() - self.started > self.limits.wall_seconds:
            raise self.error(
                f"decoding took more than {self.limits.wall_seconds:g} s; scale it down or cut it"
            )

    def frames(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """(seconds since the first, frame) in display order; refuses a file that is cut off."""
        first, last, count = None, 0.0, 0
        timing = self.timing
        for frame in self.container.decode(self.stream):
            count += 1
            if count > self.limits.frames:
                raise self.error(f"more than {self.limits.frames} frames; cut it to the part you need")
            self._in_time()
            if frame.width * frame.height > self.limits.video_pixels:
                raise self.error(
                    f"a frame of {frame.width}x{frame.height} pixels; the limit is on the header too"
                )
            moment = timing.moment(self._timestamp(frame, count - 1))
            first = moment if first is None else first
            last = max(last, moment - first)
            if last > self.limits.seconds:
                raise self.error(f"longer than {self.limits.seconds:g} s; cut it to the part you need")
            yield last, frame
        promised = self._promised()
        if count and last + 2 / timing.fps < 0.8 * promised:
            raise self.error(
                f"cut off: it ends at {last:.2f} s of {promised:.2f} s; download or export it again"
            )

    def _promised(self) -> float:
        """The seconds the header speaks of; Matroska says them of the whole file only, and sound may be longer."""
        if self.stream.duration:
            return self._stream_seconds()
        container, duration = self.container, self.container.duration
        if len(container.streams) != 1 or not duration:
            return 0.0
        return (duration - max(0, container.start_time or 0)) / CONTAINER_TICKS

    def pixels(self, frame: av.VideoFrame) -> np.ndarray:
        """uint8 [h, w, 3], square pixels, upright."""
        width = max(1, round(frame.width * self._aspect()))
        if width * frame.height > self.limits.video_pixels * 4:
            raise self.error(f"{width}x{frame.height} with square pixels; scale it down")
        matrix = code_for(frame, self.colours(frame))
        array = frame.to_ndarray(format="rgb24", width=width, height=frame.height, src_colorspace=matrix)
        return orientation_of(frame).apply(array)


def regular_file(path: str | Path, most_bytes: int) -> Path:
    """The absolute path of a plain, non-empty file of at most ``most_bytes``. Raises MediaError."""
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
    raise UnknownContainerError(f"{path}: not a video; give {KNOWN}")


def _is_cover_art(stream: av.VideoStream) -> bool:
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)
