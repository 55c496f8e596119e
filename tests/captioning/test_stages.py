"""The five stages end to end: offline by rules, and against a real server that misbehaves."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from cogvideox.captioning.describe import ClipSource, Describer
from cogvideox.captioning.instructions import FRAME, MATCH, MERGE, SHORT
from cogvideox.captioning.match import AskedMatch, WorldMatch
from cogvideox.captioning.stages import AskDense, FrameCaptions, Merge, ShortCaption, merge_text
from cogvideox.captioning.world import world_model
from cogvideox.chat import Chat, ChatConfig, ChatFailure, Scripted, Server, ServerConfig
from cogvideox.chat.parse import Cleaning
from cogvideox.errors import ConfigError, MediaError
from cogvideox.world import facts, read_caption
from support.scripted_server import Reply, completion, error, scripted_server
from support.world_clips import clip_of, footage_of, scene_of

FAST = ChatConfig(concurrency=8, tries=3, first_wait=0.005, longest_wait=0.02, failures=1000, rest=0.01)


def paper(chat: Chat, **settings) -> Describer:
    stages = (ShortCaption(chat, frames=17), FrameCaptions(chat, seconds=1.0), Merge(chat))
    return Describer(stages, identity=f"paper {chat.model.name}", **settings)


def test_the_rules_of_the_world_tell_what_is_there():
    chat = Chat(world_model())
    right = told = 0
    for index in range(15):
        scene = scene_of(index)
        (result,) = ShortCaption(chat, frames=17).write([clip_of(index)])
        right += len(set(read_caption(result[0].text)) & set(facts(scene)))
        told += len(facts(scene))
    assert right / told > 0.97


def test_the_papers_path_ends_in_a_dense_caption_with_its_provenance(tmp_path):
    (record,) = paper(Chat(world_model()), matcher=WorldMatch()).describe(footage_of(1), tmp_path)
    assert record.ended == "done" and record.match > 0.9
    assert [note.kind for note in record.notes] == ["short", "frame", "frame", "frame", "dense"]
    assert [note.moments for note in record.notes][1:4] == [(0.0,), (1.0,), (2.0,)]
    assert {note.prompt for note in record.notes} == {SHORT.name, FRAME.name, MERGE.name}
    assert {note.author for note in record.notes} == {"world rules/1"}
    assert record.caption == record.notes[-1].text and len(record.caption.split()) > 10


def test_frames_are_chosen_by_time():
    clip = clip_of(0)
    assert clip.every(1.0, 99) == [0, 8, 16]
    assert clip.every(2.0, 99) == [0, 16]
    assert clip.every(0.1, 4) == [0, 5, 11, 16] or len(clip.every(0.1, 4)) == 4
    assert clip.every(60.0, 9) == [0]
    assert clip.spread(3) == [0, 8, 16]


def test_what_is_merged_is_a_dictionary_from_seconds():
    chat = Chat(world_model())
    clip = clip_of(2)
    (frames,) = FrameCaptions(chat, seconds=2.0).write([clip])
    (short,) = ShortCaption(chat, frames=17).write([clip])
    head, _, whole = merge_text([*frames, *short]).partition("\n")
    assert list(json.loads(head)) == ["0", "2"] and whole.startswith("Whole clip: ")


class Faults:
    """The rules of the world behind HTTP, with faults: what a request meets depends on its text alone."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.lock = threading.Lock()

    def __call__(self, request: dict, attempt: int) -> Reply:
        system = request["messages"][0]["content"]
        kinds = {SHORT.text: "short", FRAME.text: "frame", MERGE.text: "merge"}
        kind = kinds[system]
        with self.lock:
            self.asked.append(kind)
            turn = len(self.asked)
        answers = {"short": "The video shows a red circle moves to the right.",
                   "frame": f"A red circle in the upper left, picture {turn}.",
                   "merge": "Sure! Here is the summary:\n\nA red circle glides\nto the right."}  # fmt: skip
        fault = [error(500), error(429, retry_after="0.01"), Reply(hang_up=True), Reply(b"<html>"),
                 Reply(b"{", declared=50), completion("I'm sorry, I can't help with that."), error(400),
                 completion("round and round and round it goes " * 1500), completion('{"caption": ')]  # fmt: skip
        return fault[turn // 2 % len(fault)] if turn % 2 else completion(answers[kind])


@pytest.fixture
def faults():
    pytest.importorskip("openai")
    script = Faults()
    with scripted_server(script) as seen:
        server = Server(ServerConfig(url=seen.url, model="m", connect=30, read=30))
        yield script, server
        server.close()


def test_a_server_that_misbehaves_loses_no_clip(faults, tmp_path):
    """40 clips: each ends in exactly one of done, failed, pending; a second run asks for what is pending, no more."""
    script, server = faults
    chat = Chat(server, FAST, cache=tmp_path / "cache")
    first = list(paper(chat).describe(footage_of(40), tmp_path / "work"))
    assert [record.id for record in first] == [f"clip-{i:03d}" for i in range(40)]
    ended = {kind: [r for r in first if r.ended == kind] for kind in ("done", "failed", "pending")}
    assert sum(map(len, ended.values())) == 40 and len(ended["done"]) >= 10
    for record in ended["done"]:
        assert record.caption == "A red circle glides to the right." and not record.reason
    for record in ended["failed"] + ended["pending"]:
        assert record.reason and record.stage in ("short", "frame", "dense") and not record.caption
    asked = len(script.asked)
    again = list(paper(chat).describe(footage_of(40), tmp_path / "work"))
    assert [r for r in again if r.id in {d.id for d in ended["done"] + ended["failed"]}] == sorted(
        ended["done"] + ended["failed"], key=lambda r: r.id
    )
    assert bool(ended["pending"]) == (len(script.asked) > asked)


def test_a_rerun_gives_the_same_bytes_and_asks_nothing(tmp_path):
    calls = []
    rules = world_model()
    model = Scripted(lambda q: calls.append(q) or rules.reply(q), rules.name)
    first = list(paper(Chat(model)).describe(footage_of(5), tmp_path))
    files = {file: file.read_bytes() for file in tmp_path.rglob("*.json")}
    asked = len(calls)
    assert list(paper(Chat(model)).describe(footage_of(5), tmp_path)) == first and len(calls) == asked
    next(iter(files)).write_text("{")  # as a crash could leave it
    assert list(paper(Chat(model)).describe(footage_of(5), tmp_path)) == first
    assert {file: file.read_bytes() for file in tmp_path.rglob("*.json")} == files


def test_pending_is_asked_again_and_failed_is_not(tmp_path):
    mood = {"kind": "server"}

    def reply(question):
        raise ChatFailure(mood["kind"], "not now")

    describer = paper(Chat(Scripted(reply), FAST))
    assert next(describer.describe(footage_of(1), tmp_path)).ended == "pending"
    mood["kind"] = "refused"
    (record,) = paper(Chat(Scripted(reply), FAST)).describe(footage_of(1), tmp_path)
    assert (record.ended, record.reason, record.stage) == ("failed", "refused", "frame")
    mood["kind"] = "server"
    assert list(paper(Chat(Scripted(reply), FAST)).describe(footage_of(1), tmp_path)) == [record]


def test_some_refused_frames_do_not_cost_the_clip():
    rules = world_model()

    def reply(question):
        frames = question.images
        if question.purpose == FRAME.name and (frames[0].pixels() == clip_of(0).frames[8]).all():
            raise ChatFailure("refused", "no")
        return rules.reply(question)

    (result,) = FrameCaptions(Chat(Scripted(reply), FAST), seconds=1.0).write([clip_of(0)])
    assert [told.moments for told in result] == [(0.0,), (2.0,)]
    (result,) = FrameCaptions(Chat(Scripted(reply), FAST), seconds=1.0, least=0.9).write([clip_of(0)])
    assert isinstance(result, ChatFailure) and result.kind == "refused"


def test_an_unreadable_clip_fails_by_name_and_alone(tmp_path):
    def broken():
        raise MediaError("x.mp4: no frame could be decoded")

    footage = [*footage_of(1), ClipSource("bad", broken), *footage_of(1)]
    records = list(paper(Chat(world_model())).describe(footage, tmp_path))
    assert [(r.ended, r.stage) for r in records] == [("done", ""), ("failed", "decode"), ("done", "")]
    assert "no frame" in records[1].detail


def test_the_match_filter_tells_captions_of_other_clips_apart(tmp_path):
    chat = Chat(world_model())
    for matcher in (WorldMatch(), AskedMatch(chat, frames=17)):
        own, other = [], []
        for index in range(6):
            clip = clip_of(index)
            (told,) = ShortCaption(chat, frames=17).write([clip])
            own += matcher.score([(clip, told[0].text)])
            other += matcher.score([(clip_of(index + 20), told[0].text)])
        assert np.mean(own) > 0.95 and np.mean(other) < 0.6
    wrong = Chat(
        Scripted(
            lambda q: "A purple ring shrinks." if q.purpose == MERGE.name else world_model().reply(q), "w"
        )
    )
    describer = paper(wrong, matcher=WorldMatch(), least_match=0.9)
    (record,) = describer.describe(footage_of(1), tmp_path)
    assert (record.ended, record.reason) == ("unlike", "caption does not match") and record.match < 0.9


def test_a_judge_that_answers_nonsense_leaves_a_reason(tmp_path):
    chat = Chat(
        Scripted(lambda q: "lovely" if q.purpose == MATCH.name else world_model().reply(q), "w"), FAST
    )
    (record,) = paper(chat, matcher=AskedMatch(chat)).describe(footage_of(1), tmp_path)
    assert (record.ended, record.stage, record.reason) == ("failed", "match", "unusable")


def test_a_video_model_behind_a_server_sees_frames_with_their_times(tmp_path):
    seen = []

    def reply(question):
        seen.append(question)
        return "A red circle moves across a grey field. " * 3 + "It ends."

    describer = Describer([AskDense(Chat(Scripted(reply)), cleaning=Cleaning(words=30))], "dense")
    (record,) = describer.describe(footage_of(1), tmp_path)
    assert record.caption == "A red circle moves across a grey field. It ends."
    assert len(seen[0].images) == 3 and seen[0].text.splitlines() == ["0 s:", "1 s:", "2 s:"]


def test_the_last_stage_must_write_the_caption():
    with pytest.raises(ConfigError, match="dense"):
        Describer([ShortCaption(Chat(world_model()))], "x")
