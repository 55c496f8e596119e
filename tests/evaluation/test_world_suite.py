"""The world suite: truth scores full marks, a wrong colour does not, an interrupted run goes on."""

from pathlib import Path

import numpy as np
import pytest

from cogvideox.errors import ConfigError, InputError
from cogvideox.evaluate_model.options import EvaluateOptions
from cogvideox.evaluate_model.videos import asked_videos
from cogvideox.evaluation.suite import world_truth
from cogvideox.evaluation.world_facts import evaluate_world, silhouette_scores
from cogvideox.video import Video
from cogvideox.world import render
from cogvideox.world.held_out import held_out_prompts

PROMPTS = held_out_prompts()[:8]
SCENES = {prompt.prompt: prompt.scene for prompt in PROMPTS}


def truth(prompt: str, seed: int) -> np.ndarray:
    return render(SCENES[prompt])


def test_truth_scores_full_marks_and_a_blank_clip_none(tmp_path: Path) -> None:
    best = evaluate_world(truth, tmp_path / "a", PROMPTS, seeds=(0,))
    rows = {row.kind: row for row in best.facts}
    assert rows["all facts"].share >= 7 / 8
    blank = evaluate_world(
        lambda p, s: np.full((17, 64, 64, 3), 95, np.uint8), tmp_path / "b", PROMPTS, seeds=(0,)
    )
    assert {row.kind: row for row in blank.facts}["all facts"].right == 0
    assert "all facts" in best.table() and "interval" in best.table()


def test_the_rich_style_is_asked_and_judged_by_its_own_list(tmp_path: Path) -> None:
    prompts = held_out_prompts("rich")[9:12]  # a count, a duet, a meeting
    scenes = {prompt.prompt: prompt.scene for prompt in prompts}
    run = evaluate_world(lambda p, s: render(scenes[p], frames=17), tmp_path, prompts, seeds=(0,))
    rows = {row.kind: row.share for row in run.facts}
    assert rows["all facts"] == rows["accent"] == rows["moves"] == rows["front"] == 1
    clips = [Video(render(scene, frames=9), 8.0) for scene in list(scenes.values())[:2]]
    mean, _ = silhouette_scores(clips, list(scenes)[:2], "rich")
    assert mean.value > 0.85 and np.isnan(silhouette_scores(clips[:1], ["a red fish"], "rich")[0].each).all()
    rows = asked_videos(EvaluateOptions(suite="vae", style="rich"))
    assert len(rows) == 200 and world_truth("rich")[0].frames.shape == (33, 128, 128, 3)
    with pytest.raises(ConfigError, match="only world, finish, vae"):
        EvaluateOptions(suite="two", style="rich")


def test_a_rerun_makes_only_what_is_missing(tmp_path: Path) -> None:
    calls = []

    def make(prompt: str, seed: int) -> np.ndarray:
        calls.append(seed)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return truth(prompt, seed)

    with pytest.raises(KeyboardInterrupt):
        evaluate_world(make, tmp_path, PROMPTS, seeds=(0,))
    first = len(calls)
    with (tmp_path / "verdicts.jsonl").open("a") as file:
        file.write('{"id": "cut')
    report = evaluate_world(make, tmp_path, PROMPTS, seeds=(0,))
    assert first == 5 and len(calls) == 5 + 4 and len(report.records) == 8


def test_verdicts_of_other_prompts_are_refused(tmp_path: Path) -> None:
    evaluate_world(truth, tmp_path, PROMPTS[:1], seeds=(0,))
    with pytest.raises(InputError, match="other prompts"):
        evaluate_world(truth, tmp_path, PROMPTS[1:2], seeds=(0,))


def test_fewer_prompts_and_seeds_read_what_is_there(tmp_path: Path) -> None:
    evaluate_world(truth, tmp_path, PROMPTS[:2], seeds=(0, 1))
    seen = []
    report = evaluate_world(truth, tmp_path, PROMPTS[:1], (0,), lambda *done: seen.append(done))
    assert len(report.records) == 1 and seen == [(1, 1)]
    assert len((tmp_path / "verdicts.jsonl").read_text().splitlines()) == 4


def test_a_file_that_holds_no_verdicts_is_refused_and_kept(tmp_path: Path) -> None:
    for text in ("[1]\n", "my own lines\nand more\n", "my own", '{"mine": 1}'):
        (tmp_path / "verdicts.jsonl").write_text(text)
        with pytest.raises(InputError, match="no verdict"):
            evaluate_world(truth, tmp_path, PROMPTS[:1], seeds=(0,))
        assert (tmp_path / "verdicts.jsonl").read_text() == text
