"""Sources of clips: who has pixels, a caption and a name for each, and a digest of what the pixels are made from."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from jaxtyping import Float, UInt8
from pydantic import Field, model_validator
from torch import Tensor

from cogvideox.clip_folders.archives import ByteRange
from cogvideox.clip_folders.listing import ListedClip, Listing
from cogvideox.config import Config
from cogvideox.errors import ConfigError, InputError, MediaError
from cogvideox.files import files_below, read_small_bytes
from cogvideox.files.atomic import write_text
from cogvideox.files.paths import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from cogvideox.video import READER, Colour, Video, read_image, read_video
from cogvideox.world import caption, coverage, render, sample_scene
from cogvideox.world.scene import Scene
from cogvideox.world.style import get_style

MOST_DIGESTS = 1 << 30  # bytes of the file of digests


class ClipDataset(Protocol):
    """Clips by number; a number always means the same clip."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What the ledger and messages call it."""

    def content(self, index: int) -> str:
        """A digest of everything its pixels follow from: equal digests, equal pixels."""

    def pixels(self, index: int) -> np.ndarray:
        """uint8 [t, h, w, 3], t = 8n + 1. Raises MediaError."""

    def caption(self, index: int, variant: int) -> str:
        """What the clip shows; ``variant`` chooses among several ways to say it."""

    def save_digests(self) -> None:
        """Write down the digests that ``content`` computed, so that they need not be computed again."""
        return None

    def to_plain(self) -> dict[str, Any]:
        """What all its clips have in common, as values that JSON can hold; for ``clips_from_plain``."""

    def clip_to_plain(self, index: int) -> Any:
        """One clip, as values that JSON can hold; for ``clips_from_plain``."""

    def cost(self, index: int) -> float:
        """A number that grows with the work that reading and encoding it is: bytes of the file, or 1."""
        return 1.0

    def scene(self, index: int) -> Scene | None:
        """What happens in the clip, as the tiny world knows it; None for other clips."""
        return None


class ClipShape(NamedTuple):
    """The shape of a clip in pixels."""

    frames: int
    height: int
    width: int


class ClipSize(Config):
    """How a file becomes a clip: frames by timestamp, short side, aspect kept."""

    fps: float = Field(8.0, gt=0, le=240, description="frames per second; the frame nearest in time is taken")
    frames: int = Field(49, gt=0, description="at most so many frames, 8n + 1")
    least_frames: int = Field(9, gt=0, description="videos with fewer frames are dropped, 8n + 1")
    short_side: int = Field(256, gt=0, description="pixels of the short side after scaling")
    longest: float = Field(2.0, ge=1, description="largest aspect kept; longer sides are cropped")
    height: int | None = Field(None, gt=0, description="with width: one size for all, cropped to its aspect")
    width: int | None = Field(None, gt=0, description="with height: one size for all")
    multiple: int = Field(16, gt=0, description="sides are multiples of this: eight times the patch")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("frames", "least_frames"):
            value = getattr(self, name)
            if value % 8 != 1:
                good = max(1, value // 8 * 8 + 1)
                raise ConfigError(f"{name} {value}: the VAE needs 8n + 1 frames; try {good} or {good + 8}")
        if self.least_frames > self.frames:
            raise ConfigError(
                f"least_frames {self.least_frames}, frames {self.frames}: the least is above the most"
            )
        if (self.height is None) != (self.width is None):
            raise ConfigError(
                f"height {self.height}, width {self.width}: set both, or none for the short side"
            )
        for side in (self.height, self.width, self.short_side if self.height is None else None):
            if side is not None and side % self.multiple:
                raise ConfigError(
                    f"side {side}: must be a multiple of {self.multiple}; try {self.rounded(side)}"
                )
        return self

    def rounded(self, side: float) -> int:
        """The nearest size that is allowed, at least one multiple."""
        return max(1, round(side / self.multiple)) * self.multiple

    def fit(self, height: int, width: int) -> tuple[int, int]:
        """The height and width a clip of this size is brought to."""
        if self.height is not None and self.width is not None:
            return self.height, self.width
        aspect = min(max(height, width) / min(height, width), self.longest)
        long = self.rounded(self.short_side * aspect)
        return (self.short_side, long) if width >= height else (long, self.short_side)

    def count(self, frames: int) -> int:
        """The largest 8n + 1 within ``frames`` and the setting; 0 when there are too few."""
        fits = (min(frames, self.frames) - 1) // 8 * 8 + 1
        return fits if fits >= self.least_frames else 0


class FolderClips(ClipDataset):
    """The clips of a listing, cut to size as they are read."""

    def __init__(
        self, listing: Listing, size: ClipSize, digests: Path | None = None, colour: Colour = "guess"
    ) -> None:
        self.entries: list[ListedClip] = listing.entries
        self.size, self.colour = size, colour
        self.digests = _Digests(digests)

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, index: int) -> str:
        return self.entries[index].name

    def content(self, index: int) -> str:
        how = json.dumps(self.size.model_dump(), sort_keys=True)
        return hashlib.sha256(
            f"{self.digests.of(self.entries[index])}/{how}/{self.colour}/{READER}".encode()
        ).hexdigest()

    def pixels(self, index: int) -> np.ndarray:
        return self.cut(index, self.uncut(index))

    def uncut(self, index: int) -> Video:
        """A clip at the wanted rate with at most the wanted frames, not yet 8n + 1 of them. Raises MediaError."""
        entry = self.entries[index]
        with entry.location.local() as file:
            if entry.is_image:
                return Video(read_image(file)[None], 1)
            return read_video(file, max_frames=self.size.frames, fps=self.size.fps, colour=self.colour)

    def cut(self, index: int, video: Video) -> np.ndarray:
        """uint8 [t, h, w, 3] of the wanted size, t = 8n + 1. Raises MediaError for a clip that is too short."""
        entry = self.entries[index]
        frames = 1 if entry.is_image else self.size.count(len(video))
        if not frames:
            raise MediaError(
                f"{entry.name}: {len(video)} frames at {self.size.fps:g} per second, the least is "
                f"{self.size.least_frames}; use longer clips, or lower least_frames"
            )
        video = Video(video.frames[:frames], video.fps)
        return np.ascontiguousarray(video.cover(*self.size.fit(video.height, video.width)).frames)

    def beside(self, folder: Path) -> FolderClips:
        """The videos of the same names in another folder, whatever their ending, cut to size like these.

        Raises ConfigError that names a clip which has none there.
        """
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder; name the one with the videos of the clips' names")
        media = VIDEO_SUFFIXES | IMAGE_SUFFIXES
        files = {_stem(file.relative_to(folder).as_posix()): file for file in files_below(folder, media)}
        missing = [each.name for each in self.entries if _stem(each.name) not in files]
        if missing:
            raise ConfigError(
                f"{folder}: {len(missing)} of {len(self.entries)} clips have no video of their name there, such as "
                f"{missing[0]}; add {_stem(missing[0])}.mp4"
            )
        entries = [replace(each, location=ByteRange(files[_stem(each.name)])) for each in self.entries]
        other = FolderClips(Listing(folder, "", entries), self.size, colour=self.colour)
        other.digests = self.digests
        return other

    def caption(self, index: int, variant: int) -> str:
        return self.entries[index].caption

    def save_digests(self) -> None:
        self.digests.save()

    def to_plain(self) -> dict[str, Any]:
        return {"kind": "folder", "size": self.size.model_dump(), "colour": self.colour}

    def clip_to_plain(self, index: int) -> dict[str, Any]:
        entry = self.entries[index]
        where = asdict(entry.location) | {"file": str(entry.location.file.absolute())}
        return {"name": entry.name, "location": where}

    def cost(self, index: int) -> float:
        return float(self.entries[index].location.length or 1)


