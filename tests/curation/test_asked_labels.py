"""Labels that a vision-language model gives without training: asked over HTTP, recorded, and lost in no case."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cogvideox.clip import Clip, SourceFile
from cogvideox.curation.labels import LABELS
from cogvideox.curation.recipe import Recipe
from cogvideox.curation.step import View
from cogvideox.curation.thresholds import ThresholdRule, Thresholds, ThresholdStage
from cogvideox.curation.vlm_steps import VlmLabels
from cogvideox.errors import ChatError
from support.films import take
from support.scripted_server import Reply, completion, error, scripted_server

pytest.importorskip("openai")
CLIP = Clip(source=SourceFile(path="a.mp4"))
SURE = dict.fromkeys(LABELS, 5) | {"text": 90}


def look(url: str, speed: float = 1.0, **more) -> Clip:
    frames = take(1, 24, speed=speed)
    moments = 3.0 + np.arange(24, dtype=np.float32) / 8
    view = View(frames, frames, moments, 64, 96)
    chat = {"tries": 2, "first_wait": 0, "rest": 0}
    return VlmLabels(ask=url, ask_model="seer", frames=4, chat=chat, **more).measure(CLIP, view)


def answering(*replies: Reply):
    return lambda request, attempt: replies[min(attempt, len(replies)) - 1]


def test_the_model_sees_frames_with_their_times_and_its_answer_becomes_labels():
    said = f"<think>hm</think> ```json\n{json.dumps(SURE)}\n```"
    with scripted_server(answering(completion(said))) as server:
        clip = look(server.url)
    system, asked = server.requests[0]["messages"]
    assert all(name in system["content"] for name in LABELS)
    assert [part["type"] for part in asked["content"]] == ["text", "image_url"] * 4
    assert [part["text"] for part in asked["content"][::2]] == ["0.38 s", "1.12 s", "1.88 s", "2.62 s"]
    assert {name: label.probability for name, label in clip.labels.items()} == {
        n: v / 100 for n, v in SURE.items()
    }
    assert [name for name, label in clip.labels.items() if label.present] == ["text"]
    assert clip.labels["text"].judge == "seer:labels.defects/1" and clip.scores["label.text"] == 0.9


def test_an_answer_that_lacks_a_label_is_asked_for_again():
    short = {name: value for name, value in SURE.items() if name != "lecture"}
    with scripted_server(answering(completion(json.dumps(short)), completion(json.dumps(SURE)))) as server:
        assert set(look(server.url).labels) == set(LABELS)
    assert len(server.requests) == 2


@pytest.mark.parametrize("reply", [completion("I cannot say."), error(400)])
def test_a_clip_that_is_not_judged_is_dropped_with_the_reason(reply):
    with scripted_server(answering(reply)) as server:
        clip = look(server.url)
    assert (clip.dropped.step, clip.dropped.reason) == ("asked_labels", "not judged") and clip.dropped.detail


def test_a_server_in_trouble_leaves_the_film_for_the_next_run():
    with scripted_server(answering(error(503))) as server, pytest.raises(ChatError, match="run again"):
        look(server.url)


def test_the_step_stands_in_recipes_and_rules_read_it():
    rule = ThresholdRule(score="label.text", most=0.5)
    step = VlmLabels(ask="http://127.0.0.1:8000/v1", ask_model="seer")
    recipe = Recipe(steps=(step,), choices=(Thresholds(stages=(ThresholdStage(name="all", rules=(rule,)),)),))
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert not ThresholdStage(name="all", rules=(rule,)).decide({"label.text": 0.9}).kept
