"""Video: frames as people see them, and what can be done with them before a tensor is made."""

from __future__ import annotations

import base64
import json
import math
import operator
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from cogvideox.errors import FrameError, MediaError, NumericsError, OutputError, SizeError
from cogvideox.files.atomic import atomic_file, write_json
from cogvideox.files.page import text
from cogvideox.video.colour import Colour
from cogvideox.video.reading import LIMITS, DecodeLimits, OpenVideo
from cogvideox.video.saving import (
    LABEL,
    LEAST_FPS,
    RECORDS,
    TAGGED,
    check_output,
    is_ours,
    previews_of,
    sidecar_of,
    write_gif,
    write_mkv,
    write_mp4,
    write_png,
)
from cogvideox.video.sheet import contact_sheet
from cogvideox.video.timing import nearest_in_time

MOST_CUT = 64
"""How much larger than what is cut out of it a frame may become (``Video.cover``)."""

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Video:
    """``frames`` uint8 [t, h, w, 3], ``fps`` frames per second, ``manifest`` what made it (camera: empty)."""

    frames: np.ndarray
    fps: float
    manifest: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape, kind = getattr(self.frames, "shape", None), getattr(self.frames, "dtype", type(self.frames))
        if kind != np.uint8 or shape is None or len(shape) != 4 or shape[3] != 3 or 0 in shape:
            raise MediaError(
                f"frames of {kind} {shape}: a video needs uint8 [t, h, w, 3] with at least one frame"
            )
        if not (math.isfinite(self.fps) and 0 < self.fps <= LIMITS.fps):
            raise FrameError(f"fps {self.fps}: must be above 0 and at most {LIMITS.fps:g}")

    @property
    def height(self) -> int:
        """Height of its frames in pixels."""
        return self.frames.shape[1]

    @property
    def width(self) -> int:
        """Width of its frames in pixels."""
        return self.frames.shape[2]

    @property
    def seconds(self) -> float:
        """Length of the video in seconds: frames over frames per second."""
        return len(self.frames) / self.fps

    def __len__(self) -> int:
        return len(self.frames)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> Video: ...

    def __getitem__(self, index: int | slice) -> np.ndarray | Video:
        """``video[0]``: a frame, uint8 [h, w, 3], counted from the end when negative; ``video[8:16]``: a Video of the
        same rate and record, with a step too (``video[::-1]`` plays backwards). Raises IndexError or FrameError.
        """
        if isinstance(index, slice):
            frames = self.frames[index]
            if not len(frames):
                raise FrameError(
                    f"frames {index.start}:{index.stop}:{index.step} of {len(self)}: none is left"
                )
            return Video(frames, self.fps, self.manifest)
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index}: the video has {len(self)}, 0 to {len(self) - 1}")
        return self.frames[index]

    def __iter__(self) -> Iterator[np.ndarray]:
        """Its frames, uint8 [h, w, 3] each."""
        return iter(self.frames)

    def __repr__(self) -> str:
        return (
            f"Video({len(self)} frames, {self.width}x{self.height}, {self.fps:g} fps, {self.seconds:.2f} s)"
        )

    def save(
        self,
        path: str | Path,
        overwrite: bool = False,
        metadata: bool = True,
        tags: Mapping[str, str] | None = None,
    ) -> Path:
        """Write .mp4, .mkv (lossless), .gif or (a row of frames) .png, and what made it beside it as .json.

        metadata=False writes neither prompt nor settings, only that a model made it. ``tags``: further texts by name
        for the tags of an .mp4 or .mkv. Raises OutputError.
        """
        beside = metadata and bool(self.manifest)
        path = check_output(path, overwrite, sidecar=beside)
        if self.fps < LEAST_FPS:
            raise FrameError(f"fps {self.fps:g}: no file keeps so low a rate; the least is {LEAST_FPS:g}")
        if path.suffix.lower() in RECORDS:
            check_output(path.with_suffix(""), overwrite)  # says which endings there are
        if tags and path.suffix.lower() not in TAGGED:
            raise OutputError(
                f"{path}: tags {', '.join(tags)}: a {path.suffix} file keeps none; name it {' or '.join(TAGGED)}"
            )
        with atomic_file(path, overwrite) as temporary:
            self._write(temporary, path.suffix.lower(), {**self._tags(metadata), **(tags or {})})
            if beside:
                write_json(sidecar_of(path), self.manifest, overwrite)
        if overwrite and not beside and is_ours(sidecar_of(path)):
            sidecar_of(path).unlink()  # the record of the video that stood here before
        return path

    def _write(self, path: Path, suffix: str, tags: dict[str, str]) -> None:
        title = tags.get("title", "")
        if suffix == ".gif":
            write_gif(path, self.frames, self.fps, " ".join(filter(None, (self._label(), title))))
        elif suffix == ".png":
            write_png(path, contact_sheet([self], [title]), {"Comment": self._label()})
        elif suffix == ".mkv":
            write_mkv(path, self.frames, self.fps, tags)
        else:
            write_mp4(path, self.frames, self.fps, tags)

    def save_previews(self, path: str | Path, overwrite: bool = False, metadata: bool = True) -> list[Path]:
        """Write an enlarged .gif and a contact sheet (.png) beside ``path``, whatever it is not itself."""
        path, title = Path(path), self.title if metadata else ""
        written = previews_of(path)
        for preview in written:
            with atomic_file(check_output(preview, overwrite), overwrite) as temporary:
                if preview.suffix == ".gif":
                    write_gif(temporary, self.frames, self.fps, self._label(), least_height=256)
                else:
                    write_png(temporary, contact_sheet([self], [title]), {"Comment": self._label()})
        return written

    def _label(self) -> str:
        """That a model made it, as JSON; '' for a camera's video."""
        return json.dumps({LABEL: self.manifest[LABEL]}) if LABEL in self.manifest else ""

    def _tags(self, metadata: bool) -> dict[str, str]:
        if not metadata:
            return {"comment": self._label()} if self._label() else {}
        if not self.manifest:
            return {}
        comment = json.dumps(self.manifest, default=str)  # ASCII, so that every player reads it
        return {"title": self.title[:200], "comment": comment}

    @property
    def title(self) -> str:
        """The prompt it was made from, or ''."""
        config = self.manifest.get("config", {})
        return " ".join(str(config.get("prompt") or "").split()) if isinstance(config, dict) else ""

    def resize(self, height: int, width: int) -> Video:
        """Every frame scaled to height x width, antialiased (Lanczos); the aspect may change."""
        _check_size(height, width)
        if (height, width) == (self.height, self.width):
            return self
        frames = [Image.fromarray(f).resize((width, height), Image.Resampling.LANCZOS) for f in self.frames]
        return Video(np.stack([np.asarray(f) for f in frames]), self.fps, self.manifest)

    def cover(self, height: int, width: int) -> Video:
        """Scaled, aspect kept, until it covers height x width, then the centre cut out.

        Raises MediaError for frames so long that less than one part in ``MOST_CUT`` of them would be left.
        """
        _check_size(height, width)
        scale = max(height / self.height, width / self.width)
        tall, wide = max(height, round(self.height * scale)), max(width, round(self.width * scale))
        if tall * wide > MOST_CUT * height * width:
            raise MediaError(
                f"{self.width}x{self.height} pixels to cover {width}x{height}: less than 1/{MOST_CUT} of it would be "
                "left; cut out what is to be seen, or choose fit contain"
            )
        top, left = (tall - height) // 2, (wide - width) // 2
        scaled = self.resize(tall, wide)
        return Video(scaled.frames[:, top : top + height, left : left + width], self.fps, self.manifest)

    def contain(self, height: int, width: int) -> Video:
        """Scaled, aspect kept, until it fits into height x width, in the middle between black bars."""
        _check_size(height, width)
        scale = min(height / self.height, width / self.width)
        tall, wide = (max(1, round(side * scale)) for side in (self.height, self.width))
        tall, wide = min(height, tall), min(width, wide)
        top, left = (height - tall) // 2, (width - wide) // 2
        bars = ((0, 0), (top, height - tall - top), (left, width - wide - left), (0, 0))
        return Video(np.pad(self.resize(tall, wide).frames, bars), self.fps, self.manifest)

    def to_tensor(self) -> Float[Tensor, "1 3 t h w"]:
        """Float32 in [-1, 1]."""
        import torch

        return in_range(torch.from_numpy(np.ascontiguousarray(self.frames.transpose(3, 0, 1, 2)))[None])

    def to_bytes(self) -> UInt8[Tensor, "1 3 t h w"]:
        """Its bytes, a quarter of what ``to_tensor`` takes, which shares no memory as this does; see ``in_range``."""
        import torch

        return torch.from_numpy(self.frames.transpose(3, 0, 1, 2))[None]

    @classmethod
    def from_tensor(
        cls, pixels: Float[Tensor, "1 3 t h w"], fps: float, manifest: dict[str, Any] | None = None
    ) -> Video:
        """From values in [-1, 1] (clamped), a batch of one. Raises NumericsError on NaN or Inf."""
        if pixels.ndim == 5 and pixels.shape[0] == 1:
            pixels = pixels[0]
        if pixels.ndim != 4 or pixels.shape[0] != 3:
            raise MediaError(f"pixels of shape {list(pixels.shape)}: one video is [1, 3, t, h, w]")
        return cls(to_frames(pixels.detach()), fps, dict(manifest or {}))

    def _repr_html_(self) -> str:
        """The video itself, in a notebook."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "video.mp4"
            write_mp4(path, self.frames, self.fps, {})
            data = base64.b64encode(path.read_bytes()).decode()
        width = max(self.width, min(256, 8 * self.width))
        source = f'<source src="data:video/mp4;base64,{data}" type="video/mp4">'
        return (
            f'<video width="{width}" style="image-rendering: pixelated" controls loop autoplay muted>'
            f"{source}</video>"
            f"<div>{text(self.title)}</div>"
        )


def in_range(pixels: Tensor) -> Float[Tensor, "..."]:
    """Bytes as float32 in [-1, 1]; what is floating point already as it is."""
    return pixels if pixels.is_floating_point() else pixels.contiguous().float() / 127.5 - 1.0


def to_frames(pixels: Float[Tensor, "3 t h w"]) -> np.ndarray:
    """Values in [-1, 1] (clamped) as uint8 [t, h, w, 3]. Raises NumericsError on NaN or Inf."""
    import torch

    if not bool(pixels.isfinite().all()):
        bad = int((~pixels.isfinite()).sum())
        raise NumericsError(f"{bad} of {pixels.numel()} pixel values are NaN or Inf; decode in float32")
    # where the pixels are, and a frame at a time: to the host goes a byte for each, not a float
    frames = [
        frame.float().clamp(-1, 1).add(1).mul(127.5).round().byte().permute(1, 2, 0)
        for frame in pixels.unbind(1)
    ]
    return torch.stack(frames).contiguous().cpu().numpy()


def read_video(
    path: str | Path,
    max_frames: int | None = None,
    fps: float | None = None,
    limits: DecodeLimits = LIMITS,
    colour: Colour = "guess",
) -> Video:
    """Read a video file at a constant rate.

    fps: frames per second wanted; the file's own when None, which gives exactly its frames. max_frames: stop after so
    many; without it a video beyond the limits is an error. colour: how untagged colours are read. Raises MediaError.
    """
    with OpenVideo(path, limits, colour) as opened:
        header, timing = opened.probe(), opened.timing
        rate = float(fps) if fps else min(timing.fps, limits.fps)
        most = max_frames if max_frames is not None else limits.frames
        if most < 1 or not math.isfinite(rate) or rate <= 0:
            raise MediaError(f"{path}: {most} frames at {rate} per second asked for; both must be above zero")
        expected = min(most, timing.count(rate) if timing.whole else most)
        kept = header.width * header.height * 3 * expected
        if kept > limits.kept_bytes:
            raise MediaError(
                f"{path}: {expected} frames of {header.width}x{header.height} need "
                f"{kept >> 20} MiB, the limit is {limits.kept_bytes >> 20} MiB; read fewer frames"
            )
        frames = list(_at_rate(opened, rate, most, complete=max_frames is None))
    if not frames:
        raise MediaError(f"{path}: no frame could be decoded; the file is damaged, re-encode it")
    if any(frame.shape != frames[0].shape for frame in frames):
        raise MediaError(f"{path}: the frame size changes on the way; re-encode it at one size")
    return Video(np.stack(frames), min(rate, limits.fps))


def _at_rate(opened: OpenVideo, rate: float, most: int, complete: bool) -> Iterator[np.ndarray]:
    """The pixels of the frames nearest in time to i / rate, at most so many; beyond them an error if ``complete``."""
    kept = 0
    for count, frame in enumerate(nearest_in_time(opened.frames(), rate, opened.timing), 1):
        if count > most:
            raise opened.error(f"more than {most} frames; cut it, or read with max_frames or a lower fps")
        pixels = opened.pixels(frame)
        kept += pixels.nbytes
        if kept > opened.limits.kept_bytes:
            raise opened.error(f"more than {opened.limits.kept_bytes >> 20} MiB of pixels; read fewer frames")
        yield pixels
        if count == most and not complete:
            return


def _check_size(height: int, width: int) -> None:
    if not (1 <= height <= LIMITS.side and 1 <= width <= LIMITS.side):
        raise SizeError(f"size {height}x{width}: height and width must be 1 to {LIMITS.side}")
