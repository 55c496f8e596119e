"""The text of an answer to a value. A reader raises ValueError for an answer that cannot be used: it is asked again."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel, ValidationError

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
