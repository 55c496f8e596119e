"""Differences over seeds, and what they may say."""

from __future__ import annotations

import math
import shlex

import pytest
import typer

from cogvideox.cli import app
from cogvideox.reproduce.experiments import EXPERIMENTS, Arm, Claim, Experiment, Measure, experiment
from cogvideox.reproduce.significance import difference, differences, status_of
from cogvideox.training.recipes import recipe

LOSS, SCORE = Measure("loss", "loss"), Measure("score", "score", "higher")


def row(*claims: Claim) -> Experiment:
    arms = (Arm("ours", "ours"), Arm("other", "the other"))
    return Experiment("x", "x", "x", arms=arms, measures=(LOSS, SCORE), claims=claims)


def values(ours: list[tuple[float, float]], other: list[tuple[float, float]]) -> dict:
    return {
        name: [{"loss": loss, "score": score} for loss, score in each]
        for name, each in (("ours", ours), ("other", other))
    }


def test_the_interval_is_student_t_over_paired_seeds():
    found = difference(values([(1, 0), (2, 0), (3, 0)], [(2, 0), (3.5, 0), (5, 0)]), "ours", "other", LOSS)
    # differences 1, 1.5, 2: mean 1.5, standard deviation 0.5, t(2 df) 4.303
    assert found.value == pytest.approx(1.5)
    assert found.high - found.value == pytest.approx(4.303 * 0.5 / math.sqrt(3), rel=1e-4)
    assert found.reading == "better"


def test_higher_is_better_turns_the_sign():
    found = difference(values([(0, 5), (0, 6)], [(0, 1), (0, 2)]), "ours", "other", SCORE)
    assert (found.value, found.reading) == (4, "better")


def test_one_seed_decides_nothing():
    assert difference(values([(1, 0)], [(100, 0)]), "ours", "other", LOSS).reading == "undecided"


@pytest.mark.parametrize(
    ("other", "claim", "status", "word"),
    [
        ([(2, 0), (3, 0.1)], Claim("other", "loss"), "reproduced in direction", "every"),
        ([(0, 0), (1, 0.1)], Claim("other", "loss"), "not reproduced", "other way"),
        ([(0, 0), (1, 0.1)], Claim("other", "loss", first=False), "reproduced in direction", "every"),
        ([(0, 0), (9, 0)], Claim("other", "loss"), "not reproduced", "undecided"),
        ([(2, 0), (3, 9)], Claim("other"), "not reproduced", "score"),
    ],
)
def test_a_claim_holds_only_when_its_whole_interval_does(other, claim, status, word):
    one = row(claim)
    found = status_of(one, differences(one, values([(1, 0), (2, 0.1)], other)))
    assert found[0] == status and word in found[1]


def test_every_experiment_of_the_issue_is_in_the_table_and_names_arms_it_has():
    figures = "fig8a fig8b fig8c fig8d fig9 fig10a fig10b fig10c fig10d"
    tables = "table1 gan table2 table3 table4 table7 table8 table9 table14"
    assert set(EXPERIMENTS) == set(f"{figures} {tables}".split())
    for each in EXPERIMENTS.values():
        names = {arm.name for arm in each.arms}
        measures = {measure.name for measure in each.measures}
        assert {claim.arm for claim in each.claims} <= names - {each.arms[0].name if each.arms else ""}
        assert {claim.measure for claim in each.claims} <= measures | {None}
        assert each.full and each.needs and each.paper


def test_an_unknown_experiment_is_one_line_with_a_suggestion():
    with pytest.raises(Exception, match="fig8a"):
        experiment("fig8z")


COMMANDS = [row.full for row in EXPERIMENTS.values() if row.full.startswith("cogvideox")]


@pytest.mark.parametrize("line", COMMANDS)
def test_the_command_of_a_full_run_is_one_that_the_program_understands(line):
    command, name, rest = typer.main.get_command(app), "cogvideox", shlex.split(line)[1:]
    while hasattr(command, "commands"):
        name, *rest = rest
        command = command.commands[name]
    assert command.make_context(name, list(rest)) is not None
    if name == "train":
        config = recipe(rest[0])
        assert len(rest) == 1 or config.override(rest[1:]) != config
