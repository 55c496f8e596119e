"""Prompts with times: ``0-5: a red circle moves to the right; 5-10: a blue square moves up``. Loads no torch."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from cogvideox.errors import PromptError

_GAP = r"\s{0,99}"  # bounded: thousands of empty lines took seconds, each was the begin of all that follow
SPAN = re.compile(rf"(?:^|[;\n]){_GAP}(\d+(?:\.\d+)?){_GAP}-{_GAP}(\d+(?:\.\d+)?){_GAP}s?{_GAP}:")
_TIME = r"(\d+(?:[.:]\d+)?)\s{0,3}(?:s|sec|seconds?)?"
LIKE_A_SPAN = re.compile(
    rf"(?<![\w.:-]){_TIME}\s{{0,3}}(?:-|\u2013|\u2014|to|until)\s{{0,3}}{_TIME}(?![\w.-])"
)
"""What a person may write for the times of a prompt: 0s-3s, 0 to 3, 0:00-0:03."""
EXAMPLE = "0-5: a red circle moves to the right; 5-10: a blue square moves up"


@dataclass(frozen=True)
class TimedPrompt:
    """What a video shows between two times, in seconds."""

    start: float
    stop: float
    text: str


def timed_prompts(prompt: str) -> tuple[TimedPrompt, ...]:
    """The prompts of a text that has several with times; () for a plain one.

    Raises PromptError for times that do not begin at 0 or do not follow each other, and for an empty prompt.
    """
    marks = list(SPAN.finditer(prompt))
    if len(marks) < 2 or prompt[: marks[0].start()].strip():
        return ()
    ends = [mark.start() for mark in marks[1:]] + [len(prompt)]
    timed = tuple(
        TimedPrompt(float(mark[1]), float(mark[2]), prompt[mark.end() : end].strip().rstrip(";").strip())
        for mark, end in zip(marks, ends, strict=True)
    )
    if timed[0].start != 0:
        raise PromptError(f"prompt: the first time is {timed[0].start:g}; begin at 0, such as {EXAMPLE!r}")
    for before, after in pairwise(timed):
        if after.start != before.stop:
            raise PromptError(
                f"prompt: {before.start:g}-{before.stop:g} is followed by {after.start:g}-{after.stop:g}; begin each "
                "time where the one before ends"
            )
    for each in timed:
        if each.stop <= each.start:
            raise PromptError(f"prompt: {each.start:g}-{each.stop:g}: ends before it begins; swap the times")
        if not each.text:
            raise PromptError(f"prompt: {each.start:g}-{each.stop:g}: empty; say what the video should show")
    return timed


def warn_of_misspelt_times(prompt: str) -> None:
    """Warn of a text with more times than are read: each begins where the one before ends, in another form."""
    read, like = len(timed_prompts(prompt)), list(LIKE_A_SPAN.finditer(prompt))
    if len(like) < 2 or len(like) <= read or float(like[0][1].replace(":", ".")) != 0:
        return
    if all(after[1] == before[2] for before, after in pairwise(like)):
        warnings.warn(
            f"prompt: looks like {len(like)} prompts with times and is read as {read or 'one'}; if it is meant so, "
            f"write {EXAMPLE!r}",
            stacklevel=3,
        )


def texts_of(prompt: str) -> tuple[str, ...]:
    """The texts that the text encoder reads: of each time, or the prompt itself."""
    return tuple(each.text for each in timed_prompts(prompt)) or (prompt,)


def with_texts(prompt: str, change: Callable[[str], str]) -> str:
    """The prompt with each of its texts changed, and the same times."""
    timed = timed_prompts(prompt)
    if not timed:
        return change(prompt)
    return "; ".join(f"{each.start:g}-{each.stop:g}: {change(each.text)}" for each in timed)
