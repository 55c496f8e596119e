"""Folders, suites and comparisons: what is read is measured, what is not is named and counted."""

from __future__ import annotations

import json
import os
from collections import Counter

import numpy as np
import pytest

from cogvideox.errors import ConfigError, InputError
from cogvideox.evaluation import compare
from cogvideox.evaluation.metrics import Metric, MetricInputs
from cogvideox.evaluation.report import ScoreReport
from cogvideox.evaluation.suite import evaluate, world_checks, world_truth
from cogvideox.evaluation.video_folder import open_videos, read_prompts
from cogvideox.video import Video
from cogvideox.world import held_out_prompts, render
from cogvideox.world.distortions import distort

PROMPTS = held_out_prompts()[:10]
SCRIPT = "<script>alert(1)</script>"


def fill(folder, spoilt: float = 0.0, num: int = 10):
    """Rendered truth of held-out prompts, without loss, and what each was asked for."""
    rows = []
    for place, prompt in enumerate(PROMPTS[:num]):
        frames = distort(render(prompt.scene), "blur", spoilt, np.random.default_rng(place))
        Video(frames, 8).save(folder / f"{place}.mkv")
        rows.append({"file_name": f"{place}.mkv", "text": prompt.prompt})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("truth"))


@pytest.fixture(scope="module")
def blurred(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("blurred"), 1.0)


def test_prompts_may_hold_what_looks_like_the_end_of_a_line(tmp_path):
    text = "a cat\u2028on a\x85mat"
    (tmp_path / "metadata.jsonl").write_text(
        json.dumps({"file_name": "1.mp4", "text": text}, ensure_ascii=False)
    )
    assert read_prompts(tmp_path) == {"1.mp4": text}
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "metadata.csv").write_text('file_name,text\n1.mp4,"two\nlines"\n')
    assert read_prompts(tmp_path) == {"1.mp4": "two\nlines"}


def test_lossless_files_give_the_frames_back(truth):
    assert np.array_equal(open_videos(truth)[0].frames, render(PROMPTS[0].scene))


def test_every_file_of_a_hostile_folder_is_read_or_named(tmp_path):
    """Point 6: empty, broken, cut, text, links, a folder with a video's name, a name that is a script."""
    good = Video(render(PROMPTS[0].scene), 8)
    good.save(tmp_path / f"{SCRIPT.replace('/', '_')}.mp4")
    whole = good.save(tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 3])
    (tmp_path / "text.mp4").write_text("#EXTM3U\nhttp://localhost/x.ts\n")
    (tmp_path / "noise.webm").write_bytes(os.urandom(5000))
    os.symlink("/etc/hostname", tmp_path / "link.mp4")
    os.symlink(tmp_path / "whole.mkv", tmp_path / "inside.mkv")
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / ".hidden.mp4").write_bytes(b"x")
    clips = open_videos(tmp_path)
    assert len(clips) + len(clips.refused) == 9
    kinds = {each.name: each.kind for each in clips.refused}
    assert kinds == {
        "empty.mp4": "empty",
        "cut.mkv": "broken",
        "text.mp4": "broken",
        "noise.webm": "broken",
        "link.mp4": "unsafe",
        "inside.mkv": "unsafe",
        "pipe.mp4": "broken",
    }
    assert len(clips) == 2
    assert Counter(each.kind for each in clips.refused) == {"empty": 1, "broken": 4, "unsafe": 2}
    report = evaluate(MetricInputs(clips), "paper", tmp_path / "out", "hostile")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page
    assert all(name in page for name in kinds)
    assert report.score("flicker_l1_pair_mean").videos == 2
    assert "1 empty" in report.counted and "4 broken" in report.counted


def test_a_folder_without_videos_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no video"):
        open_videos(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        open_videos(tmp_path / "gone")
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / "metadata.jsonl").write_text("{")
    with pytest.raises(InputError, match="metadata.jsonl"):
        open_videos(tmp_path)


def test_prompts_are_found_in_names_too(tmp_path):
    frames = render(PROMPTS[0].scene)
    Video(frames, 8).save(tmp_path / "a red cup-3.mp4")
    clips = open_videos(tmp_path, ["a red cup"])
    assert (clips.items[0].prompt, clips.items[0].number) == ("a red cup", 3)


def test_mismatched_videos_are_named(truth, tmp_path):
    Video(render(PROMPTS[0].scene), 8).save(tmp_path / "0.mkv")
    Video(render(PROMPTS[1].scene)[:9], 8).save(tmp_path / "1.mkv")
    Video(render(PROMPTS[1].scene), 8).save(tmp_path / "stranger.mkv")
    clips, originals = open_videos(tmp_path), open_videos(truth)
    assert MetricInputs(clips, originals).pairs == [(0, 0)]
    report = evaluate(MetricInputs(clips, originals), "vae", tmp_path / "out")
    assert {each.name for each in report.refused if each.kind == "unpaired"} == {"1.mkv", "stranger.mkv"}
    score = report.score("psnr_frame_mean")
    assert score.videos == 1 and score.value == 100 and np.isnan(score.each[1:]).all()
    _, keep = world_checks(clips.items)
    assert {each.name for each in clips.only(keep).refused} == {"0.mkv", "1.mkv", "stranger.mkv"}


