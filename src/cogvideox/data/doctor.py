"""What training would do with a folder, clip by clip, before hours are lost: kept, dropped and why, and what is odd."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cogvideox.clip_folders import CaptionSource
from cogvideox.clip_folders.listing import NO_CAPTION, ListedClip, WithoutCaptionsError, list_clips, unused
from cogvideox.data.clips import ClipShape, ClipSize, FolderClips
from cogvideox.data.pack import pack_rows, waste
from cogvideox.errors import CogVideoXError
from cogvideox.video import Colour, read_image, survey

WORDS = 170  # English words that surely fit into the 226 tokens of the released models are fewer
SHRUNK = 0.35  # share of the picture that cropping may take before it is worth a word
CUT = 0.1  # share of a clip's frames that may be cut away for 8n + 1 before it is worth a word


@dataclass
class DoctorReport:
    """The doctor's findings; ``kept`` has the shape in pixels of each clip as training would see it."""

    folder: str
    layout: str
    kept: dict[str, ClipShape] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    remarks: dict[str, list[str]] = field(default_factory=dict)
    tokens: int = 0
    longest: int = 0
    waste: float | None = None

    def remark(self, name: str, text: str) -> None:
        """Note something odd about a clip that can be used."""
        self.remarks.setdefault(name, []).append(text)

    def drop(self, name: str, reason: str) -> None:
        """Take a clip out of those that can be used, with its remarks."""
        self.dropped[name] = reason
        self.kept.pop(name, None)
        self.remarks.pop(name, None)

    def to_json(self) -> dict[str, Any]:
        """The findings as plain values, ready for JSON."""
        return asdict(self) | {"kept": {name: list(shape) for name, shape in self.kept.items()}}

    def to_text(self) -> str:
        """What a person wants to read."""
        total = len(self.kept) + len(self.dropped)
        lines = [f"{self.folder}: {self.layout}; {len(self.kept)} of {total} clips can be used"]
        shapes = Counter(self.kept.values()).most_common()
        lines += [f"  {count:5} x {s.frames} frames of {s.width}x{s.height}" for s, count in shapes[:10]]
        if self.kept:
            lines.append(f"  {self.tokens} tokens in all, at most {self.longest} in one clip")
        if self.waste is not None:
            lines.append(f"  packed rows leave {self.waste:.1%} of their places empty")
        lines += [f"  dropped {name}: {reason}" for name, reason in sorted(self.dropped.items())]
        for name, remarks in sorted(self.remarks.items()):
            lines += [f"  note {name}: {remark}" for remark in remarks]
        return "\n".join(lines)


def diagnose(
    folder: str | Path,
    size: ClipSize,
    *,
    decode: bool = True,
    words: int = 226,
    budget: int | None = None,
    caption: str | None = None,
    source: CaptionSource | None = None,
    colour: Colour = "guess",
) -> DoctorReport:
    """Examine every clip of ``folder``; with ``decode`` false only headers are read. ConfigError when it is empty.

    ``budget``: tokens of a packed row, to tell what packing wastes. ``caption``: of clips that have none. ``source``:
    where the captions are, if not found by usual names. ``colour``: how videos without a colour tag are read.
    """
    about: list[str] = []
    try:
        listing = list_clips(folder, caption, source)
    except WithoutCaptionsError as error:  # the pictures can be examined all the same
        about = [str(error)]
        listing = list_clips(folder, "not written yet", source)
    report = DoctorReport(str(folder), listing.layout, dropped=dict(listing.dropped))
    clips = FolderClips(listing, size, colour=colour)
    for index, entry in enumerate(listing.entries):
        try:
            report.kept[entry.name] = _examine(clips, index, report, decode)
        except CogVideoXError as error:
            report.drop(entry.name, str(error))
    if about:
        report.dropped |= dict.fromkeys(report.kept, NO_CAPTION)
        report.kept.clear()
    _count(report, words, budget)
    left = unused(listing)
    about += listing.notes
    if left:
        about.append(f"{len(left)} video or image files are not used: {', '.join(left[:3])}")
    if about:
        report.remarks["the folder"] = about
    return report


def _examine(clips: FolderClips, index: int, report: DoctorReport, decode: bool) -> ClipShape:
    """The shape of a clip as training would see it; what is odd goes into the report. Raises MediaError."""
    entry, size = clips.entries[index], clips.size
    with entry.location.local() as file:
        if entry.is_image:
            height, width = read_image(file).shape[:2]
            frames = there = 1
        else:
            header, timing = survey(file, colour=clips.colour)
            height, width = header.height, header.width
            there = timing.count(size.fps) if timing.whole else 0
            frames = (
                size.count(there) if there else size.frames
            ) or size.least_frames  # decoding has the last word
            if header.colours.guessed:
                guessed = f"no colour tag: read as {header.colours}; the setting colour says it for a folder"
                report.remark(entry.name, guessed)
            if header.fps < 0.9 * size.fps:
                slow = f"{header.fps:g} frames per second, {size.fps:g} wanted: frames will repeat"
                report.remark(entry.name, slow)
    shape = ClipShape(frames, *size.fit(height, width))
    _remark_on_scaling(entry, height, width, shape, report)
    if decode:
        video = clips.uncut(index)
        shape, there = ClipShape(*clips.cut(index, video).shape[:3]), len(video)
    if there and shape.frames < (1 - CUT) * min(there, size.frames):
        cut = f"{there - shape.frames} of {there} frames will be cut away: {shape.frames} are 8n + 1"
        report.remark(entry.name, cut)
    return shape


def _remark_on_scaling(
    entry: ListedClip, height: int, width: int, shape: ClipShape, report: DoctorReport
) -> None:
    """Note what is lost or invented when a clip is brought to its size, and a caption that may be too long."""
    scale = max(shape.height / height, shape.width / width)
    if scale > 1.05:
        report.remark(entry.name, f"{width}x{height} will be enlarged {scale:.1f} times")
    seen = shape.height * shape.width / (height * width * scale**2)
    if seen < 1 - SHRUNK:
        report.remark(entry.name, f"{1 - seen:.0%} of the picture will be cropped away")
    words = len(entry.caption.split())
    if words > WORDS:
        report.remark(entry.name, f"a caption of {words} words may not fit into 226 tokens")


def _count(report: DoctorReport, words: int, budget: int | None) -> None:
    """Tokens with patches of 2 x 2 latents, and what packing wastes; a clip that no row can hold is dropped."""
    tokens = {
        name: words + ((s.frames - 1) // 4 + 1) * (s.height // 16) * (s.width // 16)
        for name, s in report.kept.items()
    }
    if budget is not None:
        for name in [name for name, count in tokens.items() if count > budget]:
            why = f"{tokens.pop(name)} tokens, a row holds {budget}; raise the budget, or cut it smaller"
            report.drop(name, why)
    sizes = list(tokens.values())
    report.tokens, report.longest = sum(sizes), max(sizes, default=0)
    if budget is not None and sizes:
        report.waste = waste(pack_rows(sizes, budget), sizes, budget)
