"""Several prompts in one text: read as they are typed, refused where their times cannot be."""

from __future__ import annotations

import time
import warnings

import pytest

from cogvideox.errors import PromptError
from cogvideox.generation import GenerateOptions, Given, plan_run
from cogvideox.generation.preflight import check_request
from cogvideox.generation.prompt_enhance import Enhance
from cogvideox.generation.prompt_times import TimedPrompt, texts_of, timed_prompts, with_texts
from cogvideox.presets import get_preset

TWO = "0-5: a red circle moves to the right; 5-10: a blue square moves up"


def test_times_are_seconds():
    expected = (
        TimedPrompt(0, 5, "a red circle moves to the right"),
        TimedPrompt(5, 10, "a blue square moves up"),
    )
    assert timed_prompts(TWO) == expected
    assert timed_prompts(TWO.replace("; ", "\n").replace("5:", "5 s :")) == expected
    fine = timed_prompts("0-1.5: a; b, c: d.; 1.5-3: e;")
    assert [(each.start, each.stop, each.text) for each in fine] == [(0, 1.5, "a; b, c: d."), (1.5, 3, "e")]


@pytest.mark.parametrize("prompt", [
    "", "a red circle", "0-5: a red circle", "a score of 2-0: cheers; 3-0: more cheers", "from 0-5: a; 5-10: b",
])  # fmt: skip
def test_a_plain_prompt_is_left_as_it_is(prompt):
    assert timed_prompts(prompt) == () and texts_of(prompt) == (prompt,)
    assert with_texts(prompt, str.upper) == prompt.upper()


@pytest.mark.parametrize(("prompt", "message"), [
    ("1-5: a; 5-10: b", "first time is 1; begin at 0"),
    ("0-5: a; 6-10: b", "0-5 is followed by 6-10; begin each time where the one before ends"),
    ("0-5: a; 5-5: b", "5-5: ends before it begins"),
    ("0-5: a; 5-10: ", "5-10: empty"),
])  # fmt: skip
def test_times_that_cannot_be_are_refused(prompt, message):
    with pytest.raises(PromptError, match=message):
        timed_prompts(prompt)


@pytest.mark.parametrize(("prompt", "read"), [
    ("0-3: a circle, 3-6: a square", "2 prompts with times and is read as one"),
    ("0s-3s: a circle; 3s-6s: a square", "2 prompts with times and is read as one"),
    ("0-3 a circle; 3-6 a square", "2 prompts"),
    ("0\u20133: a circle; 3\u20136: a square", "2 prompts"),
    ("0 to 3 seconds: a circle. 3 to 6 seconds: a square", "2 prompts"),
    ("[0:00-0:03] a circle [0:03-0:06] a square", "2 prompts"),
    ("A story. 0-3: a circle; 3-6: a square", "2 prompts"),
    ("0-3: a circle; 3-6: a square, 6-9: a star", "3 prompts with times and is read as 2"),
])  # fmt: skip
def test_times_in_another_form_are_told(prompt, read):
    with pytest.warns(UserWarning, match=f"{read}.*write '0-5: a red circle"):
        plan_run(get_preset("tiny"), GenerateOptions(prompt=prompt))


@pytest.mark.parametrize("prompt", [
    TWO, "0-5: a red circle", "a score of 2-0: cheers; 3-0: more cheers", "3-5 cats and 5-7 dogs", "a 0-60 mph race",
    "the year 2010-2020, then 2020-2030", "a drop of 0.5-1 m", "0-3, 5-6 and 8-9", "",
])  # fmt: skip
def test_other_numbers_are_no_times(prompt):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        plan = plan_run(get_preset("tiny"), GenerateOptions(prompt=prompt))
    assert not told
    assert (plan.windows is not None and len(plan.windows.prompts) == 2) == (prompt == TWO)


def test_a_video_is_as_long_as_its_prompts_say():
    plan = plan_run(get_preset("tiny"), GenerateOptions(prompt=TWO))
    assert plan.frames.asked == 80 and plan.windows is not None
    assert plan.windows.prompts == (0, 10)
    assert plan_run(get_preset("tiny"), GenerateOptions(prompt=TWO, fps=4)).frames.asked == 40


def test_each_prompt_is_written_out_and_has_a_budget_of_its_own():
    enhanced = Enhance("rules", None).apply("0-5: ball goes right; 5-10: a blue box", "tiny")
    assert [each.text for each in timed_prompts(enhanced.enhanced)] == [
        Enhance("rules", None).apply(each, "tiny").enhanced for each in ("ball goes right", "a blue box")
    ]
    spec = get_preset("tiny")
    words = " ".join(["red"] * 600)
    check_request(spec, GenerateOptions(prompt=f"0-5: {words}; 5-10: {words}"), Given())
    with pytest.raises(PromptError, match="prompt: 1200 words"):
        check_request(spec, GenerateOptions(prompt=f"0-5: {words} {words}; 5-10: a"), Given())


@pytest.mark.parametrize(
    "text", ["\n" * 8192, ";\n" * 4096, "\n1 -" * 2048, "0" + " " * 8191, "0-1" + "\n" * 8189]
)
def test_a_text_of_nothing_takes_no_time(text):
    """Eight thousand empty lines took three seconds, of every network that ran beside it too."""
    began = time.process_time()
    assert timed_prompts(text) == ()
    assert time.process_time() - began < 0.5
