"""A whole experiment at the smallest size: arms are trained through the project's loop, resumed, compared, written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import cogvideox
from cogvideox.reproduce import run as room
from cogvideox.reproduce.arms import Scale
from cogvideox.reproduce.experiments import experiment
from cogvideox.reproduce.external_results import from_benchmark, from_evaluation, from_labels, from_study
from cogvideox.reproduce.result_pages import put_ledger_line, put_section, section, write_results
from cogvideox.training.tasks import diffusion_data


@pytest.fixture(scope="module")
def scale(tmp_path_factory):
    return Scale(steps=10, seeds=2, clips=8, videos=8, out=tmp_path_factory.mktemp("reproduce"))


@pytest.fixture(scope="module", autouse=True)
def few_are_measured():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusion_data, "HELD_OUT_CLIPS", 4)
        patch.setattr(diffusion_data, "STORY_CLIPS", 7)
        yield


@pytest.fixture(scope="module")
def outcome(scale):
    return room.run_arms(experiment("fig10d"), scale)


def test_every_arm_and_seed_is_in_the_table_and_in_the_picture(outcome, scale):
    for arm in outcome.experiment.arms:
        assert outcome.table.count(arm.label) == len(outcome.experiment.measures)
        assert f"{arm.label} (2 seeds)" in outcome.picture
        for seed in range(2):
            assert (scale.folder(arm, seed) / "model" / "transformer").is_dir()
    assert outcome.picture.count("<polyline") == 2


def test_the_numbers_of_the_table_are_those_of_the_runs(outcome, scale):
    found = [
        room.last_measured(scale.folder(outcome.experiment.arms[1], seed))["held_out"] for seed in range(2)
    ]
    assert room.around(found) in outcome.table


def test_running_again_trains_nothing(outcome, scale, monkeypatch):
    def never(*_):
        raise AssertionError("a finished arm was trained again")

    monkeypatch.setattr("cogvideox.training.tasks.diffusion.DiffusionTraining.build", never)
    assert room.run_arms(experiment("fig10d"), scale) == outcome


def test_figures_share_their_arms_and_videos_are_scored_once(outcome, scale, monkeypatch):
    one = Scale(steps=10, seeds=1, clips=8, videos=8, out=scale.out)
    first = room.run_arms(experiment("fig8c"), one)
    kept = scale.folder(first.experiment.arms[0], 0) / "videos-8.json"
    assert json.loads(kept.read_text())["fvd"] > 0
    assert first.status == "not reproduced" and "undecided" in first.why  # one seed decides nothing
    monkeypatch.setattr("cogvideox.reproduce.run.arm_videos", lambda *_: pytest.fail("made again"))
    assert room.run_arms(experiment("fig8c"), one) == first


def test_the_spread_of_a_straight_loss_is_zero():
    assert room.spread([10.0 - n for n in range(20)]) == pytest.approx(0, abs=1e-9)
    assert room.spread([0.0, 1.0] * 100) == pytest.approx(0.5, rel=0.02)


def test_pages_are_replaced_and_not_grown(outcome, tmp_path):
    docs = tmp_path / "docs"
    (docs / "records").mkdir(parents=True)
    for page in ("records/reproduce.md", "paper.md"):
        (docs / page).write_text("# A page\n\nWords that stay.\n")
    for _ in range(2):
        folder = write_results(outcome, tmp_path, docs)
    page, ledger = (docs / "records" / "reproduce.md").read_text(), (docs / "paper.md").read_text()
    assert page.count("## fig10d") == 1 and "Words that stay." in page
    assert outcome.table in page and outcome.status in ledger
    assert ledger.count("| fig10d |") == 1 and "Words that stay." in ledger
    assert (docs / "images" / "reproduce-fig10d.svg").read_text() == outcome.picture
    assert json.loads((folder / "result.json").read_text())["status"] == outcome.status


def test_rows_of_the_ledger_stand_in_the_order_of_the_table():
    page = put_ledger_line("# Ledger\n", "table9", "| table9 | b |")
    page = put_ledger_line(page, "fig8a", "| fig8a | a |")
    assert page.index("| fig8a |") < page.index("| table9 |")


def test_sections_stand_in_the_order_of_the_table_too():
    page = "# Page\n\nWords.\n"
    for name in ("table9", "fig8a", "table9"):
        page = put_section(page, name, f"## {name}\n\nof {name}")
    assert page.startswith("# Page\n\nWords.\n\n<!-- fig8a") and page.index("of fig8a") < page.index(
        "of table9"
    )
    assert page.count("## table9") == 1 and "\n\n\n" not in page


def test_table_14_is_the_report_of_the_classifier_that_ships():
    found = from_labels(experiment("table14"), Scale())
    report = (Path(cogvideox.__file__).parent / "shipped/labels/report.md").read_text(encoding="utf-8")
    *labels, mean = (line.split("|") for line in report.split("## ")[1].splitlines()[4:] if "|" in line)
    assert found.table.count("\n") == 7 and len(labels) == 6
    assert all(f"| {row[1].strip()} |" in found.table and row[7].strip() in found.table for row in labels)
    assert found.status == "not reproduced" and mean[7].strip() in found.why


@pytest.mark.parametrize(("read", "name"), [(from_evaluation, "table3"), (from_study, "table4")])
def test_what_needs_weights_or_people_says_the_exact_command(read, name, tmp_path):
    found = read(experiment(name), Scale(out=tmp_path))
    assert found.status == "needs weights or data"
    assert found.experiment.full in section(found)


def test_an_evaluation_of_the_paper_s_model_is_held_against_its_numbers(tmp_path):
    from cogvideox.evaluation.report import ScoreReport
    from cogvideox.evaluation.score import Score

    def read(psnr: float):
        scores = (Score("flicker_paper_style_sum16", 86.0), Score("psnr_frame_mean", psnr))
        folder = tmp_path / str(psnr) / "table2"
        folder.mkdir(parents=True)
        ScoreReport("vae", "5b", scores, ()).save(folder)
        return from_evaluation(experiment("table2"), Scale(out=folder.parent))

    assert read(29.3).status == "reproduced in direction"
    far = read(20.0)
    assert far.status == "not reproduced" and "PSNR" in far.why and "29.1" in far.table


def test_benchmarks_are_called_where_they_are(monkeypatch, tmp_path):
    monkeypatch.setattr("cogvideox.reproduce.external_results.BENCH", Path(tmp_path / "gpu.py"))
    with pytest.raises(Exception, match="clone of the repository"):
        from_benchmark(experiment("table8"), Scale())


@pytest.mark.parametrize("name", ["fig10b", "fig10c", "fig9"])
def test_every_other_arm_trains_and_is_compared(name, scale):
    row = experiment(name)
    found = room.run_arms(row, Scale(steps=10, seeds=1, clips=8, videos=8, out=scale.out))
    for arm in row.arms:
        assert found.table.count(f"| {arm.label} |") == len(row.measures)
        assert "nan" not in found.table.replace("(nan to nan)", ""), (
            "one seed has no interval, but it has values"
        )


def test_autoencoders_train_and_are_compared(tmp_path):
    row = experiment("gan")
    found = room.run_vaes(row, Scale(steps=2, seeds=1, out=tmp_path))
    assert found.table.count("LPIPS") >= 2 and "PSNR" in found.table
