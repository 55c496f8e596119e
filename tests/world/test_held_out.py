"""The held-out list is reproducible and disjoint from training; its table is right."""

import itertools
from collections import Counter

import pytest

from cogvideox.world import (
    HELD_OUT_PAIRS,
    TIERS,
    caption,
    check_facts,
    facts,
    held_out_prompts,
    is_held_out_triple,
    make_held_out_prompts,
    render,
    report,
    report_by_tier,
    sample_scene,
    score_table,
)
from cogvideox.world.score import wilson

PROMPTS = held_out_prompts()


def test_the_list_in_the_package_is_the_one_that_is_made():
    assert make_held_out_prompts() == PROMPTS


def test_the_list_has_200_different_prompts_with_the_shares_of_training():
    assert len({p.prompt.lower().rstrip(".") for p in PROMPTS}) == len({p.id for p in PROMPTS}) == 200
    assert Counter(p.tier for p in PROMPTS) == Counter({tier: round(200 * s) for tier, s in TIERS.items()})


def test_every_prompt_names_something_training_never_shows():
    for prompt in PROMPTS:
        said = {check.kind: check for check in prompt.checks}
        colour, shape = str(said["colour"].value), str(said["shape"].value)
        pairs = {(colour, shape), (colour, said["change"].into if "change" in said else None)}
        direction = str(said["direction"].value) if "direction" in said else "none"
        assert pairs & HELD_OUT_PAIRS or is_held_out_triple(colour, shape, direction)


def test_no_prompt_is_a_training_caption():
    asked = {p.prompt.lower().rstrip(".") for p in PROMPTS}
    said = {caption(sample_scene(0, i), 0, i).lower().rstrip(".") for i in range(5000)}
    assert not asked & said


def test_prompts_follow_from_their_scenes():
    for prompt in PROMPTS:
        assert prompt.checks == facts(prompt.scene)
        assert prompt.prompt == caption(prompt.scene, prompt.seed, prompt.index)


def test_rendered_answers_score_full_marks():
    chosen = PROMPTS[::4]
    verdicts = [check_facts(render(p.scene), p.checks) for p in chosen]
    rows = {row.kind: row for row in report(verdicts)}
    assert all(row.share == 1 for row in rows.values())
    assert rows["all facts"].asked == rows["colour and shape"].asked == 50
    assert rows["direction"].asked < 50
    assert report([v.to_dict() for v in verdicts]) == list(rows.values())
    tiers = report_by_tier((p.tier, v) for p, v in zip(chosen, verdicts, strict=True))
    assert sum(row.asked for row in tiers) == 50
    assert "| all facts | 50 | 50 | 100.0 | 92.9 - 100.0 |" in score_table(rows.values())


def test_answers_to_another_prompt_score_low():
    verdicts = [check_facts(render(a.scene), b.checks) for a, b in itertools.pairwise(PROMPTS[:40])]
    rows = {row.kind: row for row in report(verdicts)}
    assert rows["all facts"].share < 0.1
    assert rows["colour and shape"].share < 0.4


@pytest.mark.parametrize(
    ("right", "asked", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (190, 200, 0.9104, 0.9726), (0, 0, 0.0, 1.0)],
)
def test_wilson_intervals(right, asked, low, high):
    assert wilson(right, asked) == pytest.approx((low, high), abs=1e-4)
