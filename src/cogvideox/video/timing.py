"""When each frame is on the screen: exact times out of the rounded timestamps of a file, and the frames at a rate.

A frame stays on the screen from its timestamp to that of the next one; the last frame stays as long as the others of a
clip of constant rate, else as long as the file says. A clip of n frames at R per second so ends at n / R.

**The rule of counting.** Sampled at r per second, a clip has the frames i = 0, 1, ... with ``i / r < end - tolerance``,
at least one. 48 frames at 24 give 16 at 8; 49 at 8.02 give 49 at 8; n frames at their own rate give n.

**Constant rate.** Containers round timestamps: Matroska and WebM to 1 ms, GIF to 10 ms, MPEG-TS to 1 / 90000 s, and a
file that was remuxed may have been through a millisecond clock before. So a time is known to one tick of the container
and one millisecond together (the tolerance), and a clip has a constant rate R when all its timestamps lie within that
of a + k / R. R is the header's rate where the container declares one (mov, matroska, avi) and the timestamps agree,
else the common rate that fits best, else their slope. Timestamps that jitter more, but less than a quarter of a frame
about their slope, still name their frame without doubt: that is a constant rate, too. Everything else is variable: its
own rate is frames / time, and its times are used as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TypeVar

import numpy as np

Frame = TypeVar("Frame")

REMUXED = Fraction(1, 1000)  # of a second: the coarsest clock a video is likely to have been through before
LEAST_RATE, MOST_RATE = Fraction(1, 1000), Fraction(1000)
USUAL_RATE = Fraction(25)  # where nothing is known
COMMON_RATES = sorted(
    {Fraction(n) for n in range(1, 241)}
    | {Fraction(n * 1000, 1001) for n in (12, 15, 24, 25, 30, 48, 60, 90, 120, 240)}
    | {Fraction(n, 2) for n in (15, 25, 75)}
)


@dataclass(frozen=True)
class Timing:
    """The clock of one video: frames, their rate, and how a timestamp becomes a time.

    ``seconds``: from the start of the first frame to the end of the last; ``last``: how long the last one stays;
    ``tolerance``: seconds to which a time is known; ``origin``: seconds on the file's clock at which point 0 of the
    grid of a steady rate begins; ``whole``: whether all of the file was looked at; ``numbered``: the file
    does not say which frame a timestamp belongs to (AVI counts in the order of storage): the n-th shown has the n-th.
    """

    frames: int
    rate: Fraction
    steady: bool
    seconds: float
    last: float
    tolerance: float
    origin: float = 0.0
    whole: bool = True
    numbered: bool = False
    # as they are stored
    times: np.ndarray = field(default_factory=lambda: np.zeros(0), compare=False, repr=False)

    @property
    def fps(self) -> float:
        """Frames per second of its own."""
        return float(self.rate)

    def count(self, fps: float) -> int:
        """How many frames it has when it is sampled at ``fps``: see the module's rule."""
        return max(1, math.ceil((self.seconds - self.slack(fps)) * fps - 1e-6))

    def slack(self, fps: float) -> float:
        """Seconds below which an end is not known, but never more than a quarter of the time between two samples."""
        clock = max(float(REMUXED), self.tolerance - float(REMUXED)) if self.steady else self.tolerance
        return min(clock, 0.25 / fps)

    def moment(self, seconds: float) -> float:
        """The exact time of a timestamp, in seconds since the origin."""
        if not self.steady:
            return seconds - self.origin
        return round((seconds - self.origin) * self.fps) / self.fps

    def span(self, first: int, stop: int) -> Timing:
        """Of the frames numbered ``first`` to before ``stop`` alone: a part of a variable video may well be steady."""
        times = self.times[first:stop]
        if self.steady or not len(times):
            frames = max(1, stop - first)
            return replace(self, frames=frames, seconds=frames / self.fps, last=1 / self.fps, times=times)
        stays = float(self.times[stop] - times[-1]) if stop < len(self.times) else self.last
        return _timing(times, stays, self.tolerance, (), self.whole)


def fit(
    ticks: Sequence[int],
    tick: Fraction,
    *,
    last: int = 0,
    declared: Sequence[Fraction | None] = (),
    whole: bool = True,
    numbered: bool = False,
) -> Timing:
    """The clock behind ``ticks``: rising timestamps in units of ``tick`` seconds.

    last: how many ticks the last frame stays, 0 where nobody says; declared: rates that the header speaks of.
    """
    known = [rate for rate in map(exact, declared) if rate is not None]
    times = np.asarray(ticks, np.float64) * float(tick)
    rounds = all(tick * rate < 0.5 for rate in known)  # AVI's clock ticks once a frame: nothing is rounded
    made = _timing(times, float(last * tick), float(tick * rounds + REMUXED), known, whole)
    return replace(made, numbered=numbered)


