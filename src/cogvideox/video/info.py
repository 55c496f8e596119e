"""What a video, picture or record is and what it says made it; of a video one frame is decoded."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from cogvideox.errors import ConfigError, InputError, MediaError
from cogvideox.files import parse_json, read_small_text
from cogvideox.files.paths import IMAGE_SUFFIXES
from cogvideox.video.image import IMAGE_FORMATS, read_image
from cogvideox.video.reading import LIMITS, OpenVideo, Probe, probe, regular_file
from cogvideox.video.saving import LABEL, is_ours, sidecar_of

LONGEST = 1 << 20  # characters of a manifest


@dataclass(frozen=True)
class VideoInfo:
    """A video file: what is in it, and the manifest in its tags or in the JSON beside it ({} when there is none)."""

    path: str
    probe: Probe
    manifest: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Everything about the file, as JSON text."""
        return json.dumps(asdict(self), indent=2)

    def to_text(self) -> str:
        """A few lines for people."""
        p = self.probe
        sound = ", with sound" if p.sound else ""
        pace = "" if p.steady else " on average, of variable rate"
        lines = [
            self.path,
            "  kind      video",
            f"  frames    {p.frames} of {p.width}x{p.height}, {p.fps:g} per second{pace}, {p.seconds:.2f} s",
            f"  coding    {p.codec}, {p.pixel_format or 'unknown pixels'}, in {p.container}{sound}",
            f"  colours   {p.colours}",
        ]
        if not p.orientation.plain:
            lines.append(f"  orientation  {p.orientation}")
        return "\n".join([*lines, *_about(self.manifest)])


@dataclass(frozen=True)
class PictureInfo:
    """A picture file: its size and format, and the manifest beside it or the mark in it ({} when there is none)."""

    path: str
    width: int
    height: int
    form: str
    manifest: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Everything about the file, as JSON text."""
        return json.dumps(asdict(self), indent=2)

    def to_text(self) -> str:
        """A few lines for people."""
        lines = [self.path, "  kind      picture", f"  size      {self.width}x{self.height}, {self.form}"]
        return "\n".join([*lines, *_about(self.manifest)])


@dataclass(frozen=True)
class RecordInfo:
    """The JSON file that is written beside a video, picture or scene: its manifest."""

    path: str
    manifest: dict[str, Any]

    def to_json(self) -> str:
        """The whole record, as JSON text."""
        return json.dumps(asdict(self), indent=2)

    def to_text(self) -> str:
        """A few lines for people."""
        what = " ".join(str(self.manifest.get("kind")).split())
        return "\n".join([self.path, f"  kind      record ({what})", *_about(self.manifest)])


FileInfo = VideoInfo | PictureInfo | RecordInfo
"""What a file of ours or anyone's is."""


_SHOWN = ("prompt", "seed", "steps", "guidance", "sampler", "image", "video", "lora")


def _about(manifest: dict[str, Any]) -> list[str]:
    """The lines for people about what made a file."""
    lines, config, model = [], manifest.get("config"), manifest.get("model")
    if isinstance(config, dict):
        lines += [f"  {n:<10}{' '.join(str(config[n]).split())}" for n in _SHOWN if config.get(n) is not None]
    if isinstance(model, dict) and "name" in model:
        lines.append(f"  model     {' '.join(str(model['name']).split())}")
    if lines or not manifest:
        return lines or ["  no word of what made it"]
    return [f"  made by   a model ({LABEL})"] if LABEL in manifest else []


def file_info(path: str | Path) -> FileInfo:
    """What a video, a picture or a record (``.json``) is and what made it. Raises MediaError."""
    ending = Path(path).suffix.lower()
    if ending == ".json":
        return record_info(path)
    return picture_info(path) if ending in IMAGE_SUFFIXES else video_info(path)


def picture_info(path: str | Path) -> PictureInfo:
    """Read a picture's header and the manifest. Raises MediaError."""
    height, width = read_image(path).shape[:2]
    with Image.open(path, formats=IMAGE_FORMATS) as image:
        form, comment = image.format or "unknown format", image.info.get("Comment")
    manifest = _json(comment) if isinstance(comment, str) else {}
    return PictureInfo(str(path), width, height, form, _with_record(path, manifest))


def record_info(path: str | Path) -> RecordInfo:
    """Read the record that stands beside a video. Raises MediaError for a file that is none of ours."""
    regular_file(path, LONGEST)
    if not is_ours(path):
        raise MediaError(f"{path}: JSON, but no record of a video; give the record, or the video itself")
    return RecordInfo(str(path), _json(read_small_text(Path(path), most=LONGEST)))


def video_info(path: str | Path) -> VideoInfo:
    """Read the header, the timestamps, the first frame and the manifest. Raises MediaError."""
    with OpenVideo(path, LIMITS) as opened:
        manifest = _json(_comment(opened.container.metadata))
    return VideoInfo(str(path), probe(path), _with_record(path, manifest))


def _with_record(path: str | Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest in a file, or the one beside it where the file holds no settings."""
    beside = sidecar_of(Path(path))
    if "config" not in manifest and os.path.lexists(beside):
        try:
            written = _json(read_small_text(beside, root=beside.parent, most=LONGEST))
        except InputError as error:
            warnings.warn(f"the record beside {path} is not used: {error}", stacklevel=2)
            written = {}
        manifest = written if "config" in written else manifest  # another program's file is not ours to read
    return manifest


def _comment(tags: dict[str, str]) -> str:
    """The comment; Matroska writes names of tags in capitals."""
    return next((value for name, value in tags.items() if name.lower() == "comment"), "")


def _json(text: str) -> dict[str, Any]:
    """The object that ``text`` is; {} for anything else: whoever wrote the file may have put there what they like."""
    try:
        value = parse_json(text, "manifest", nan_is_none=True) if len(text) <= LONGEST else {}
    except ConfigError:
        return {}
    return value if isinstance(value, dict) else {}
