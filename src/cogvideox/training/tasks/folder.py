"""A folder of clips as training reads it; raw videos are curated into it first."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from cogvideox.clip_folders import CaptionSource, Columns
from cogvideox.clip_folders.listing import Listing, list_clips
from cogvideox.config import Config
from cogvideox.data.clips import best_share, held_out
from cogvideox.data.pack import Batching
from cogvideox.errors import ConfigError
from cogvideox.files.paths import lies_in
from cogvideox.parallel.mesh import is_main_process
from cogvideox.training.tasks.sizes import SizeSetting
from cogvideox.video.colour import Colour


class FolderData(Config):
    """Clips and captions of a folder, in any layout that ``cogvideox data doctor`` reads."""

    renamed_settings: ClassVar[dict[str, str]] = {"films": "videos", "rows": "batching"}

    folder: str = Field("", description="folder of the clips, or where those of `videos` are written")
    videos: str | None = Field(None, description="folder of raw videos, curated into `folder` first")
    recipe: str = Field("default", description="curation: default, staged, tiny, cuts, or a recipe.yaml")
    caption: str | None = Field(None, min_length=1, description="for clips without a caption; null: left out")
    captions: str | None = Field(
        None,
        min_length=1,
        description="table, or list beside videos.txt, of the captions; null: found by its name",
    )
    caption_column: str | None = Field(
        None, min_length=1, description="column of the captions; null: caption, text, prompt, ..."
    )
    file_column: str | None = Field(
        None, min_length=1, description="column of the files; null: file_name, file_path, video, path, ..."
    )
    colour: Colour = Field("guess", description="how videos without a colour tag are read; guess: by size")
    size: SizeSetting = Field(SizeSetting(), description="how files become clips; null: that of the model")
    images: bool = Field(True, description="pictures take part, as clips of one frame")
    batching: Batching = Field("pack", description="collate by: pack (token budget), bucket (shape), batch")
    budget: int | None = Field(
        None,
        gt=0,
        description="tokens of a micro-step, text included (pack, bucket); null: one clip, or short ones up to 2,000",
    )
    best: float = Field(1.0, gt=0, le=1, description="share of clips kept, by the score in the metadata")
    held_out: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="share of clips that are not trained on; at most 64 of them are measured with",
    )
    lost: float = Field(0.01, ge=0, le=1, description="largest share of clips that may turn out unusable")

    @property
    def source(self) -> CaptionSource:
        """Where the captions are."""
        return CaptionSource(self.captions, Columns(self.caption_column, self.file_column))


def check_named(data: FolderData) -> None:
    """Raises ConfigError when no folder is set: none is trained on by chance."""
    if data.videos == "":
        raise ConfigError(
            "task.data.videos: not set; name the folder of raw videos, such as task.data.videos=videos/, or train on "
            "clips with task.data.folder=clips/"
        )
    if not data.folder:
        raise ConfigError(
            "task.data.folder: not set; name a folder of clips and captions, such as task.data.folder=clips/ "
            "(`cogvideox data doctor clips/` says what it holds)"
        )


def check_folder(data: FolderData | None, out: Path) -> None:
    """Raise ConfigError when a folder of clips is not named, or when it and the run's folder ``out`` overlap: a run
    must not write where clips are read, nor curation where raw videos are."""
    if data is None:
        return
    check_named(data)
    for folder in filter(None, (data.folder, data.videos)):
        if lies_in(out, folder):
            raise ConfigError(
                f"out {out}: lies inside {folder}, so its sample videos would be trained on next time; choose another"
            )
    if data.videos:
        from cogvideox.curation.run import check_apart

        check_apart(data.videos, data.folder)


def list_folder(data: FolderData) -> Listing:
    """The clips that take part; raw videos are curated first. Raises ConfigError when there are none."""
    check_named(data)
    curate_videos(data)
    listing = best_share(list_clips(data.folder, data.caption, data.source), data.best)
    if not data.images:
        listing.entries = [entry for entry in listing.entries if not entry.is_image]
    return listing


def curate_videos(data: FolderData) -> None:
    """Curate the raw videos, if any, into the folder; finished ones are not curated again. One process does it. Raises
    ConfigError when no clip is kept."""
    if data.videos is None or not is_main_process():
        return
    from cogvideox.curation.recipe import find_recipe
    from cogvideox.curation.run import curate

    recipe = find_recipe(data.recipe)
    if data.colour != "guess":
        recipe = recipe.model_copy(update={"colour": data.colour})
    summary = curate(data.videos, data.folder, recipe)
    counts = f"{summary['kept']} of {summary['clips']} clips of {summary['films']} videos kept"
    print(f"{data.videos}: {counts}; see {data.folder}/report.html", file=sys.stderr)
    if not summary["kept"]:
        raise ConfigError(
            f"{data.videos}: {counts} by recipe {data.recipe!r}; see {data.folder}/report.html, or choose another "
            "recipe"
        )


def train_and_held_out(data: FolderData, listing: Listing) -> tuple[Listing, Listing]:
    """(clips to train on, clips to measure with); says when none is held out and both are the same."""
    train, test = held_out(listing, data.held_out)
    if not test.entries:
        print(f"{data.folder}: no clip is held out; figures are of clips trained on", file=sys.stderr)
        test.entries = list(train.entries)
    return train, test


def report_dropped(data: FolderData, dropped: Mapping[str, str], total: int, known: int = 0) -> None:
    """Name clips that are left out, with the reason. Raises ConfigError when these and ``known`` ones are too many."""
    for name, reason in list(dropped.items())[:20]:
        print(f"left out {name}: {reason}", file=sys.stderr)
    check_dropped(data, known + len(dropped), total)


def check_dropped(data: FolderData, count: int, total: int) -> None:
    """Raises ConfigError when more clips of a folder are left out than ``data.lost`` allows."""
    if count > data.lost * total:
        raise ConfigError(
            f"{data.folder}: {count} of {total} clips cannot be used, {data.lost:.0%} may; see `cogvideox data "
            f"doctor {data.folder}`, or raise task.data.lost"
        )


def data_fingerprint(
    train: Sequence[Any], held_out: Sequence[Any], networks: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What a state keeps of the data: counts of samples, one digest of what they are, and digests of frozen networks
    by the setting that names each."""
    digest = hashlib.sha256(json.dumps([train, held_out]).encode()).hexdigest()
    counts = {"train": len(train), "held_out": len(held_out)}
    return {**counts, "clips": digest, "networks": dict(networks or {})}


def check_unchanged(folder: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on with other data: samples are found by their index in the folder's order, so another folder would
    repeat some and lose others, and other frozen networks would make the rest another run.

    Raises ConfigError. States of older versions do not hold everything; what they lack is not compared.
    """
    networks = before.get("networks", now["networks"])
    other = [name for name, digest in now["networks"].items() if networks.get(name, digest) != digest]
    if other:
        raise ConfigError(
            f"task.{other[0]}: the network there is not the one of the run's last state; put it back, or start in "
            "another out="
        )
    if before.get("clips", now["clips"]) != now["clips"]:
        then, here = (f"{facts['train']} + {facts['held_out']} held out" for facts in (before, now))
        raise ConfigError(
            f"{folder}: changed since the run's last state: {then} samples then, {here} now, or other names, captions "
            "or bytes; put the clips and captions back, or start in another out="
        )
