"""What a video file is and what it says made it; one frame is decoded."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cogvideox.errors import ConfigError, InputError
from cogvideox.files import parse_json, read_small_text
from cogvideox.video.reading import LIMITS, OpenVideo, Probe, probe
from cogvideox.video.saving import sidecar_of

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
        config = self.manifest.get("config")
        if isinstance(config, dict):
            lines += [
                f"  {n:<10}{' '.join(str(config[n]).split())}" for n in _SHOWN if config.get(n) is not None
            ]
        model = self.manifest.get("model")
        if isinstance(model, dict) and "name" in model:
            lines.append(f"  model     {' '.join(str(model['name']).split())}")
        return "\n".join([*lines, *([] if self.manifest else ["  no word of what made it"])])


_SHOWN = ("prompt", "seed", "steps", "guidance", "sampler", "image", "video", "lora")


def video_info(path: str | Path) -> VideoInfo:
    """Read the header, the timestamps, the first frame and the manifest. Raises MediaError."""
    with OpenVideo(path, LIMITS) as opened:
        manifest = _json(_comment(opened.container.metadata))
    beside = sidecar_of(Path(path))
    if "config" not in manifest and os.path.lexists(beside):
        try:
            written = _json(read_small_text(beside, root=beside.parent, most=LONGEST))
        except InputError as error:
            warnings.warn(f"the record beside {path} is not used: {error}", stacklevel=2)
            written = {}
        manifest = written if "config" in written else manifest  # another program's file is not ours to read
    return VideoInfo(str(path), probe(path), manifest)


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
