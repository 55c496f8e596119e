"""Does FVD notice damage? The distance of a folder's clips, distorted more and more, to the clean ones.

python benchmarks/fvd_sensitivity.py FOLDER
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from cogvideox.clip_folders.video_files import list_videos
from cogvideox.errors import InputError, MediaError
from cogvideox.evaluation.fvd import LEAST, frechet
from cogvideox.perception.features import FeatureExtractor, NetworkFeatures, load_i3d
from cogvideox.perception.world_features import fixed_features, world_features
from cogvideox.video import read_video
from cogvideox.world.distortions import DISTORTIONS, distort
from cogvideox.world.scene import random_source

AMOUNTS = (0.25, 0.5, 0.75, 1.0)
FPS, WINDOWS = 8, 3  # clips are read at so many frames per second, so many from each file


def sensitivity(clips: Sequence[np.ndarray], network: FeatureExtractor) -> Mapping[str, list[float]]:
    """Distortion -> the Frechet distance of the distorted clips to the clean ones, at each of ``AMOUNTS``.

    Raises InputError for fewer than 8 clips.
    """
    if len(clips) < LEAST:
        raise InputError(f"{len(clips)} clips: a distance needs {LEAST}; give a folder with more")
    clean = network(clips)
    distances: dict[str, list[float]] = {}
    for kind in DISTORTIONS:
        for amount in AMOUNTS:
            distorted = (
                distort(clip, kind, amount, random_source(0, kind, index)) for index, clip in enumerate(clips)
            )
            distances.setdefault(kind, []).append(frechet(network(distorted), clean))
    return distances


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
    """Print a table for each network: which distortions its FVD notices, and whether it grows with them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--i3d", type=Path, help="I3D TorchScript file, for published FVD")
    arguments = parser.parse_args()
    networks: list[NetworkFeatures] = [world_features(), fixed_features()]
    networks += [load_i3d(arguments.i3d)] if arguments.i3d else []
    for network in networks:
        clips = list(real_clips(arguments.folder, network.card.frames, network.card.size))
        print(f"{network.card.name}, {len(clips)} clips of {network.card.frames} frames")
        for kind, values in sensitivity(clips, network).items():
            grows = all(a < b for a, b in zip(values, values[1:], strict=False))
            row = ", ".join(f"{value:.4g}" for value in values)
            print(f"{kind}: {row}{'' if grows else ' (does not grow everywhere)'}", flush=True)


if __name__ == "__main__":
    main()
