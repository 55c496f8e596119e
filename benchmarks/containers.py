"""Frames counted in every container, at every rate and length: the whole table of which the tests walk a part.

python benchmarks/containers.py            # about two minutes
python benchmarks/containers.py mkv webm

Each file must give exactly its frames at its own rate, and at 8 and 16 per second those that are on the screen at
i / rate before its end (GIF, whose clock ticks in hundredths: give or take one). Prints what differs, then the counts.
"""

from __future__ import annotations

import sys
import tempfile
from fractions import Fraction
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from cogvideox.video import probe, read_video  # noqa: E402
from support.tiny_videos import CONTAINERS, LENGTHS, RATES, expected, is_each_frame, write_tiny  # noqa: E402


def wrong(path: Path, container: str, rate: Fraction, count: int) -> list[str]:
    """What is not as it must be."""
    found = []
    if not is_each_frame(read_video(path).frames, count):
        found.append("other frames at its own rate")
    if probe(path).frames != count:
        found.append(f"{probe(path).frames} frames by its timestamps")
    for asked in (8, 16):
        here, wanted = len(read_video(path, fps=asked)), expected(count, rate, Fraction(asked))
        if abs(here - wanted) > (container == "gif"):
            found.append(f"{here} frames at {asked} per second, not {wanted}")
    return found


def main() -> None:
    """Walk the table."""
    chosen = sys.argv[1:] or list(CONTAINERS)
    for container in chosen:
        bad = 0
        for name, rate in RATES.items():
            for count in LENGTHS:
                with tempfile.TemporaryDirectory() as folder:
                    path = write_tiny(Path(folder) / f"v.{container}", count, rate, CONTAINERS[container])
                    for what in wrong(path, container, rate, count):
                        bad += 1
                        print(f"{container}, {count} frames at {name}: {what}")
        print(f"{container}: {len(RATES) * len(LENGTHS)} files, {bad} faults")


if __name__ == "__main__":
    main()
