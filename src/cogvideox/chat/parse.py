"""The text of an answer to a value: JSON, or a caption without stock openings, refusals, repetition or over-length.

A reader raises ValueError for an answer that cannot be used: it is asked again. Captions are untrusted text. They are
cleaned, cut and stored; nothing in them is obeyed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel, Field, ValidationError

from cogvideox.chat.question import ChatFailure
from cogvideox.config import Config
from cogvideox.errors import ConfigError
from cogvideox.files import parse_json

Model = TypeVar("Model", bound=BaseModel)
Reader = Callable[[str], object]
LONGEST = 200_000  # characters of JSON in an answer, at most
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)


def as_text(text: str) -> str:
    """The answer without thoughts said aloud; an empty one cannot be used."""
    said = _THOUGHT.sub("", text).strip()
    if not said:
        raise ValueError("the answer is empty")
    return said


def json_reader(model: type[Model]) -> Callable[[str], Model]:
    """A reader of JSON that follows a pydantic model, bare, fenced, or with words around it."""

    def read(text: str) -> Model:
        said = as_text(text)
        if len(said) > LONGEST:
            raise ValueError(f"{len(said)} characters of JSON; at most {LONGEST} are read")
        fenced = _FENCE.search(said)
        body = fenced.group(1) if fenced else said
        start, stop = body.find("{"), body.rfind("}")
        try:
            return model.model_validate(
                parse_json(body[start : stop + 1] if start >= 0 else body, "the answer")
            )
        except (ValidationError, ValueError) as error:
            raise ValueError(f"not the JSON that was asked for: {_first_line(error)}") from None

    return read


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:160]
    return " ".join(str(error).split())[:160]


class Cleaning(Config):
    """Limits of a caption."""

    words: int = Field(120, gt=0, description="longer captions are cut at the end of a sentence")
    characters: int = Field(2000, gt=0, description="never more than so many")
    least_words: int = Field(2, ge=1, description="shorter ones are no captions")
    repeats: int = Field(3, gt=0, description="times the same four words may stand in a caption")


_LEAD_IN = re.compile(
    r"^(?:sure|certainly|of course|okay|ok|absolutely|here(?:'s| is| are)|(?:final |video |dense |merged )?"
    r"(?:caption|description|summary|answer|output))\b[^.:\n]{0,80}[:!.]\s*",
    re.IGNORECASE,
)
_MEDIUM = r"(?:video|clip|footage|film|scene|sequence|image|picture|photo|frame|shot|animation)"
_VERB = (
    r"(?:shows?|presents?|depicts?|features?|captures?|showcases?|displays?|portrays?|illustrates?|contains?|"
    r"opens? with|begins? with|starts? with|is (?:of|about)|focuses on|revolves around)"
)
_OPENINGS = (
    re.compile(
        rf"^(?:the|this)\s+(?:\w+\s+){{0,2}}?{_MEDIUM}(?:\s+\w+){{0,2}}?\s+{_VERB}\s+(?:that\s+|us\s+)?",
        re.IGNORECASE,
    ),
    re.compile(
        rf"^in\s+(?:the|this)\s+(?:\w+\s+)?{_MEDIUM},?\s+(?:we (?:can )?see\s+|there (?:is|are)\s+)?",
        re.IGNORECASE,
    ),
    re.compile(r"^(?:we (?:can )?see|you (?:can )?see|we are shown|there (?:is|are))\s+", re.IGNORECASE),
    re.compile(r"^(?:an?|the)\s+(?:video|clip|footage|animation)\s+(?:of|in which|where)\s+", re.IGNORECASE),
)
_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am)\s+(?:sorry|unable|not able)|"
    r"i\s+(?:cannot|can't|can not|won't|am not allowed to)\s+"
    r"(?:help|assist|describe|see|view|provide|do|comply|fulfil|identify|generate|create|access)|"
    r"as an ai\b|as a language model|"
    r"no (?:image|video|frame|picture)s? (?:was|were|has been|have been) (?:provided|given|attached)|"
    r"unfortunately,? i\b|i apologi[sz]e)",
    re.IGNORECASE,
)
_MARKS = re.compile(r"[*_#`>|]+|^\s*(?:[-•]|\d+[.)])\s+", re.MULTILINE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def clean(text: str, limits: Cleaning | None = None) -> str:
    """One line that can be a caption. Raises ChatFailure("refused") for a refusal, ValueError when it is none."""
    limits = limits or Cleaning()
    said = _unwrapped(as_text(text))
    if _REFUSAL.search(said[:300]):
        raise ChatFailure("refused", said[:160])
    said = _shortened(_each_once(_without_openings(_one_line(said))), limits)
    if len(said.split()) < limits.least_words:
        raise ValueError(f"{said[:60]!r} is no caption")
    again = most_repeated(said)
    if again > limits.repeats:
        raise ValueError(f"the same four words stand in it {again} times")
    return said[0].upper() + said[1:]


def reader(limits: Cleaning) -> Reader:
    """``clean`` with these limits, for ``Chat.ask_all``."""
    return lambda text: clean(text, limits)


def most_repeated(text: str) -> int:
    """How often the most frequent four words in a row stand in a text."""
    words = re.findall(r"\w+", text.lower())
    rows = Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
    return max(rows.values(), default=0)


def _unwrapped(text: str) -> str:
    """The caption inside JSON, quotation marks or a code fence, without what was said before it."""
    text = text.strip().removeprefix("```json").strip("`").strip()
    if text.startswith("{"):
        try:
            values = parse_json(text, "the answer")
        except ConfigError:
            raise ValueError("broken JSON instead of a caption") from None
        texts = [v for v in values.values() if isinstance(v, str)] if isinstance(values, dict) else []
        if not texts:
            raise ValueError("JSON without a caption")
        text = max(texts, key=len)
    if text.lstrip().startswith("<"):
        raise ValueError("markup instead of a caption")
    lead = _LEAD_IN.match(text)
    text = text[lead.end() :] if lead and lead.end() < len(text) else text
    return text.strip().strip("\"'“”").strip()


def _one_line(text: str) -> str:
    plain = _MARKS.sub(" ", text)
    return " ".join("".join(c if c.isprintable() else " " for c in plain).split())


def _without_openings(text: str) -> str:
    for _ in range(3):
        before = text
        for opening in _OPENINGS:
            text = opening.sub("", text, count=1).lstrip(" ,:;")
        if text == before:
            break
    return text


def _each_once(text: str) -> str:
    """Sentences that were said already are left out: small models go round in circles."""
    seen: set[str] = set()
    kept = []
    for sentence in _SENTENCE.split(text):
        plain = sentence.lower().strip()
        if plain not in seen:
            seen.add(plain)
            kept.append(sentence)
    return " ".join(kept)


def _shortened(text: str, limits: Cleaning) -> str:
    """At most so many words and characters, at the end of a sentence where there is one."""
    short = " ".join(text[: limits.characters].split()[: limits.words])
    if len(short) == len(text):
        return text
    cut = text[: len(short)].rstrip()
    whole = max(cut.rfind(mark) for mark in (". ", "! ", "? "))
    if cut.endswith((".", "!", "?")):
        return cut
    return cut[: whole + 1] if whole >= len(cut) // 3 else cut.rstrip(" ,;:-") + "."
