"""--enhance: prompts written out by rules or by a server, recorded, and refused early."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cogvideox.chat import Chat, ChatConfig, Scripted
from cogvideox.cli import app
from cogvideox.errors import ChatError
from cogvideox.generation.prompt_enhance import AskedEnhancer, RuleEnhancer
from cogvideox.world import caption, facts, read_caption, sample_scene
from support.scripted_server import completion, error, scripted_server

pytestmark = pytest.mark.usefixtures("here")


def run(*words: str, code: int = 0):
    done = CliRunner().invoke(app, ["generate", *words])
    assert done.exit_code == code, (done.exit_code, done.stdout, done.stderr, done.exception)
    return done


def test_the_worlds_rules_keep_every_fact_of_a_caption():
    write = RuleEnhancer(world=True)
    for index in range(400):
        scene = sample_scene(3, index, "held_out" if index % 2 else "train")
        assert read_caption(write(caption(scene, 3, index))) == facts(scene)


@pytest.mark.parametrize(("typed", "meant"), [
    ("Red ball rolling rightwards rapidly", "a red circle moves to the right quickly"),
    ("a violet box falls", "a purple square moves down"),
    ("two crimson donuts", "two red rings side by side"),
    ("an orange triangle spinning", "an orange triangle rotates"),
    ("green disc becomes a square", "a green circle turns into a square"),
    ("camera pans left over a teal plus", "the camera pans to the left over a cyan cross"),
    ("a dog on a beach", "a dog on a beach"),
])  # fmt: skip
def test_the_worlds_rules_find_its_words(typed, meant):
    assert RuleEnhancer(world=True)(typed) == meant


def test_rules_add_what_a_prompt_does_not_speak_of():
    write = RuleEnhancer(world=False)
    short = write("a dog runs on a beach")
    assert short.startswith("A dog runs on a beach. ") and len(short.split()) > 25
    full = "A slow drone shot of a beach at sunset, cinematic"
    assert write(full) == full + "."
    assert write(short) == short  # nothing is added twice


def test_a_model_is_asked_as_the_released_tool_asks():
    asked = []
    model = Scripted(lambda q: asked.append(q) or "Sure! Here is the prompt:\n\nA dog runs\nalong a beach.")
    assert AskedEnhancer(Chat(model))("a dog") == "A dog runs along a beach."
    (question,) = asked
    assert (question.temperature, question.top_p, question.max_tokens) == (0.01, 0.7, 250)
    assert question.text == "a dog" and len(question.examples) >= 2


@pytest.mark.parametrize("said", ["I'm sorry, I can't help with that.", "", "again and again and " * 99])
def test_an_unusable_answer_is_an_error_that_says_what_to_do(said):
    chat = Chat(Scripted(lambda q: said), ChatConfig(first_wait=0, tries=2))
    with pytest.raises(ChatError, match="--enhance rules"):
        AskedEnhancer(chat)("a dog")


def test_both_prompts_stand_in_the_record(here, toy):
    run("red ball", "--model", toy, "--steps", "1", "--enhance", "rules", "--out", "a.mp4")
    record = json.loads(Path("a.json").read_text())
    told = record["run"]["enhance"]
    assert told["original"] == "red ball" and told["enhanced"] == record["config"]["prompt"] != "red ball"
    assert told["by"].endswith("rules/1")
    run("red ball", "--model", toy, "--steps", "1", "--enhance", "rules", "--out", "b.mp4", "--no-metadata")
    assert not Path("b.json").exists() and b"red ball" not in Path("b.mp4").read_bytes()


def test_a_batch_is_enhanced_line_by_line(here, toy):
    pytest.importorskip("openai")

    def script(request, attempt):
        text = request["messages"][-1]["content"]
        return error(400) if text == "bad" else completion(f"{text}, in the evening sun")

    Path("p.txt").write_text("a dog\nbad\na cat\n")
    with scripted_server(script) as seen:
        words = ("--model", toy, "--steps", "1", "--out", "made", "--batch", "p.txt")
        served = ("--enhance", seen.url, "--enhance-model", "m")
        run(*words, *served, code=3)
        records = [
            json.loads(file.read_text()) for file in sorted(Path("made").glob("a-*.json"), reverse=True)
        ]
        assert [r["config"]["prompt"] for r in records] == [
            "A dog, in the evening sun",
            "A cat, in the evening sun",
        ]
        assert [r["run"]["enhance"]["original"] for r in records] == ["a dog", "a cat"]
        assert [each["line"] for each in json.loads(Path("made/failed.json").read_text())] == [2]
        asked = len(seen.requests)
        run(*words, *served, code=3)  # what is made is not asked for again
        assert len(seen.requests) == asked + 1
        run(*words, *served, "--dry-run")
        assert len(seen.requests) == asked + 1


@pytest.mark.parametrize(("words", "says"), [
    (["--enhance", "magic"], "rules, or the address"),
    (["--enhance", "http://127.0.0.1:9/v1"], "--enhance-model"),
    (["--enhance", "rules", "--enhance-model", "m"], "no effect"),
    (["--enhance-model", "m"], "no effect"),
    (["--enhance", "ftp://x/v1", "--enhance-model", "m"], "not an address"),
    (["--enhance", "https://u:p@host/v1", "--enhance-model", "m"], "environment"),
])  # fmt: skip
def test_wrong_flags_are_told_before_any_work(words, says, here):
    done = run("a dog", "--model", "no-such-model", *words, code=2)
    assert says in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_server_that_is_not_there_is_one_line(here, toy, monkeypatch):
    pytest.importorskip("openai")
    from cogvideox.generation import prompt_enhance

    quick = ChatConfig(tries=1)
    monkeypatch.setattr(prompt_enhance, "ChatConfig", lambda **settings: quick)
    done = run("a dog", "--model", toy, "--enhance", "http://127.0.0.1:9/v1", "--enhance-model", "m", code=1)
    assert "connection" in done.stderr and "--enhance rules" in done.stderr
    assert not list(here.glob("video*"))
