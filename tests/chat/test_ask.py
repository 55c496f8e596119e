"""Patience: budgets, the breaker, the cache, transcripts, stopping. The model is scripted; the machinery is real."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from cogvideox.chat import (
    Chat,
    ChatConfig,
    ChatFailure,
    Image,
    Question,
    Replay,
    Scripted,
    as_text,
    json_reader,
)
from cogvideox.chat.limits import Breaker, delay
from cogvideox.config import Config
from cogvideox.errors import InputError, MediaError

FAST = ChatConfig(concurrency=2, tries=3, first_wait=0.001, longest_wait=0.002, rest=0.001)


def questions(count: int) -> list[Question]:
    return [Question((f"number {n}",)) for n in range(count)]


def test_outcomes_come_in_order_and_once():
    chat = Chat(Scripted(lambda q: q.text.upper()), FAST)
    outcomes = list(chat.ask_all(questions(50)))
    assert [o.value for o in outcomes] == [f"NUMBER {n}" for n in range(50)]
    assert all(o.ok and o.attempts == 1 for o in outcomes)


def test_a_generator_of_questions_is_read_as_answers_are_taken():
    asked = []

    def many():
        for question in questions(1000):
            asked.append(question)
            yield question

    outcomes = Chat(Scripted(lambda q: "x"), FAST).ask_all(many())
    next(outcomes)
    assert len(asked) <= 4 * FAST.concurrency
    outcomes.close()


def test_budgets_end_a_run_and_leave_the_rest_pending():
    chat = Chat(Scripted(lambda q: "x"), FAST.changed(requests=5))
    outcomes = list(chat.ask_all(questions(20)))
    assert sum(o.ok for o in outcomes) == 5
    assert {o.failure.kind for o in outcomes if not o.ok} == {"budget"}
    assert all(o.failure.pending for o in outcomes if not o.ok)
    chat = Chat(Scripted(lambda q: "x " * 50), FAST.changed(tokens=100))
    assert 1 <= sum(o.ok for o in chat.ask_all(questions(20))) <= 4


def test_a_dead_server_is_left_alone():
    calls = []

    def reply(question):
        calls.append(question)
        raise ChatFailure("server", "503")

    settings = FAST.changed(failures=4, openings=3)
    with pytest.warns(UserWarning, match=r"does not answer \(server: 503\): no requests to it for"):
        outcomes = list(Chat(Scripted(reply), settings).ask_all(questions(500)))
    assert len(outcomes) == 500 and not any(o.ok for o in outcomes)
    assert "at last with server: 503" in str(outcomes[-1].failure)
    assert {o.failure.kind for o in outcomes} <= {"server", "down"}
    assert all(o.failure.pending for o in outcomes)
    assert len(calls) < 20


def test_a_server_that_comes_back_is_asked_again():
    lock, calls = threading.Lock(), [0]

    def reply(question):
        with lock:
            calls[0] += 1
            if calls[0] <= 5:
                raise ChatFailure("connection", "refused")
        return "fine"

    settings = FAST.changed(failures=3, openings=50, tries=20)
    outcomes = list(Chat(Scripted(reply), settings).ask_all(questions(30)))
    assert all(o.ok for o in outcomes)


def test_the_breaker_opens_probes_and_closes():
    now = [0.0]
    breaker = Breaker(2, 10.0, 3, lambda: now[0])
    breaker.failed()
    assert breaker.wait() == 0
    breaker.failed()
    assert breaker.wait() == 10
    now[0] = 10.0
    assert breaker.wait() == 0  # one may try
    assert breaker.wait() > 0  # the others wait for it
    breaker.worked()
    assert breaker.wait() == breaker.wait() == 0


def test_waits_grow_differ_and_obey_the_server():
    assert delay("a", 1, 1.0, 60, None) <= 1
    assert 4 <= delay("a", 4, 1.0, 60, None) <= 8
    assert delay("a", 30, 1.0, 60, None) <= 60
    assert delay("a", 1, 1.0, 60, 17.0) == 17
    assert delay("a", 1, 1.0, 60, None) != delay("b", 1, 1.0, 60, None)


def test_a_server_that_asks_for_an_hour_is_left_for_later():
    def reply(question):
        raise ChatFailure("busy", "429", 3600.0)

    outcome = next(Chat(Scripted(reply), FAST).ask_all(questions(1)))
    assert outcome.failure.kind == "busy" and outcome.failure.pending and outcome.attempts == 1


def test_answers_are_kept_by_content_and_model(tmp_path):
    calls = []
    model = Scripted(lambda q: calls.append(q) or q.text)
    asked = questions(10)
    first = [o.value for o in Chat(model, FAST, tmp_path).ask_all(asked)]
    again = list(Chat(model, FAST, tmp_path).ask_all(asked))
    assert [o.value for o in again] == first and all(o.attempts == 0 for o in again) and len(calls) == 10
    list(Chat(Scripted(model.reply, "another"), FAST, tmp_path).ask_all(asked))
    assert len(calls) == 20
    for file in tmp_path.rglob("*.json"):
        file.write_text("{")  # as a full disk leaves it
    assert [o.value for o in Chat(model, FAST, tmp_path).ask_all(asked)] == first


def test_every_part_of_a_question_decides_its_key():
    frame = np.zeros((8, 8, 3), np.uint8)
    plain = Question(("a",))
    others = [Question(("b",)), Question(("a",), system="s"), Question(("a",), examples=(("x", "y"),)),
              Question(("a",), max_tokens=1), Question(("a",), temperature=0), Question(("a",), seed=1),
              Question(("a", Image.of(frame))), Question(("a", Image.of(frame + 1))), Question(("a",), purpose="p"),
              Question(("a",), schema={})]  # fmt: skip
    assert len({q.key("m") for q in [plain, *others]} | {plain.key("n")}) == len(others) + 2
    assert plain.key("m") == Question(("a",)).key("m")


def test_a_transcript_replays_answers_and_failures(tmp_path):
    def reply(question):
        if question.text.endswith("3"):
            raise ChatFailure("refused", "no")
        return question.text

    file = tmp_path / "t.jsonl"
    asked = questions(6)
    first = list(Chat(Scripted(reply), FAST, transcript=file).ask_all(asked))
    file.write_text(file.read_text() + '{"cut off by a cra')
    again = list(Chat(Replay(file), FAST).ask_all([*asked, Question(("new",))]))
    assert [(o.value, o.failure and o.failure.kind) for o in again[:-1]] == [
        (o.value, o.failure and o.failure.kind) for o in first
    ]
    assert again[-1].failure.kind == "unknown"
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(InputError, match="not a line"):
        Replay(tmp_path / "other.jsonl")


def test_stopping_early_ends_the_threads():
    def reply(question):
        raise ChatFailure("server", "503")

    slow = ChatConfig(concurrency=2, first_wait=600, longest_wait=600, failures=1000)
    outcomes = Chat(Scripted(lambda q: reply(q) if q.text.endswith("1") else "x"), slow).ask_all(questions(4))
    next(outcomes)
    outcomes.close()  # would take ten minutes if waiting could not be ended
    assert not [t for t in threading.enumerate() if t.name.startswith("chat")]


def test_an_unforeseen_error_is_not_swallowed():
    def reply(question):
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        list(Chat(Scripted(reply), FAST).ask_all(questions(3)))


class Score(Config):
    score: int
    why: str = ""


FENCED = 'Well:\n```json\n{"score": 3, "why": "}"}\n```\nBye'


@pytest.mark.parametrize("text", ['{"score": 3}', FENCED, '<think>{"score": 9}</think> {"score": 3}'])
def test_json_is_found(text):
    assert json_reader(Score)(text).score == 3


@pytest.mark.parametrize(
    "text", ["", "3", "[3]", '{"score": "x"}', '{"score": 3', "[" * 5000, '{"other": 1}']
)
def test_other_json_is_unusable(text):
    with pytest.raises(ValueError):
        json_reader(Score)(text)


def test_one_question_gives_its_value_or_raises():
    assert Chat(Scripted(lambda q: " <think>hm</think> yes ")).ask(Question(("?",))) == "yes"
    with pytest.raises(ChatFailure):
        Chat(Scripted(lambda q: ""), FAST).ask(Question(("?",)), as_text)


def test_pictures_keep_their_pixels_when_small_and_shrink_when_large():
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert (Image.of(frame).pixels() == frame).all()
    large = Image.of(np.zeros((1080, 1920, 3), np.uint8))
    assert large.kind == "image/jpeg" and large.pixels().shape == (432, 768, 3)
    with pytest.raises(MediaError):
        Image.of(frame.astype(float))
    with pytest.raises(MediaError):
        Image(b"\x89PNG\r\n\x1a\n junk", "image/png").pixels()
