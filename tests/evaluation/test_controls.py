"""The world suite tells bad models from the truth, on the measures that should notice."""

from __future__ import annotations

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def controls():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import world_controls

        yield world_controls


@pytest.fixture(scope="module")
def reports(controls, tmp_path_factory):
    chosen = {name: controls.CONTROLS[name] for name in ("truth", "frozen first frame", "shuffled prompts")}
    return controls.run(tmp_path_factory.mktemp("controls"), 12, chosen)


def value(report, name):
    return report.score(name).value


def test_truth_over_another_ground_is_right(reports):
    assert value(reports["truth"], "world_all_facts") == 1


def test_a_frozen_frame_keeps_looks_and_loses_motion(reports):
    frozen = reports["frozen first frame"]
    assert value(frozen, "frozen_share") == 1
    assert value(frozen, "world_direction") == 0
    assert value(frozen, "world_all_facts") < 0.5
    assert value(frozen, "fvd_world-64_17f") > 1.5 * value(reports["truth"], "fvd_world-64_17f")


def test_answers_to_other_prompts_look_right_and_are_wrong(reports):
    shuffled = reports["shuffled prompts"]
    assert value(shuffled, "world_all_facts") < 0.2
    assert value(shuffled, "world_colour_and_shape") < 0.5
    assert value(shuffled, "fvd_world-64_17f") < 0.5 * value(
        reports["frozen first frame"], "fvd_world-64_17f"
    )


def test_the_table_has_a_row_for_each(controls, reports):
    assert controls.table(reports).count("\n") == 1 + len(reports)
