"""Arms differ in one thing, and have as many weights as the paper compares."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cogvideox.errors import ConfigError
from cogvideox.reproduce import experiments as table
from cogvideox.reproduce.arms import TOLERANCE, Scale, check_size, run_of, transformer_of, vae_size

ARMS = {arm.name: arm for row in table.EXPERIMENTS.values() if row.kind == "arms" for arm in row.arms}


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("no-experts", {"experts"}),
        ("mmdit1", {"experts", "num_layers", "time_embed_dim"}),
        ("mmdit2", {"experts"}),
        ("split", {"attention"}),
        ("plain", set()),
        ("sinusoidal", {"use_rotary_positional_embeddings"}),
        ("slice", {"position_mode"}),
        ("resample", set()),
    ],
)
def test_an_arm_changes_one_thing(name, fields):
    ours, full = (transformer_of(arm).model_dump() for arm in (ARMS[name], table.FULL))
    assert {key for key in full if ours[key] != full[key]} == fields


def test_arms_that_the_paper_matches_have_equally_many_weights():
    first = check_size(table.FULL)
    for arm in ARMS.values():
        assert (abs(check_size(arm) / first - 1) <= TOLERANCE) == (arm.size == "equal")
    assert 1.6 < check_size(table.MMDIT_2) / first < 2


def test_a_match_that_does_not_hold_is_refused():
    with pytest.raises(ConfigError, match="weights where full has"):
        check_size(replace(table.MMDIT_2, size="equal"))


def test_runs_of_one_seed_differ_in_their_arm_only(tmp_path):
    full, plain = (run_of(arm, 1, Scale(out=tmp_path)).model_dump() for arm in (table.FULL, table.PLAIN))
    assert {key for key in full if full[key] != plain[key]} == {"name", "out", "task"}
    assert {key for key in full["task"] if full["task"][key] != plain["task"][key]} == {"uniform"}


def test_seeds_see_the_same_clips(tmp_path):
    runs = [run_of(table.FULL, seed, Scale(out=tmp_path)) for seed in (0, 1)]
    assert runs[0].task == runs[1].task
    assert runs[0].seed != runs[1].seed


def test_a_second_leg_starts_from_the_first_at_twice_the_side(tmp_path):
    scale = Scale(out=tmp_path)
    run = run_of(table.RESAMPLE, 2, scale, table.FULL)
    assert run.task.start == str(scale.folder(table.FULL, 2) / "model")
    assert run.task.size == 2 * run_of(table.FULL, 2, scale).task.size


def test_autoencoders_of_table_1_are_counted():
    arms = {arm.name: vae_size(arm) for arm in table.experiment("table1").arms}
    assert arms["a"] < arms["b"] < arms["c"]
