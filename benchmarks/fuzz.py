"""Thousands of broken films through the workers: nothing may crash the parent, hang, or vanish without a reason.

python benchmarks/fuzz.py --count 5000
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from cogvideox.curation.engines import LocalEngine  # noqa: E402
from cogvideox.curation.pipeline import Pipeline  # noqa: E402
from cogvideox.curation.recipe import tiny  # noqa: E402
from support.films import take, write  # noqa: E402

KINDS = {
    "mp4": "libx264",
    "mkv": "libx264",
    "webm": "libvpx",
    "avi": "mpeg4",
    "ts": "libx264",
    "mov": "libx264",
}


def seeds(folder: Path) -> dict[str, bytes]:
    """One small film of each container."""
    frames = take(1, 10)
    return {
        kind: write(folder / f"seed.{kind}", frames, codec=codec).read_bytes()
        for kind, codec in KINDS.items()
    }


def mutate(data: bytes, number: int) -> bytes:
    """One of seven kinds of damage, a function of ``number`` alone."""
    rng = np.random.default_rng(number)
    out = bytearray(data)
    size = len(out)
    kind = number % 7
    if kind == 0:  # cut off
        return bytes(out[: int(rng.integers(0, size))])
    if kind == 1:  # flipped bits anywhere
        for place in rng.integers(0, size, int(rng.integers(1, 40))):
            out[place] ^= 1 << int(rng.integers(0, 8))
    elif kind == 2:  # flipped bytes in the header, where sizes and counts are
        for place in rng.integers(0, min(size, 1200), int(rng.integers(1, 12))):
            out[place] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
    elif kind == 3:  # a hole
        low = int(rng.integers(0, size))
        out[low : low + int(rng.integers(1, 600))] = b""
    elif kind == 4:  # a part twice
        low, high = sorted(int(place) for place in rng.integers(0, size, 2))
        out[low:low] = out[low:high]
    elif kind == 5:  # zeros
        low = int(rng.integers(0, size))
        length = min(int(rng.integers(1, 800)), size - low)
        out[low : low + length] = bytes(length)
    else:  # huge numbers in four bytes somewhere
        low = int(rng.integers(0, max(1, min(size, 2000) - 4)))
        out[low : low + 4] = int(rng.choice([2**31 - 1, 2**32 - 1, 2**24])).to_bytes(4, "big")
    return bytes(out)


def run(count: int, workers: int, folder: Path) -> dict:
    """Measure ``count`` broken films; returns the counts of what became of them."""
    films = folder / "films"
    whole = seeds(folder / "seeds")
    films.mkdir()
    for number in range(count):
        kind = list(KINDS)[number // 7 % len(KINDS)]
        (films / f"{number:05d}.{kind}").write_bytes(mutate(whole[kind], number))
    recipe = tiny().override(["limits.cpu_seconds=30", "limits.wall_seconds=60"])
    pipeline = Pipeline(films, folder / "work", recipe, LocalEngine(workers))
    started = time.monotonic()
    measured = pipeline.measure()
    fates: Counter[str] = Counter()
    accounted = set()
    for clip in pipeline.clips():
        fates[clip.dropped.reason if clip.dropped else "readable"] += 1
        accounted.add(clip.source.path)
    assert measured == count and len(accounted) == count, (measured, len(accounted), count)
    return {
        "films": count,
        "seconds": round(time.monotonic() - started, 1),
        "fates": dict(fates.most_common()),
    }


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(chosen.count, chosen.workers, Path(folder))))


if __name__ == "__main__":
    main()