def _stem(name: str) -> str:
    """The name of a clip within its folder, without its ending."""
    return PurePosixPath(name).with_suffix("").as_posix()


class _Digests:
    """SHA-256 of clips, remembered as long as the size and the time of a file's last change stay the same."""

    def __init__(self, file: Path | None) -> None:
        self.file, self.new = file, 0
        self.known: dict[str, str] = self._written()

    def _written(self) -> dict[str, str]:
        """What the file holds; a memory only: what is lost is computed again."""
        if self.file is None or not self.file.is_file():
            return {}
        try:
            values = json.loads(read_small_bytes(self.file, most=MOST_DIGESTS))
            return {str(k): str(v) for k, v in values.items()}
        except (InputError, ValueError, AttributeError, RecursionError):
            return {}

    def of(self, entry: ListedClip) -> str:
        location = entry.location
        try:
            status = os.stat(location.file)
        except OSError as error:
            raise MediaError(f"{location.file}: cannot be read ({error.strerror}); check the path") from None
        key = f"{location.file.absolute()}:{status.st_size}:{status.st_mtime_ns}:{location.start}:{location.row_number}"
        if key not in self.known:
            self.known[key] = location.digest()
            self.new += 1
        return self.known[key]

    def save(self) -> None:
        """Write down what was computed since."""
        if self.file is not None and self.new:
            self.known = self._written() | self.known  # another data set may have added to it
            write_text(self.file, json.dumps(self.known))
            self.new = 0


