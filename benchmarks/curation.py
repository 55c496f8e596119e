"""How fast films are measured: each step's share, beside decoding anew for every step, and beside plain scripts.

python benchmarks/curation.py FOLDER_OF_FILMS
python benchmarks/curation.py --records 100000      (memory of the driver)

Times are processor seconds of one thread, so that a busy machine changes them little; "x real time" is seconds of film
per processor second.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from cogvideox.clip import Clip, SourceFile, Span
from cogvideox.clip_folders.video_files import list_videos
from cogvideox.curation.engines import LocalEngine
from cogvideox.curation.measuring import measure
from cogvideox.curation.pipeline import Pipeline
from cogvideox.curation.recipe import default
from cogvideox.curation.work_folder import write_measured
from cogvideox.video.reading import OpenVideo


class StepTimer:
    """Seconds of processor time by name."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._since = time.process_time()

    def lap(self, name: str) -> None:
        """Add the processor time since the last lap to ``name``."""
        now = time.process_time()
        self.seconds[name] += now - self._since
        self._since = now


class Decoded:
    """Counts every frame that any reader of this process decodes, while it is entered."""

    count = 0

    def __enter__(self) -> Decoded:
        self._plain = plain = OpenVideo.frames

        def counted(opened: OpenVideo) -> Iterator[tuple[float, object]]:
            for each in plain(opened):
                self.count += 1
                yield each

        OpenVideo.frames = counted
        return self

    def __exit__(self, *_: object) -> None:
        OpenVideo.frames = self._plain


def steps(folder: Path) -> list[tuple[str, float, float]]:
    """(what, processor seconds, seconds of film per processor second)."""
    names, clock, seconds, clips, frames = [one.path for one in list_videos(folder)], StepTimer(), 0.0, 0, 0
    with Decoded() as decoded:
        for name in names:
            found = measure(folder, name, default(), clock.lap)
            seconds += found[0].source.seconds
            frames += found[0].source.frames
            clips += len(found)
    print(f"{len(names)} films, {seconds:.0f} s, {frames} frames, {decoded.count} decoded", file=sys.stderr)
    rows = [(name, spent) for name, spent in clock.seconds.items()]
    total = sum(spent for _, spent in rows)
    rows.append((f"together ({clips} clips, {clips / total:.2f} clips/s)", total))
    rows.append(("naive: the film decoded anew for each step", naive(folder, names)))
    rows.append(("scenedetect's detect(), cuts only", plain_cuts(folder, names)))
    rows.append(("OpenCV script: full-size DIS flow at 8 a second", plain_flow(folder, names)))
    return [(name, spent, seconds / spent if spent else float("inf")) for name, spent in rows]


def naive(folder: Path, names: list[str]) -> float:
    """Every step as a program of its own would do it."""
    recipe, began = default(), time.process_time()
    for step in recipe.steps:
        alone = recipe.model_copy(update={"steps": (step,)})
        for name in names:
            measure(folder, name, alone)
    return time.process_time() - began


def plain_cuts(folder: Path, names: list[str]) -> float:
    """PySceneDetect as its documentation shows it."""
    from scenedetect import AdaptiveDetector, detect

    began = time.process_time()
    for name in names:
        detect(str(folder / name), AdaptiveDetector())
    return time.process_time() - began


def plain_flow(folder: Path, names: list[str]) -> float:
    """Flow as a short OpenCV script computes it: every frame read, eight a second compared at full size."""
    import cv2

    cv2.setNumThreads(1)
    flow, began = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST), time.process_time()
    for name in names:
        film, before, number = cv2.VideoCapture(str(folder / name)), None, 0
        every = max(1, round((film.get(cv2.CAP_PROP_FPS) or 8) / 8))
        while True:
            there, frame = film.read()
            if not there:
                break
            if number % every == 0:
                grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
                if before is not None:
                    flow.calc(before, grey, None)
                before = grey
            number += 1
    return time.process_time() - began


def memory(count: int, folder: Path) -> tuple[int, int]:
    """MiB the driver held at most after choosing among 1,000 clips, and among ``count``."""
    recipe = default()
    films = folder / "films"
    films.mkdir()
    pipeline = Pipeline(films, folder / "work", recipe, LocalEngine(1))
    seen = []
    for start, stop in ((0, 1000), (1000, count)):
        for number in range(start, stop):
            _record(films, folder / "work", number, pipeline)
        chosen = pipeline.choose()
        assert sum(1 for _ in chosen.clips()) == stop
        seen.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
    return seen[0], seen[1]


def _record(films: Path, work: Path, number: int, pipeline: Pipeline) -> None:
    name = f"{number:07d}.mp4"
    (films / name).touch()
    source = SourceFile(
        path=name, sha256=hashlib.sha256(name.encode()).hexdigest(), width=640, height=360, fps=24, frames=48
    )
    scores = {f"score{n}": (number * 37 + n) % 1000 / 1000 for n in range(18)} | {
        "luma": 100.0,
        "motion_top": 0.2,
    }
    clip = Clip(
        source=source, span=Span(first=0, stop=48, start=0, end=2), scores=scores,
        prints=tuple(f"{(number + n) * 0x9E3779B97F4A7C15 % 2**64:016x}" for n in range(5)),
        embedding=tuple(((number * (n + 7)) % 97 - 48) / 400 for n in range(192)), embedder="none",
    )  # fmt: skip
    write_measured(work, {"path": name, "size": 0, "changed": 0}, pipeline.recipe, [clip])


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--records", type=int, default=0)
    chosen = parser.parse_args()
    if chosen.records:
        with tempfile.TemporaryDirectory() as folder:
            low, high = memory(chosen.records, Path(folder))
        print(json.dumps({"MiB at 1,000": low, f"MiB at {chosen.records:,}": high, "growth": high - low}))
    if chosen.folder:
        print("| step | processor seconds | x real time |\n|---|---|---|")
        for name, spent, speed in steps(Path(chosen.folder)):
            print(f"| {name} | {spent:.2f} | {speed:.1f} |")


if __name__ == "__main__":
    main()
