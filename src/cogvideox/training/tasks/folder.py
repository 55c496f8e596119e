"""A folder of clips as training reads it; raw films are curated into it first."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from cogvideox.clip_folders import CaptionSource, Columns
from cogvideox.clip_folders.listing import Listing, list_clips
from cogvideox.config import Config
from cogvideox.data.clips import best_share, held_out
from cogvideox.data.stream import RowKind
from cogvideox.errors import ConfigError
from cogvideox.files.paths import lies_in
from cogvideox.parallel.mesh import is_first
from cogvideox.training.tasks.sizes import SizeSetting
from cogvideox.video.colour import Colour


class FolderData(Config):
    """Clips and captions of a folder, in any layout that ``cogvideox data doctor`` reads."""

    folder: str = Field("", description="the folder; with films, where their curation goes; has no default")
    films: str | None = Field(None, description="folder of raw videos, curated into `folder` before training")
    recipe: str = Field(
        "default", description="how films are curated: default, staged, tiny, cuts, or a recipe.yaml"
    )
    caption: str | None = Field(
        None, min_length=1, description="of clips that have none; null: they are left out"
    )
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
    colour: Colour = Field(
        "guess", description="how videos without a colour tag are read; guess: by their size"
    )
    size: SizeSetting = Field(
        SizeSetting(), description="how files become clips; what is null is that of the model"
    )
    images: bool = Field(True, description="pictures take part, as clips of one frame")
    rows: RowKind = Field("pack", description="pack: rows of one token budget; bucket: of one shape; batch")
    budget: int | None = Field(
        None,
        gt=0,
        description="tokens of a row, text included (pack, bucket); null: one clip, or short ones up to 2,000",
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
    """Raises ConfigError when nobody has said which folder: none is trained on by chance."""
    if data.films == "":
        raise ConfigError(
            "task.data.films: not set; name the folder of raw videos, such as task.data.films=films/, or train on "
            "clips with task.data.folder=clips/"
        )
    if not data.folder:
        raise ConfigError(
            "task.data.folder: not set; name a folder of clips and captions, such as task.data.folder=clips/ "
            "(`cogvideox data doctor clips/` says what it holds)"
        )


def check_apart(data: FolderData, out: Path) -> None:
    """A run must not write where clips are read, nor curation where films are. Raises ConfigError when ``out`` lies
    inside either folder, or one of the two inside the other."""
    for place in filter(None, (data.folder, data.films)):
        if lies_in(out, place):
            raise ConfigError(
                f"out {out}: lies inside {place}, so its sample videos would be trained on next time; choose another"
            )
    if data.films:
        from cogvideox.curation.run import check_apart as check_films

        check_films(data.films, data.folder)


def check_folder(data: FolderData | None, out: Path) -> None:
    """Raise ConfigError when a folder of clips is not named, or when it and the run's folder ``out`` overlap."""
    if data is not None:
        check_named(data)
        check_apart(data, out)


def listed(data: FolderData) -> Listing:
    """The clips that take part; films are curated first. Raises ConfigError when there are none."""
    check_named(data)
    curate_films(data)
    listing = best_share(list_clips(data.folder, data.caption, data.source), data.best)
    if not data.images:
        listing.entries = [entry for entry in listing.entries if not entry.is_image]
    return listing


def split(data: FolderData, listing: Listing) -> tuple[Listing, Listing]:
    """(to train on, to measure with); without held-out clips both are the same, and that is said."""
    train, test = held_out(listing, data.held_out)
    if not test.entries:
        print(f"{data.folder}: no clip is held out; figures are of clips trained on", file=sys.stderr)
        test.entries = list(train.entries)
    return train, test


def facts_of(
    train: Sequence[Any], test: Sequence[Any], networks: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What a state keeps of the data: how many samples to train on and to measure with, a digest of what they are, and
    digests of frozen networks by the setting that names them."""
    digest = hashlib.sha256(json.dumps([train, test]).encode()).hexdigest()
    return {"train": len(train), "held_out": len(test), "clips": digest, "networks": dict(networks or {})}


def check_unchanged(place: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Samples are found by their place in the folder's order: another folder would double some and lose others; other
    networks would make the rest of the run another one.

    Raises ConfigError. States of older versions do not say everything; what they do not say is not compared.
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
            f"{place}: changed since the run's last state: {then} samples then, {here} now, or other names, captions "
            "or bytes; put the clips and captions back, or start in another out="
        )


def check_lost(data: FolderData, dropped: Mapping[str, str], total: int, before: int = 0) -> None:
    """No clip is left out in silence, and too many, with the ``before`` that are known already, stop the run."""
    for name, reason in list(dropped.items())[:20]:
        print(f"left out {name}: {reason}", file=sys.stderr)
    refuse_lost(data, before + len(dropped), total)


def refuse_lost(data: FolderData, count: int, total: int) -> None:
    """Raises ConfigError when more clips of a folder are lost than may be."""
    if count > data.lost * total:
        raise ConfigError(
            f"{data.folder}: {count} of {total} clips cannot be used, {data.lost:.0%} may; see `cogvideox data "
            f"doctor {data.folder}`, or raise task.data.lost"
        )


def curate_films(data: FolderData) -> None:
    """Curate the films, if any, into the folder; what is done is not done again. One process does it for all.

    Raises ConfigError when no clip is kept.
    """
    if data.films is None or not is_first():
        return
    from cogvideox.curation.recipes import find_recipe
    from cogvideox.curation.run import curate

    recipe = find_recipe(data.recipe)
    if data.colour != "guess":
        recipe = recipe.model_copy(update={"colour": data.colour})
    summary = curate(data.films, data.folder, recipe)
    said = f"{summary['kept']} of {summary['clips']} clips of {summary['films']} films kept"
    print(f"{data.films}: {said}; see {data.folder}/report.html", file=sys.stderr)
    if not summary["kept"]:
        raise ConfigError(
            f"{data.films}: {said} by recipe {data.recipe!r}; see {data.folder}/report.html, or choose another recipe"
        )
