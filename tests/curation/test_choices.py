"""Choices about all clips together: copies, look-alikes, thresholds of stages."""

from __future__ import annotations

import numpy as np
import pytest

from cogvideox.clip import Clip, SourceFile, Span
from cogvideox.curation.duplicates import ExactCopies, LookAlikes, NearCopies, alike_pairs, near_pairs
from cogvideox.curation.table import ClipTable
from cogvideox.curation.thresholds import ThresholdRule, Thresholds, ThresholdStage, quantiles
from cogvideox.errors import ConfigError


def clip(name: str, sha: str = "ab", width: int = 640, **more) -> Clip:
    source = SourceFile(path=name, sha256=sha * 32, width=width, height=360, fps=24, frames=48)
    return Clip(source=source, span=Span(first=0, stop=48, start=0, end=2), **more)


def test_the_first_of_equal_files_is_kept():
    table = ClipTable([clip("a.mp4"), clip("b.mp4"), clip("c.mp4", sha="cd")])
    ExactCopies().choose(table)
    assert table.alive.tolist() == [True, False, True]
    assert table.dropped(1).detail == f"of {table.id(0)}"


def test_the_largest_of_near_copies_is_kept():
    prints = tuple(f"{n:016x}" for n in (1 << 40, 7, 99, 12345, 1 << 60))
    close = tuple(f"{int(p, 16) ^ 0b11011:016x}" for p in prints)
    far = tuple(f"{int(p, 16) ^ 0xFFFFFFFF:016x}" for p in prints)
    rows = [
        clip("a", "01", 320, prints=prints),
        clip("b", "02", 640, prints=close),
        clip("c", "03", prints=far),
    ]
    table = ClipTable(rows)
    NearCopies().choose(table)
    assert table.alive.tolist() == [False, True, True]
    assert table.dropped(0).reason == "near copy"


def test_banded_search_finds_every_pair_that_comparing_all_finds():
    rng = np.random.default_rng(0)
    prints = rng.integers(0, 1 << 63, (120, 5), dtype=np.uint64)
    for copy in range(40):  # copies with 0 to 9 flipped bits a frame
        flips = np.zeros(5, np.uint64)
        for bit in rng.integers(0, 63, copy % 10):
            flips ^= np.uint64(1) << np.uint64(bit)
        prints[80 + copy] = prints[copy] ^ flips
    found = set(near_pairs(prints, 6, 4))
    distance = np.bitwise_count(prints[:, None] ^ prints[None])
    every = (distance <= 6).sum(-1) >= 4
    assert found == {(int(a), int(b)) for a, b in zip(*np.nonzero(every), strict=True) if a < b}
    assert len(found) >= 20


def test_look_alikes_are_pairs_of_vectors_that_point_the_same_way():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(3000, 16)).astype(np.float32)
    vectors[2900] = vectors[5] + 0.01
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert list(alike_pairs(vectors, 0.99)) == [(5, 2900)]
    rows = [
        clip("a", "01"),
        *(clip(f"n{n}", f"{n:02x}", embedding=tuple(vectors[n].tolist())) for n in (5, 7)),
    ]
    table = ClipTable([*rows, clip("z", "77", embedding=tuple(vectors[2900].tolist()))])
    LookAlikes(similarity=0.99).choose(table)
    assert table.alive.tolist() == [True, True, True, False]


def test_rules_are_fixed_or_shares_and_a_clip_needs_one_stage():
    rows = [clip(f"{n:03d}", scores={"motion": n / 100}) for n in range(100)]
    table = ClipTable(rows)
    stages = Thresholds(
        stages=(
            ThresholdStage(
                name="early", rules=(ThresholdRule(score="motion", least=0.05, drop_highest=0.1),)
            ),
            ThresholdStage(name="late", rules=(ThresholdRule(score="motion", drop_lowest=0.8),)),
        )
    ).fitted(table)
    assert [rule.least for stage in stages.stages for rule in stage.rules] == [0.05, 0.8]
    assert stages.stages[0].rules[0].most == 0.9
    stages.choose(table)
    assert np.flatnonzero(~table.alive).tolist() == [0, 1, 2, 3, 4]
    assert table.dropped(3).reason == "motion low" and table.dropped(3).detail == "motion 0.03 < 0.05"
    decisions = [stage.decide(rows[95].scores) for stage in stages.stages]
    assert [decision.kept for decision in decisions] == [False, True]
    assert decisions[0].reasons == ("motion 0.95 > 0.9",)


def test_shares_do_not_depend_on_the_order_of_clips():
    rows = [clip(f"{n:03d}", scores={"motion": (n * 37 % 100) / 100}) for n in range(100)]
    rule = Thresholds(
        stages=(ThresholdStage(name="a", rules=(ThresholdRule(score="motion", drop_lowest=0.33),)),)
    )
    assert rule.fitted(ClipTable(rows)) == rule.fitted(ClipTable(rows[::-1]))
    assert quantiles(ClipTable(rows)) == quantiles(ClipTable(rows[::-1]))


def test_what_was_not_measured_cannot_condemn():
    table = ClipTable([clip("a", scores={"overlay": None}), clip("b")])
    Thresholds(stages=(ThresholdStage(name="a", rules=(ThresholdRule(score="overlay", most=0.0),)),)).fitted(
        table
    ).choose(table)
    assert table.alive.all()


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"least": 2, "most": 1}, "least 2 is above most 1"),
        ({"drop_lowest": 0.6, "drop_highest": 0.5}, "leave nothing"),
    ],
)
def test_rules_that_contradict_themselves_are_refused(rule, why):
    with pytest.raises(ConfigError, match=why):
        ThresholdRule(score="motion", **rule)