class WorldClips(ClipDataset):
    """Rendered clips of the tiny world: a function of (seed, split, number), of its style, and of the stories' shares
    if given. Raises ConfigError for shares that name no story or give none a chance."""

    def __init__(
        self,
        seed: int,
        split: str,
        count: int,
        size: int,
        frames: int,
        shares: Mapping[str, float] | None = None,
        style: str = "plain",
    ) -> None:
        self.seed, self.split, self.count, self.side, self.frames = seed, split, count, size, frames
        self.style, self.shares = style, _shares(shares, style) if shares else None
        one = render(sample_scene(seed, 0, split, style=style), size=size, frames=frames)
        self.look = hashlib.sha256(one.tobytes()).hexdigest()[:12]  # changes when the renderer does

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"{self.split}/{index:06d}"

    def content(self, index: int) -> str:
        story = f"/{self._tier(index)}" if self.shares else ""
        world = "world" if self.style == "plain" else f"world-{self.style}"
        return f"{world}/{self.look}/{self.seed}/{self.split}/{index}{story}/{self.side}/{self.frames}"

    def pixels(self, index: int) -> np.ndarray:
        return render(self.scene(index), size=self.side, frames=self.frames)

    def objects(self, index: int) -> np.ndarray:
        """How much of each pixel of a clip objects cover, float32 [t, h, w] in 0..1."""
        return coverage(self.scene(index), size=self.side, frames=self.frames)

    def caption(self, index: int, variant: int) -> str:
        return caption(self.scene(index), self.seed, index * 31 + variant)

    def to_plain(self) -> dict[str, Any]:
        plain = {"kind": "world", "seed": self.seed, "split": self.split, "size": self.side}
        plain |= {"frames": self.frames, "shares": self.shares}
        return plain if self.style == "plain" else plain | {"style": self.style}

    def clip_to_plain(self, index: int) -> int:
        return index

    def scene(self, index: int) -> Scene:
        """What happens in the clip."""
        return sample_scene(self.seed, index, self.split, self._tier(index), self.style)

    def _tier(self, index: int) -> str | None:
        """The story of one clip; None: drawn by the world itself."""
        if self.shares is None:
            return None
        names, weights = list(self.shares), list(self.shares.values())
        return random.Random(f"{self.seed}/{self.split}/tier/{index}").choices(names, weights)[0]


class ChosenClips(ClipDataset):
    """Some clips of another source, under numbers from 0."""

    def __init__(self, source: ClipDataset, indices: Sequence[int]) -> None:
        self.source, self.indices = source, indices

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return self.source.name(self.indices[index])

    def content(self, index: int) -> str:
        return self.source.content(self.indices[index])

    def pixels(self, index: int) -> np.ndarray:
        return self.source.pixels(self.indices[index])

    def caption(self, index: int, variant: int) -> str:
        return self.source.caption(self.indices[index], variant)

    def to_plain(self) -> dict[str, Any]:
        return self.source.to_plain()

    def clip_to_plain(self, index: int) -> Any:
        return self.source.clip_to_plain(self.indices[index])

    def scene(self, index: int) -> Scene | None:
        return self.source.scene(self.indices[index])


def _shares(given: Mapping[str, float], style: str) -> dict[str, float]:
    tiers = get_style(style).tiers
    strange = [name for name in given if name not in tiers]
    if strange or min(given.values()) < 0 or sum(given.values()) <= 0:
        raise ConfigError(
            f"stories {dict(given)}: give shares of at least 0, one above it, for some of {', '.join(tiers)}"
        )
    return dict(given)


def best_share(listing: Listing, share: float) -> Listing:
    """The entries with the highest scores (stage 4 of the paper: the best 20 %), at least one. Raises ConfigError when
    an entry has no score."""
    if share >= 1:
        return listing
    without = [entry.name for entry in listing.entries if entry.score is None]
    if without:
        raise ConfigError(
            f"best {share:g} of {listing.root}: {len(without)} clips have no score, such as {without[0]}; "
            "give a score column in metadata, or best=1"
        )
    ranked = sorted(listing.entries, key=lambda entry: (-(entry.score or 0.0), entry.name))
    kept = {entry.name for entry in ranked[: max(1, round(share * len(ranked)))]}
    entries = [entry for entry in listing.entries if entry.name in kept]
    return Listing(listing.root, listing.layout, entries, dict(listing.dropped))


def held_out(listing: Listing, share: float, seed: int = 0) -> tuple[Listing, Listing]:
    """(for training, held out): chosen by name, so that a clip stays on its side when others come or go. At least one
    clip is held out of eight or more, if ``share`` is above 0."""
    entries = listing.entries
    drawn = {e.name: random.Random(f"{seed}/held out/{e.name}").random() for e in entries}
    out = {name for name, value in drawn.items() if value < share}
    if share > 0 and len(entries) >= 8 and not out:
        out = {min(drawn, key=lambda name: drawn[name])}
    if len(out) == len(entries):
        out = set()
    groups = ([e for e in entries if e.name not in out], [e for e in entries if e.name in out])
    train, test = (Listing(listing.root, listing.layout, group, dict(listing.dropped)) for group in groups)
    return train, test


def world_pixels(
    seed: int, indices: Sequence[int], split: str, size: int, frames: int
) -> UInt8[Tensor, "b t h w 3"]:
    """Rendered clips, uint8 as people see them."""
    clips = [render(sample_scene(seed, int(index), split), size=size, frames=frames) for index in indices]
    return torch.from_numpy(np.stack(clips))


def to_model(pixels: UInt8[Tensor, "b t h w 3"]) -> Float[Tensor, "b 3 t h w"]:
    """Bytes to the [-1, 1] the VAE reads."""
    return pixels.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
