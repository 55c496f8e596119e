"""Captions of models are cleaned, refused or asked anew."""

from __future__ import annotations

import pytest

from cogvideox.chat import ChatFailure
from cogvideox.chat.parse import Cleaning, clean, most_repeated

PLAIN = "A dog runs along a beach at sunset."
SAME = [
    PLAIN,
    "The video shows a dog runs along a beach at sunset.",
    "This short clip depicts a dog runs along a beach at sunset.",
    "In this video, we see a dog runs along a beach at sunset.",
    "The image shows that a dog runs along a beach at sunset.",
    "We can see a dog runs along a beach at sunset.",
    "Caption: A dog runs along a beach at sunset.",
    "Sure! Here is the caption you asked for:\n\nA dog runs along a beach at sunset.",
    "Here's a description of the clip: The footage captures a dog runs along a beach at sunset.",
    '"A dog runs along a beach at sunset."',
    "**A dog** runs along\na beach at sunset.",
    '{"caption": "A dog runs along a beach at sunset.", "words": 8}',
    '```json\n{"caption": "A dog runs along a beach at sunset."}\n```',
    "<think>The user wants...</think>A dog runs along a beach at sunset.",
    "A dog runs along a beach at sunset. A dog runs along a beach at sunset.",
    "A dog\x07 runs along a beach\u2028 at sunset.",
]


@pytest.mark.parametrize("said", SAME)
def test_what_is_around_a_caption_goes(said):
    assert clean(said) == PLAIN


@pytest.mark.parametrize("text", [
    "A film crew shoots a scene in a street.",
    "A video game is played on a large screen.",
    "There and back, a shuttle moves across the loom.",
    "Here and there, dots of light blink. A caption: nothing else can be read on the sign.",
    "The image of a saint hangs above a door.",
])  # fmt: skip
def test_good_captions_stay_as_they_are(text):
    assert clean(text) == text


@pytest.mark.parametrize("text", [
    "I'm sorry, but I can't help with that.",
    "I cannot describe people in this picture.",
    "As an AI language model, I have no eyes.",
    "Unfortunately, I am not able to view videos.",
    "It seems no images were provided. Could you upload them?",
])  # fmt: skip
def test_refusals_are_refused(text):
    with pytest.raises(ChatFailure) as caught:
        clean(text)
    assert caught.value.kind == "refused"


NONE = ["", "  ", "x", "{}", '{"caption": ', "<html><body>502</body></html>", "<think>never ends", "word" * 12_000,
        "the cat sat on a mat and " * 30]  # fmt: skip


@pytest.mark.parametrize("text", NONE, ids=range(len(NONE)))
def test_what_is_no_caption_is_asked_anew(text):
    with pytest.raises(ValueError):
        clean(text)


def test_fifty_thousand_characters_become_a_caption():
    long = " ".join(f"Sentence {n} tells of thing {n * 7}." for n in range(1500))
    assert len(long) > 45_000
    short = clean(long, Cleaning(words=50))
    assert len(short.split()) <= 50 and short.endswith(".") and long.startswith(short)
    assert len(clean("wordswords " * 5_000, Cleaning(words=9_000, repeats=9_000))) <= 2001


def test_cleaning_twice_changes_nothing():
    for said in SAME:
        assert clean(clean(said)) == clean(said)


def test_repetition_is_counted():
    assert most_repeated("a b c d e f") == 1
    assert most_repeated("a b c d a b c d") == 2
    assert most_repeated("") == 0