@pytest.fixture(scope="module")
def reports(truth, blurred, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    made = []
    for folder in (truth, blurred):
        clips = open_videos(folder)
        checks, keep = world_checks(clips.items)
        made.append(
            evaluate(MetricInputs(clips.only(keep), checks=checks), "world", out / folder.name, folder.name)
        )
    return made


def test_the_world_suite_says_what_holds(reports):
    perfect, spoilt = reports
    assert perfect.score("world_all_facts").value == 1.0
    assert perfect.score("world_all_facts").videos == 10
    assert spoilt.score("world_all_facts").value < 1
    still = [p.scene.change == p.scene.direction == "none" and p.scene.camera == "static" for p in PROMPTS]
    assert perfect.score("frozen_share").value == pytest.approx(np.mean(still))
    assert perfect.score("fvd_i3d-k400-logits_16f").value is None


def test_comparing_says_better_worse_or_undecided(reports):
    perfect, spoilt = reports
    verdicts = {each.name: each for each in compare.compare(perfect, spoilt, least=1)}
    assert verdicts["flicker_l1_pair_mean"].verdict == "worse"  # blur flickers less
    assert verdicts["flicker_l1_pair_mean"].pairs == 10
    assert verdicts["frozen_share"].verdict == "undecided"
    assert {each.verdict for each in compare.compare(perfect, perfect, least=1)} == {"undecided"}
    back = {each.name: each.verdict for each in compare.compare(spoilt, perfect, least=1)}
    assert back["flicker_l1_pair_mean"] == "better"
    assert "| flicker_l1_pair_mean |" in compare.table(list(verdicts.values()))


def test_paired_comparison_sees_what_intervals_alone_do_not():
    """Every video gains 0.1 of a dB while videos differ by 10: overlapping intervals, yet better."""
    from cogvideox.evaluation.score import mean_score

    base = np.random.default_rng(0).normal(30, 10, 40)
    videos = tuple({"name": f"{i}.mp4", "prompt": ""} for i in range(40))

    def report(values):
        return ScoreReport("paper", "", (mean_score("psnr", list(values)),), videos)

    found = compare.compare(report(base + 0.1), report(base))[0]
    assert found.verdict == "better" and found.difference == pytest.approx(0.1)
    assert report(base + 0.1).scores[0].low < report(base).scores[0].high
    with pytest.raises(InputError, match="no score"):
        compare.compare(report(base), ScoreReport("paper", "", (), videos))


def test_a_rerun_makes_only_what_is_missing(truth, tmp_path, monkeypatch):
    from cogvideox.evaluation import suite

    clips = open_videos(truth)
    calls: list[str] = []

    def metric(name):
        def measure(inputs):
            calls.append(name)
            return []

        return Metric(name, measure, "counts its calls")

    for name in ("a", "b"):
        monkeypatch.setitem(suite.GROUPS, name, (metric(name),))
    monkeypatch.setitem(suite.SUITES, "paper", ("a", "b"))
    evaluate(MetricInputs(clips), "paper", tmp_path)
    evaluate(MetricInputs(clips), "paper", tmp_path)
    assert calls == ["a", "b"]
    (tmp_path / "groups" / "b.json").write_text("{")
    evaluate(MetricInputs(clips), "paper", tmp_path)
    assert calls == ["a", "b", "b"]
    evaluate(MetricInputs(clips, checks={"0.mkv": []}), "paper", tmp_path)
    assert calls == ["a", "b", "b", "a", "b"]
    monkeypatch.setitem(suite.GROUPS, "b", (metric("b"), metric("new")))
    evaluate(MetricInputs(clips, checks={"0.mkv": []}), "paper", tmp_path)
    assert calls[5:] == ["b", "new"]  # a group with another metric is measured again


def test_reports_are_kept_whole(reports, tmp_path):
    reports[0].save(tmp_path)
    assert ScoreReport.read(tmp_path).to_dict() == reports[0].to_dict()
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(InputError, match="not a report"):
        ScoreReport.read(tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'paper'"):
        evaluate(None, "papre", tmp_path)


def test_every_long_stage_of_an_evaluation_is_told_with_how_much_is_left(truth, tmp_path):
    clips, seen = open_videos(truth), {}

    def show(stage, done, total):
        seen.setdefault(stage, []).append((done, total))

    evaluate(MetricInputs(clips, clips), "paper", tmp_path / "out", show=show)
    for stage in ("reconstruction: videos", "reconstruction: references", "flicker: videos", "flicker: videos, pass 2",
                  "faults: videos", "distances: videos", "distances: references", "distances: intervals"):  # fmt: skip
        assert stage in seen, (stage, sorted(seen))
    for stage, told in seen.items():
        assert [done for done, _ in told] == sorted(done for done, _ in told), stage  # a bar never goes back
        assert {total for _, total in told} in ({len(clips)}, {min(20, len(clips))})
    checks, _ = world_checks(clips.items)
    evaluate(MetricInputs(clips, None, world_truth(), checks=checks), "world", tmp_path / "w", show=show)
    assert seen["distances: real videos"][-1] == (200, 200) and "world: videos" in seen
