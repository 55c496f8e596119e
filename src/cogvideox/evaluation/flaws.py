"""Known flaws of growing strength, to ask a metric whether it notices them.

python -m cogvideox.evaluation.flaws FOLDER        FVD of a folder's clips, spoilt, to themselves
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from cogvideox.clip_folders.video_files import list_videos
from cogvideox.errors import InputError, MediaError, suggest
from cogvideox.evaluation.fvd import LEAST, frechet
from cogvideox.perception.features import FeatureExtractor, NetworkFeatures, load_i3d
from cogvideox.perception.world_features import fixed_features, world_features
from cogvideox.video import read_video
from cogvideox.world.scene import random_source
from cogvideox.world.validate import blurred, noisy

FLAWS = ("blur", "noise", "shuffle", "freeze")
MOST_BLUR = 3.0  # pixels at a height of 64
MOST_NOISE = 40.0  # grey levels
AMOUNTS = (0.25, 0.5, 0.75, 1.0)
FPS, WINDOWS = 8, 3  # clips are read at so many frames per second, so many from each file


def spoil(frames: np.ndarray, flaw: str, amount: float, rng: np.random.Generator) -> np.ndarray:
    """``frames`` uint8 [t, h, w, 3] with ``amount`` (0: none, 1: most) of a flaw. Raises InputError.

    blur: Gaussian, up to 3 pixels at a height of 64. noise: up to 40 grey levels. shuffle: so large a share of the
    frames changes places. freeze: from so early on the clip stands still.
    """
    if flaw not in FLAWS:
        raise InputError(f"flaw {flaw!r}: not one of {', '.join(FLAWS)}{suggest(flaw, FLAWS)}")
    if amount <= 0:
        return frames
    if flaw == "blur":
        return blurred(frames, rng, amount * MOST_BLUR * frames.shape[1] / 64)
    if flaw == "noise":
        return noisy(frames, rng, amount * MOST_NOISE)
    if flaw == "shuffle":
        return _shuffled(frames, amount, rng)
    moving = max(1, round(len(frames) * (1 - amount)))
    return frames[np.minimum(np.arange(len(frames)), moving - 1)]


def _shuffled(frames: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    chosen = rng.permutation(len(frames))[: round(amount * len(frames))]
    order = np.arange(len(frames))
    order[np.sort(chosen)] = rng.permutation(chosen)
    return frames[order]


def growth(clips: Sequence[np.ndarray], network: FeatureExtractor) -> Mapping[str, list[float]]:
    """Flaw -> the Frechet distance of the spoilt clips to the clean ones, at each of ``AMOUNTS``.

    Raises InputError for fewer than 8 clips.
    """
    if len(clips) < LEAST:
        raise InputError(f"{len(clips)} clips: a distance needs {LEAST}; give a folder with more")
    clean = network(clips)
    found: dict[str, list[float]] = {}
    for flaw in FLAWS:
        for amount in AMOUNTS:
            spoilt = (
                spoil(clip, flaw, amount, random_source(0, flaw, place)) for place, clip in enumerate(clips)
            )
            found.setdefault(flaw, []).append(frechet(network(spoilt), clean))
    return found


def real_clips(folder: Path, frames: int, size: int) -> Iterator[np.ndarray]:
    """``uint8 [frames, size, size, 3]``: the first windows of every video of a folder, at 8 frames per second."""
    for item in list_videos(folder):
        try:
            video = read_video(folder / item.path, max_frames=WINDOWS * frames, fps=FPS).cover(size, size)
        except MediaError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        for first in range(0, len(video) - frames + 1, frames):
            yield video.frames[first : first + frames]


def main() -> None:
    """Print a table for each network: which flaws its FVD notices, and whether it grows with them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--i3d", type=Path, help="I3D TorchScript file, for published FVD")
    arguments = parser.parse_args()
    networks: list[NetworkFeatures] = [world_features(), fixed_features()]
    networks += [load_i3d(arguments.i3d)] if arguments.i3d else []
    for network in networks:
        clips = list(real_clips(arguments.folder, network.card.frames, network.card.size))
        print(f"{network.card.name}, {len(clips)} clips of {network.card.frames} frames")
        for flaw, values in growth(clips, network).items():
            grows = all(a < b for a, b in zip(values, values[1:], strict=False))
            told = ", ".join(f"{value:.4g}" for value in values)
            print(f"{flaw}: {told}{'' if grows else ' (does not grow everywhere)'}", flush=True)


if __name__ == "__main__":
    main()
