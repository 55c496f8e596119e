"""Totals, agreement and pairs against published and hand-computed values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cogvideox.errors import InputError
from cogvideox.rating import agreement, grades, pairwise
from cogvideox.rating.grades import Rating
from cogvideox.rating.pairwise import Battle

GOOD = dict.fromkeys(grades.ASPECTS, 1.0)
N = math.nan
# R's irr documentation: 4 raters, 12 units.
GRID = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
        [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
    ]
)


def rate(rater: str, model: str, item: str, total: float = 3.5, **aspects: float) -> Rating:
    return Rating(rater, model, item, GOOD | aspects, total)


@pytest.mark.parametrize(
    ("level", "alpha"), [("nominal", 0.7434), ("ordinal", 0.8154), ("interval", 0.8491), ("ratio", 0.7974)]
)
def test_alpha_is_that_of_the_published_example(level, alpha):
    assert agreement.krippendorff_alpha(GRID, level) == pytest.approx(alpha, abs=5e-5)


def test_alpha_equals_a_second_implementation():
    other = pytest.importorskip("krippendorff")
    rng = np.random.default_rng(0)
    grid = rng.choice([0, 0.5, 1.0, N], (3, 30))
    for level in ("nominal", "ordinal", "interval"):
        theirs = other.alpha(grid, level_of_measurement=level)
        assert agreement.krippendorff_alpha(grid, level) == pytest.approx(theirs, abs=1e-9)


def test_alpha_knows_full_agreement_and_none():
    assert agreement.krippendorff_alpha(np.array([[0, 1.0], [0, 1]])) == 1
    assert agreement.krippendorff_alpha(np.array([[1.0, 1], [1, 1]])) == 1
    assert agreement.krippendorff_alpha(np.array([[1.0, N], [N, 1]])) is None


def test_the_total_is_capped_where_the_instruction_is_not_followed():
    assert rate("r", "m", "i", 3.5, instruction=0.0).capped == 2
    assert rate("r", "m", "i", 3.5, instruction=0.5).capped == 3.5
    assert rate("r", "m", "i", 1.5, instruction=0.0).capped == 1.5


@pytest.mark.parametrize("wrong", [{"sensory": 0.7}, {"beauty": 1.0}])
def test_grades_are_the_three_of_the_paper(wrong):
    with pytest.raises(InputError):
        Rating("r", "m", "i", GOOD | wrong, 3)
    with pytest.raises(InputError):
        Rating("r", "m", "i", GOOD, 5.5)


def test_a_table_like_the_papers():
    ratings = [
        rate("r", model, f"p{i}", total) for i in range(8) for model, total in (("ours", 4), ("theirs", 2))
    ]
    table = grades.table_4(ratings)
    assert "| ours | 1 (1.00 to 1.00)" in table and "2.74" in table
    assert "ours is better" in grades.differences(ratings, least=8)[0]
    assert "no verdict, too few prompts (8; 20 are needed)" in grades.differences(ratings)[0]
    assert "undecided" in grades.differences([rate("r", m, "p", 3) for m in "ab"], least=1)[0]


def test_agreement_near_chance_stands_beside_every_verdict():
    rng = np.random.default_rng(0)

    def said(spread, raters=("ann", "bob")):
        ratings = []
        for item in range(30):
            for model, better in (("ours", 1.5), ("theirs", 0.0)):
                true = 1 + better + rng.integers(0, 2)
                ratings += [
                    rate(r, model, f"p{item}", float(np.clip(true + spread * rng.normal(), 0, 5)))
                    for r in raters
                ]
        return grades.differences(ratings)[0]

    alike, apart = said(0.0), said(9.0)
    assert alike.endswith(": ours is better") or "alpha" not in alike
    assert "raters agree hardly more than by chance (Krippendorff's alpha" in apart
    assert "is not known" in said(0.0, ("ann",))


def test_pairs_get_verdicts_with_agreement_and_a_least_number_of_prompts():
    rng = np.random.default_rng(0)
    alike = [
        pairwise.Battle(rater, f"p{item}", *pair, winner)
        for item in range(30)
        for rater in ("ann", "bob")
        for pair, winner in [((("a", "b"), "a"), (("b", "a"), "b"))[item % 2]]
        if item < 27 or winner
    ]
    assert pairwise.preferences(alike) == ["a preferred to b 100% of the time on 30 prompts: a is better"]
    few = pairwise.preferences(alike[:10])[0]
    assert "no verdict, too few prompts (5; 20 are needed)" in few
    guessed = [
        pairwise.Battle(rater, f"p{item}", "a", "b", rng.choice(["a", "b", "b"]))
        for item in range(60)
        for rater in "xyz"
    ]
    assert "hardly more than by chance" in pairwise.preferences(guessed)[0]


def test_seventy_five_of_a_hundred_is_a_distance_of_191():
    battles = [Battle("r", f"p{i}", "a", "b", "a" if i < 75 else "b") for i in range(100)]
    scores = pairwise.bradley_terry(battles, anchor="b")
    assert scores["a"].value - scores["b"].value == pytest.approx(400 * math.log10(3), abs=1e-3)
    assert scores["b"].value == 1000 and scores["a"].low > 1000


def test_ties_are_half_a_win_for_each():
    battles = [Battle("r", f"p{i}", "a", "b", "tie") for i in range(6)]
    assert pairwise.bradley_terry(battles)["b"].value == pytest.approx(1000)
    assert "| a |  | 3 |" in pairwise.win_table(battles)


def test_who_always_wins_stays_finite_and_three_models_are_ordered():
    pairs = [("a", "b"), ("b", "c"), ("a", "c")]
    battles = [Battle("r", f"p{i}", *pair, "a") for i in range(5) for pair in pairs]
    scores = pairwise.bradley_terry(battles)
    assert scores["a"].value > scores["b"].value > scores["c"].value > 0
    with pytest.raises(InputError):
        pairwise.bradley_terry([Battle("r", "p", "a", "b", "both")])
