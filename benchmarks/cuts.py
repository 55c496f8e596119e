"""Cuts found in films whose cuts are known: real takes joined at random, by hard cuts, by dissolves and through black.

python benchmarks/cuts.py index.jsonl

``index.jsonl`` names real films beside it, one a line, ``{"file": "a.mp4", "hard_cuts": [81, 240]}``: the frames that
begin a new take. The takes between are what films are joined from, but for films whose ``tags`` say that they fade,
dissolve or show titles: who knows what is a take there. The cuts of the films themselves are looked for too.
A cut is right within one frame, a dissolve when what was found overlaps it.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from cogvideox.curation.recipe import Bounds  # noqa: E402
from cogvideox.curation.shot_views import ShotViews  # noqa: E402
from cogvideox.curation.shots import Shots  # noqa: E402
from cogvideox.curation.step import Look  # noqa: E402
from cogvideox.video import Size, Video, open_decoder  # noqa: E402
from support.films import write  # noqa: E402

HEIGHT, WIDTH, FPS = 96, 160, 24
MIX = 12  # frames of a dissolve
EDGE = 3  # frames of a take that are left away beside its known cuts
EDITED = {"dissolve", "fade", "titles"}
Joint = tuple[int, int]
"""First and last frame of a joint; equal for a hard cut, whose frame begins the new take."""


@dataclass(frozen=True)
class Take:
    """Part of a real film between two cuts: ``uint8 [t, 96, 160, 3]``."""

    name: str
    frames: np.ndarray


@dataclass
class Tally:
    """Joints that are there, that were found, and where none is."""

    there: int = 0
    right: int = 0
    wrong: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    def row(self, name: str) -> str:
        """One line of the table."""
        said = self.right + len(self.wrong)
        recall, precision = self.right / max(self.there, 1), self.right / max(said, 1)
        return f"| {name} | {self.there} | {recall:.3f} | {precision:.3f} |"


def known(index: Path) -> tuple[dict[Path, list[int]], set[Path]]:
    """Films and their cuts, without those that have no list; and the films to join pieces of."""
    rows = [json.loads(line) for line in index.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows = [row for row in rows if row.get("hard_cuts") is not None]
    plain = {index.parent / row["file"] for row in rows if not EDITED & set(row.get("tags", ()))}
    return {index.parent / row["file"]: row["hard_cuts"] for row in rows}, plain


def takes(film: Path, cuts: list[int], least: int = 30) -> list[Take]:
    """The takes of a film, filling the frame, those of at least ``least`` frames."""
    with open_decoder(film, Bounds().of_decoding()) as walking:
        size = Size(HEIGHT, WIDTH)
        frames = []
        for _, step in walking.frames():
            whole = walking.size
            scale = max(HEIGHT / whole.height, WIDTH / whole.width)
            larger = Size(max(HEIGHT, round(whole.height * scale)), max(WIDTH, round(whole.width * scale)))
            frames.append(Video(step.pixels(larger)[None], 1).cover(size.height, size.width).frames[0])
    edges = [0, *cuts, len(frames)]
    found = []
    for first, stop in zip(edges[:-1], edges[1:], strict=True):
        first, stop = first + EDGE * (first > 0), stop - EDGE * (stop < len(frames))
        if stop - first >= least:
            found.append(Take(film.name, np.stack(frames[first:stop])))
    return found


def joined(pool: list[Take], rng: random.Random, how: str) -> tuple[np.ndarray, list[Joint], list[str]]:
    """A film of six pieces of 1 to 2.5 s, neighbours from different films; its joints, and what each one joins."""
    pieces: list[Take] = []
    while len(pieces) < 6:
        one = rng.choice(pool)
        if pieces and pieces[-1].name == one.name:
            continue
        length = min(len(one.frames), rng.randint(30, 60))
        first = rng.randint(0, len(one.frames) - length)
        pieces.append(Take(one.name, one.frames[first : first + length]))
    film, joints = pieces[0].frames, []
    for piece in pieces[1:]:
        if how == "hard cuts":
            joints.append((len(film), len(film)))
            film = np.concatenate([film, piece.frames])
            continue
        middle = blend(film[-MIX:], piece.frames[:MIX], through_black=how == "fades through black")
        joints.append((len(film) - MIX, len(film)))
        film = np.concatenate([film[:-MIX], middle, piece.frames[MIX:]])
    names = [f"{a.name} | {b.name}" for a, b in zip(pieces[:-1], pieces[1:], strict=True)]
    return film, joints, names


def blend(before: np.ndarray, after: np.ndarray, through_black: bool) -> np.ndarray:
    """The frames of a dissolve, or of a fade to black and up again."""
    share = ((np.arange(MIX) + 0.5) / MIX)[:, None, None, None]
    if through_black:
        mixed = np.where(share < 0.5, before * (1 - 2 * share), after * (2 * share - 1))
    else:
        mixed = (1 - share) * before + share * after
    return mixed.round().astype(np.uint8)


def found(file: Path, dissolves: bool) -> list[Joint]:
    """The joints that curation finds: between the pieces, which are too short to be looked at, all of them."""
    shots = Shots(trim=0, min_seconds=10_000, max_seconds=100_000, dissolves=dissolves)
    with open_decoder(file, Bounds().of_decoding()) as walking:
        spans = [piece.span for piece in ShotViews(walking, shots, Look()).segments()]
    return [(a.stop, b.first) for a, b in zip(spans[:-1], spans[1:], strict=True)]


def compare(
    tally: Tally, joints: list[Joint], said: list[Joint], slack: int, names: list[str], film: str
) -> None:
    """Count each joint once; a second answer to the same joint is wrong."""
    rest = list(said)
    for (low, high), name in zip(joints, names, strict=True):
        tally.there += 1
        hit = next((one for one in rest if one[0] <= high + slack and one[1] >= low - slack), None)
        if hit is None:
            tally.missed.append(name)
        else:
            tally.right += 1
            rest.remove(hit)
    tally.wrong += [f"frame {one[0]} of {film}" for one in rest]


def measure(index: Path, films: int, folder: Path, seed: int = 0) -> Iterator[tuple[str, Tally]]:
    """Every kind of joint and its tally."""
    (truth, plain), rng = known(index), random.Random(seed)
    pool = [take for film in truth if film in plain for take in takes(film, truth[film])]
    print(f"{len(pool)} takes of {len(plain)} films", file=sys.stderr)
    for how in ("hard cuts", "dissolves", "fades through black"):
        tally = Tally()
        for number in range(films):
            frames, joints, names = joined(pool, rng, how)
            file = write(folder / f"{how} {number}.mp4", frames, fps=FPS)
            compare(tally, joints, found(file, dissolves=True), 1, names, " | ".join(names))
            file.unlink()
        yield f"{how} of {films} joined films", tally
    tally = Tally()
    for film, cuts in truth.items():
        names = [f"{film.name}, frame {cut}" for cut in cuts]
        compare(tally, [(cut, cut) for cut in cuts], found(film, dissolves=False), 1, names, film.name)
    yield f"listed cuts of {len(truth)} films", tally


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("index", type=Path)
    parser.add_argument("--films", type=int, default=30, help="joined films of each kind")
    chosen = parser.parse_args()
    print("| joints | there | recall | precision |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, tally in measure(chosen.index, chosen.films, Path(folder)):
            print(tally.row(name), flush=True)
            for kind, cases in (("missed", tally.missed), ("wrong", tally.wrong)):
                print(f"{name}, {kind}: {'; '.join(cases) or 'none'}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
