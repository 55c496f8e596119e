"""One attempt at a real server that misbehaves: each fault has a name, a bound, and gives no secret away."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from cogvideox.chat import Chat, ChatConfig, ChatFailure, Image, Question, Server, ServerConfig, json_reader
from cogvideox.chat.server import retry_after
from cogvideox.config import Config
from cogvideox.errors import ConfigError
from support.scripted_server import Reply, completion, error, scripted_server

pytest.importorskip("openai")

FAULTS = {
    "5xx": (error(503), "server"),
    "429": (error(429, retry_after="0.25"), "busy"),
    "no money": (error(429, code="insufficient_quota"), "quota"),
    "wrong key": (error(401), "key"),
    "no such model": (error(404), "rejected"),
    "too long a prompt": (error(400), "rejected"),
    "redirect": (error(307, location="http://127.0.0.1:9/inside"), "moved"),
    "hangs up": (Reply(hang_up=True), "connection"),
    "cut body": (Reply(b'{"choices": [', declared=5000), "connection"),
    "silence": (Reply(before=3.0), "timeout"),
    "html": (Reply(b"<html>gateway</html>", headers={"content-type": "text/html"}), "garbled"),
    "broken json": (Reply(b'{"choices": [{"message": {"cont'), "garbled"),
    "deep json": (Reply(b"[" * 100_000), "garbled"),
    "other json": (Reply(b'{"choices": []}'), "garbled"),
    "a list": (Reply(b"[1, 2]"), "garbled"),
    "no text": (completion(None), "garbled"),
    "empty text": (completion("  "), "garbled"),
    "refusal": (completion(None, refusal="I cannot help with that"), "refused"),
    "filtered": (completion("x", "content_filter"), "refused"),
    "endless body": (Reply(b"", declared=-1, endless=b"x" * 65536), "garbled"),
    "endless error": (Reply(b"", 500, declared=-1, endless=b"x" * 65536), "server"),
    "dripping body": (Reply(b"", declared=-1, endless=b" ", pause=0.02), "timeout"),
}


HASTE = {"silence": {"read": 1.0}, "dripping body": {"whole": 1.5}}  # the others must not fail by being slow


@pytest.fixture
def server():
    """Makes servers that are closed after the test."""
    made = []

    def make(url: str, **settings) -> Server:
        patient = {"connect": 30.0, "read": 30.0, "whole": 60.0}
        made.append(Server(ServerConfig(url=url, model="m", **patient | settings)))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_has_a_name(name, monkeypatch, server):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-1234")
    reply, kind = FAULTS[name]
    with scripted_server(lambda request, attempt: reply) as seen:
        with pytest.raises(ChatFailure) as caught:
            server(seen.url, most_bytes=200_000, **HASTE.get(name, {})).answer(Question(("hello",)))
        assert caught.value.kind == kind, str(caught.value)
        assert len(seen.requests) == 1
        assert "\n" not in str(caught.value)


def test_retry_after_reaches_the_asker(server):
    reply = error(429, retry_after="7")
    with scripted_server(lambda request, attempt: reply) as seen, pytest.raises(ChatFailure) as caught:
        server(seen.url).answer(Question(("hello",)))
    assert caught.value.wait == 7
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after("soon") is None


def test_nobody_there_is_a_connection_failure(server):
    with pytest.raises(ChatFailure) as caught:
        server("http://127.0.0.1:9/v1").answer(Question(("hello",)))
    assert caught.value.kind == "connection"


def test_a_question_arrives_whole(server):
    frame = np.zeros((8, 8, 3), np.uint8)
    question = Question(("at 0 s", Image.of(frame)), system="be short", examples=(("a", "b"),), max_tokens=9,
                        top_p=0.7, seed=3, schema={"type": "object"})  # fmt: skip
    with scripted_server(lambda request, attempt: completion("a red circle")) as seen:
        answer = server(seen.url).answer(question)
    assert (answer.text, answer.model, answer.tokens) == ("a red circle", "served", 10)
    sent = seen.requests[0]
    assert [m["role"] for m in sent["messages"]] == ["system", "user", "assistant", "user"]
    assert sent["messages"][-1]["content"][1]["image_url"]["url"].startswith("data:image/png;base64,")
    assert (sent["max_tokens"], sent["top_p"], sent["seed"]) == (9, 0.7, 3)
    assert sent["response_format"]["json_schema"]["schema"] == {"type": "object"}


def test_the_key_is_sent_and_told_to_nobody(monkeypatch, tmp_path, server):
    monkeypatch.setenv("MY_KEY", "sk-canary-1234")
    with scripted_server(lambda request, attempt: error(401, "bad key sk-canary-1234")) as seen:
        model = server(seen.url, key_variable="MY_KEY")
        chat = Chat(model, transcript=tmp_path / "t.jsonl")
        outcome = next(chat.ask_all([Question(("hello",))]))
        assert seen.headers[0]["authorization"] == "Bearer sk-canary-1234"
    told = str(outcome) + repr(model) + repr(vars(model)) + (tmp_path / "t.jsonl").read_text()
    assert outcome.failure.kind == "key" and "MY_KEY" in str(outcome.failure)
    assert "canary" not in told


def test_a_key_of_the_surroundings_is_not_sent_unasked(monkeypatch, server):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-1234")
    with scripted_server(lambda request, attempt: completion("x")) as seen:
        server(seen.url, key_variable="NOT_SET_HERE").answer(Question(("hello",)))
        assert "canary" not in str(seen.headers)


@pytest.mark.parametrize("url", ["ftp://x/v1", "nothing", "http://u:p@host/v1", "https://host/v1?key=1"])
def test_addresses_are_checked_early(url):
    with pytest.raises(ConfigError):
        ServerConfig(url=url, model="m")


def test_a_key_is_not_sent_in_the_clear(monkeypatch, server):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-1234")
    with pytest.raises(ConfigError, match="without encryption"):
        server("http://example.org/v1")
    server("https://example.org/v1")


class Score(Config):
    score: int


def test_many_questions_at_a_server_that_does_all_of_it(server):
    """12 kinds of behaviour, mixed, 16 at a time: every question ends once, done or with the reason that fits."""
    kinds = ["good", "late", "5xx", "429", "cut", "html", "long", "bad score", "refuses", "400", "always 5xx",
             "always bad score"]  # fmt: skip

    def script(request: dict, attempt: int) -> Reply:
        name = request["messages"][-1]["content"].split(":")[0]
        good = completion('Sure! ```json\n{"score": 4}\n```')
        first = {"late": Reply(good.body, before=0.2), "5xx": error(500), "429": error(429, retry_after="0.01"),
                 "cut": Reply(b"{", declared=99), "html": Reply(b"<html>"),
                 "bad score": completion('{"score": "many"}')}  # fmt: skip
        always = {"refuses": completion(None, refusal="no"), "400": error(400), "always 5xx": error(502),
                  "always bad score": completion("four"),
                  "long": completion("x" * 50_000 + '{"score": 5}')}  # fmt: skip
        return always.get(name) or (first[name] if name in first and attempt == 1 else good)

    questions = [Question((f"{name}: {n}",)) for n in range(4) for name in kinds]
    settings = ChatConfig(concurrency=16, tries=3, first_wait=0.01, longest_wait=0.05, failures=1000)
    with scripted_server(script) as seen:
        chat = Chat(server(seen.url), settings)
        outcomes = list(chat.ask_all(questions, json_reader(Score)))
        assert 1 < seen.most_open <= 16
    assert [o.index for o in outcomes] == list(range(len(questions)))
    ended = {name: {o.failure.kind if o.failure else o.value.score for o in outcomes[i :: len(kinds)]}
             for i, name in enumerate(kinds)}  # fmt: skip
    assert ended == {
        "good": {4}, "late": {4}, "5xx": {4}, "429": {4}, "cut": {4}, "html": {4}, "long": {5}, "bad score": {4},
        "refuses": {"refused"}, "400": {"rejected"}, "always 5xx": {"server"}, "always bad score": {"unusable"},
    }  # fmt: skip
    assert chat.budget.used_requests == len(seen.requests)
    assert not [t for t in threading.enumerate() if t.name.startswith("chat")]
