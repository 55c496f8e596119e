"""From a file to views of its clips: decoded once, cut where shots end, never more in memory than one long take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cogvideox.clip import Span
from cogvideox.curation.shots import CutFinder, Shots, takes, transitions
from cogvideox.curation.step import Look, View
from cogvideox.video import Timing, VideoDecoder


@dataclass
class Frame:
    """One decoded frame at the sizes somebody looks at."""

    number: int
    moment: float
    tiny: np.ndarray
    picture: np.ndarray | None


@dataclass
class Totals:
    """What is known of a file when it has been decoded to its end."""

    frames: int = 0
    fps: float = 0.0  # of its own: frames over their time
    steady: bool = True  # whether frames last equally long, by the rule of ``video.timing``
    seconds: float = 0.0  # from the first frame to the end of the last

    def add(self, moment: float, timing: Timing) -> None:
        """Count one frame, at ``moment`` seconds."""
        self.frames += 1
        self.fps, self.steady, self.seconds = timing.fps, timing.steady, moment + timing.last


@dataclass(frozen=True)
class ShotSegment:
    """A span of a video inside one shot, and its view; without a view ``note`` says why it is too short for one."""

    span: Span
    view: View | None
    note: str = ""


class ShotViews:
    """Iterate over ``segments``; ``totals`` is whole afterwards."""

    def __init__(self, decoder: VideoDecoder, shots: Shots, look: Look) -> None:
        self.decoder, self.shots, self.look = decoder, shots, look
        self.totals = Totals()

    def segments(self) -> Iterator[ShotSegment]:
        """Single-shot segments in order, too short ones without a view. Raises MediaError as the decoder does."""
        finder = CutFinder(self.shots)
        held: list[Frame] = []
        after_cut = False
        for frame in self._frames():
            held.append(frame)
            for cut in finder.add(frame.tiny):
                index = cut - held[0].number
                if index <= 0:  # the take was already closed for its length
                    continue
                yield from self._shot(held[:index], after_cut, before_cut=True)
                held, after_cut = held[index:], True
            whole = self.shots.max_seconds
            if held[-1].moment - held[0].moment >= whole + self.shots.min_seconds:
                stop = next(n for n, one in enumerate(held) if one.moment - held[0].moment >= whole)
                yield from self._shot(held[:stop], after_cut, before_cut=False)
                held, after_cut = held[stop:], False
        if held:
            yield from self._shot(held, after_cut, before_cut=False)

    def _frames(self) -> Iterator[Frame]:
        due = 0.0
        for number, (moment, step) in enumerate(self.decoder.frames()):
            self.totals.add(moment, self.decoder.timing)
            size = self.decoder.size
            picture = None
            if moment >= due - 1e-6:
                picture = step.pixels(size.fitted(self.look.side))
                due = max(due + 1 / self.look.fps, moment)  # slower videos: every frame
            yield Frame(number, moment, step.pixels(size.fitted(self.look.tiny_side)), picture)

    def _shot(self, held: list[Frame], after_cut: bool, before_cut: bool) -> Iterator[ShotSegment]:
        gradual: list[tuple[int, int]] = []
        if self.shots.dissolves and len(held) > 8:
            gradual = transitions(np.stack([frame.tiny[:, :, 1] for frame in held]))
        for first, stop in takes(0, len(held), gradual):
            low = first + self.shots.trim * (after_cut and first == 0)
            high = stop - self.shots.trim * (before_cut and stop == len(held))
            if high > low:
                yield from self._lengths(held[low:high])

    def _lengths(self, held: list[Frame]) -> Iterator[ShotSegment]:
        seconds, why = self._seconds(held), ""
        if seconds < self.shots.min_seconds:
            why = f"{seconds:.2f} s, the least is {self.shots.min_seconds:g} s"
        elif all(frame.picture is None for frame in held):
            why = f"{seconds:.2f} s, a look is taken {self.look.fps:g} times a second"
        if why:
            yield ShotSegment(self._span(held), None, why)
            return
        count = int(np.ceil(seconds / self.shots.max_seconds - 1e-6))
        edges = np.linspace(0, len(held), count + 1).round().astype(int)
        for first, stop in zip(edges[:-1], edges[1:], strict=True):
            yield ShotSegment(self._span(held[first:stop]), self._view(held[first:stop]))

    def _seconds(self, held: list[Frame]) -> float:
        """From the start of the first to the end of the last."""
        timing, last = self.decoder.timing, held[-1].number
        return held[-1].moment - held[0].moment + timing.span(last, last + 1).seconds

    def _span(self, held: list[Frame]) -> Span:
        start = round(held[0].moment, 6)
        end = round(held[0].moment + self._seconds(held), 6)
        return Span(first=held[0].number, stop=held[-1].number + 1, start=start, end=end)

    def _view(self, held: list[Frame]) -> View:
        pictures = [(frame.moment, frame.picture) for frame in held if frame.picture is not None]
        size = self.decoder.size
        tiny = np.stack([frame.tiny for frame in held])
        moments = np.array([moment for moment, _ in pictures])
        return View(tiny, np.stack([picture for _, picture in pictures]), moments, size.height, size.width)