def _timing(
    times: np.ndarray, stays: float, tolerance: float, declared: Sequence[Fraction], whole: bool
) -> Timing:
    count, rate = len(times), _constant_rate(times, stays, tolerance, declared)
    if rate is None:
        stays = stays or float(times[-1] - times[0]) / (count - 1)
        seconds = float(times[-1] - times[0]) + stays
        own, origin = _slope(count, seconds), float(times[0])
        return Timing(count, own, False, seconds, stays, tolerance, origin, whole, times=times)
    each = 1 / float(rate)
    off = times - np.arange(count) * each
    origin = float(off.max() + off.min()) / 2
    return Timing(count, rate, True, count * each, each, tolerance, origin, whole, times=times)


def _constant_rate(
    times: np.ndarray, stays: float, tolerance: float, declared: Sequence[Fraction]
) -> Fraction | None:
    """The rate at which all frames last equally long; None when they do not. ``stays``: the last one, 0: unknown."""
    count, span = len(times), float(times[-1] - times[0])
    if not span:  # one frame, or no times worth the name: what is said of it is all there is
        near = [rate for rate in declared if not stays or abs(stays - 1 / float(rate)) <= tolerance]
        return near[0] if near else _common(stays, tolerance) or _slope(1, stays) if stays else USUAL_RATE
    for rate in declared:
        if _spread(times, rate) <= tolerance:
            return None if _held(stays, rate) else rate
    if stays and _spread(np.append(times, times[-1] + stays), _slope(count, span + stays)) <= 2 * tolerance:
        times = np.append(times, times[-1] + stays)  # one measurement more
        count, span = count + 1, span + stays
    rate = _slope(count - 1, span)
    common = _near(span / (count - 1), tolerance / (count - 1))
    best = min(common, key=lambda r: _spread(times, r), default=None)
    if best is not None and _spread(times, best) <= tolerance:
        rate = best
    elif _spread(times, rate) > max(
        2 * tolerance, 0.5 / float(rate)
    ):  # its ends may be off by the tolerance, too
        return None
    return None if _held(stays, rate) else rate


def _spread(times: np.ndarray, rate: Fraction) -> float:
    """How far the times lie from a grid of ``rate`` that suits them best, from one side to the other, in seconds."""
    off = times - np.arange(len(times)) / float(rate)
    return float(off.max() - off.min())


def _held(stays: float, rate: Fraction) -> bool:
    """Whether the last frame stays for more places of the grid than its own."""
    return stays * float(rate) >= 1.5


def _near(each: float, tolerance: float) -> list[Fraction]:
    """Common rates whose frames last ``each`` seconds, within the tolerance."""
    return [rate for rate in COMMON_RATES if abs(1 / float(rate) - each) <= tolerance]


def _common(each: float, tolerance: float) -> Fraction | None:
    return min(_near(each, tolerance), key=lambda rate: abs(1 / float(rate) - each), default=None)


def _slope(frames: int, seconds: float) -> Fraction:
    return Fraction(frames / seconds).limit_denominator(1_000_000)


def exact(rate: Fraction | None) -> Fraction | None:
    """A rate of a header as it was meant: Matroska's 19001/317 is 60000/1001, up to its nanoseconds."""
    if rate is None or not LEAST_RATE <= rate <= MOST_RATE:
        return None
    meant = Fraction(round(rate * 1001, -3) or 1000, 1001)
    for one in (Fraction(round(rate)), meant):
        if one and abs(rate - one) <= one / 1_000_000:
            return one
    return rate


def nearest_in_time(frames: Iterable[tuple[float, Frame]], rate: float, timing: Timing) -> Iterator[Frame]:
    """Of (seconds, frame) in rising order, the frame nearest to i / rate, for each i that ``Timing.count`` counts.

    The earlier one on a tie. The first time may be above 0: then the first frame is on the screen before it, too.
    """
    slack, tie = timing.slack(rate), 1e-6 if timing.steady else timing.tolerance
    before: tuple[float, Frame] | None = None
    wanted = 0
    for moment, frame in frames:
        while before is not None and wanted / rate <= moment:
            nearer = wanted / rate - before[0] <= moment - wanted / rate + tie
            yield before[1] if nearer else frame
            wanted += 1
        before = (moment, frame)
    while before is not None and (not wanted or wanted / rate < before[0] + timing.last - slack - 1e-9):
        yield before[1]
        wanted += 1
