"""Cuts, dissolves and lengths, on films whose cuts are known."""

from __future__ import annotations

import numpy as np
import pytest

from cogvideox.curation.shot_views import ShotViews
from cogvideox.curation.shots import CutFinder, Shots, transitions
from cogvideox.curation.step import Look
from cogvideox.errors import ConfigError
from cogvideox.video import open_decoder
from support.films import take, write


def pieces(path, **shots):
    with open_decoder(path) as walking:
        film = ShotViews(walking, Shots(**shots), Look())
        return list(film.segments()), film


def test_hard_cuts_between_takes_are_found_at_the_frame(tmp_path):
    lengths, found, real, right = [17, 30, 22, 41, 19], 0, 0, 0
    for seed in range(4):
        takes = [take(10 * seed + n, length) for n, length in enumerate(lengths)]
        film = write(tmp_path / f"{seed}.mp4", np.concatenate(takes), fps=24)
        got = {piece.span.stop for piece in pieces(film, trim=0, min_seconds=0.1)[0][:-1]}
        truth = set(np.cumsum(lengths)[:-1].tolist())
        found, real, right = found + len(got), real + len(truth), right + len(got & truth)
    assert right / real >= 0.98 and right / found >= 0.98


def test_a_cut_between_fast_takes_shows_in_their_colours(tmp_path):
    takes = [take(seed, 24, speed=29) for seed in (1, 3)]
    film = write(tmp_path / "a.mp4", np.concatenate(takes), fps=24)
    settings = dict(trim=0, min_seconds=0.2, dissolves=False)
    assert [piece.span.stop for piece in pieces(film, **settings)[0]] == [24, 48]
    assert [piece.span.stop for piece in pieces(film, **settings, least_alike=-1)[0]] == [48]


@pytest.mark.parametrize("end", [0, 255])
def test_a_fade_and_a_flash_change_no_colours(end):
    """Most of a fade to black or white, and a flash: everything changes and no colour does."""
    take = _coloured()
    shares = [0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.5, 0, 0.6, 0]
    finder = CutFinder(Shots(threshold=1000))
    found = [finder.add((take * (1 - share) + end * share).astype(np.uint8)) for share in shares]
    assert found == [[]] * len(shares)
    assert finder.add(255 - take) == [len(shares)], "other colours are a cut"


def _coloured() -> np.ndarray:
    """A still picture of soft colours, ``uint8 [36, 64, 3]``."""
    y, x = np.mgrid[0:36, 0:64] / 64
    return np.stack([40 + 180 * x, 60 + 120 * y, 200 - 190 * x * (1 - y)], -1).astype(np.uint8)


def test_frames_beside_a_cut_are_left_out_and_ends_of_the_film_are_not(tmp_path):
    film = write(tmp_path / "a.mp4", np.concatenate([take(1, 30), take(2, 30)]), fps=24)
    spans = [(piece.span.first, piece.span.stop) for piece in pieces(film, trim=3, min_seconds=0.2)[0]]
    assert spans == [(0, 27), (33, 60)]


def test_a_dissolve_is_found_and_left_out():
    before, after = take(3, 60).astype(float), take(4, 60).astype(float)
    share = np.clip((np.arange(60) - 24) / 12, 0, 1)[:, None, None, None]
    mixed = ((1 - share) * before + share * after).astype(np.uint8)[..., 1]
    found = transitions(mixed)
    assert len(found) == 1
    assert found[0][0] <= 27 and found[0][1] >= 33


def test_a_piece_that_falls_between_two_looks_is_too_short(tmp_path):
    film = write(tmp_path / "a.mp4", np.concatenate([take(1, 31), take(2, 4), take(3, 30)]), fps=60)
    got = pieces(film, trim=0, min_seconds=0.01, dissolves=False)[0]
    assert [piece.span.stop for piece in got] == [31, 35, 65]
    assert [piece.view is None for piece in got] == [False, True, False] and "look" in got[1].note


@pytest.mark.parametrize("speed", [0.0, 1.0, 4.0])
def test_movement_is_no_dissolve(speed):
    assert transitions(take(5, 60, speed=speed)[..., 1]) == []


def test_a_long_take_becomes_pieces_within_the_limits_and_nothing_is_lost(tmp_path):
    film = write(tmp_path / "long.mp4", take(6, 8 * 23), fps=8)
    got, _ = pieces(film, min_seconds=2, max_seconds=5)
    assert [p.span.first for p in got] == [0, *(p.span.stop for p in got[:-1])]
    assert got[-1].span.stop == 8 * 23
    assert all(2 <= p.span.seconds <= 5 + 1 / 8 for p in got)


def test_a_short_piece_says_so(tmp_path):
    got, _ = pieces(write(tmp_path / "a.mp4", take(7, 8)), min_seconds=2)
    assert got[0].view is None and "1.00 s, the least is 2 s" in got[0].note


def test_lengths_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="max_seconds 3 is below twice min_seconds 2"):
        Shots(min_seconds=2, max_seconds=3)


def test_a_film_with_uneven_times_is_cut_by_time_and_known_to_be_uneven(tmp_path):
    times = np.cumsum([0] + [40, 40, 120, 40, 200] * 10).tolist()
    film = write(tmp_path / "vfr.mkv", take(8, len(times)), pts=times)
    got, done = pieces(film, min_seconds=0.5)
    assert not done.totals.steady
    assert got[0].span.seconds == pytest.approx(times[-1] / 1000, abs=0.15)
    off = np.abs(got[0].view.moments[:, None] - np.array(times) / 1000).min(axis=1)
    assert len(off) > 20 and off.max() < 2e-3
