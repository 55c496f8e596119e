"""What is asked, what is answered, and every way an answer can fail to come. Equal questions have equal keys."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from cogvideox.errors import ChatError, MediaError


@dataclass(frozen=True, slots=True)
class Kind:
    """What follows from a kind of failure. ``again``: try again now. ``pending``: a later run asks the question again.
    ``sick``: the server may be down. ``halts``: no other question can be asked in this run either."""

    again: bool = False
    pending: bool = False
    sick: bool = False
    halts: bool = False


KINDS: dict[str, Kind] = {
    "connection": Kind(again=True, pending=True, sick=True),
    "timeout": Kind(again=True, pending=True, sick=True),
    "server": Kind(again=True, pending=True, sick=True),  # 5xx
    "garbled": Kind(again=True, pending=True, sick=True),  # cut off, not JSON, without an answer, too long
    "busy": Kind(again=True, pending=True),  # 429
    "unusable": Kind(again=True),  # an answer, but not one that was asked for
    "refused": Kind(),  # the model will not say
    "rejected": Kind(),  # 4xx: the question itself
    "key": Kind(pending=True, halts=True),  # 401, 403
    "quota": Kind(pending=True, halts=True),
    "moved": Kind(pending=True, halts=True),  # a redirect, which is never followed
    "down": Kind(pending=True, halts=True),  # the circuit breaker gave up
    "budget": Kind(pending=True, halts=True),
    "stopped": Kind(pending=True),
    "unknown": Kind(pending=True),  # a replayed transcript does not hold it
}


class ChatFailure(ChatError):
    """No usable answer. ``kind`` is a name of KINDS, ``wait`` what the server asked for, in seconds."""

    def __init__(self, kind: str, detail: str, wait: float | None = None) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail, self.wait = kind, detail, wait

    @property
    def traits(self) -> Kind:
        """What may be done about it."""
        return KINDS[self.kind]

    @property
    def pending(self) -> bool:
        """Whether a later run should ask again."""
        return self.traits.pending


SMALL = 128 * 128  # pixels; up to here a picture is sent without loss
MOST_PIXELS = 16_000_000


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded picture: its bytes, and ``kind``, their media type (image/png or image/jpeg)."""

    data: bytes
    kind: str

    @classmethod
    def of(cls, frame: np.ndarray, longest: int = 768) -> Image:
        """From ``uint8 [h, w, 3]``, made smaller so that no side is over ``longest``: PNG if it is small, else JPEG
        with whole colour. Raises MediaError for other arrays."""
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
            raise MediaError(f"frame {frame.dtype} {list(frame.shape)}: a picture is uint8 [h, w, 3]")
        picture = Pillow.fromarray(np.ascontiguousarray(frame))
        picture.thumbnail((longest, longest), Pillow.Resampling.LANCZOS)
        small = picture.width * picture.height <= SMALL
        stream = io.BytesIO()
        if small:
            picture.save(stream, format="PNG")
        else:
            picture.save(stream, format="JPEG", quality=92, subsampling=0)
        return cls(stream.getvalue(), "image/png" if small else "image/jpeg")

    def pixels(self) -> np.ndarray:
        """``uint8 [h, w, 3]``. Raises MediaError."""
        try:
            with Pillow.open(io.BytesIO(self.data), formats=("PNG", "JPEG")) as picture:
                if picture.width * picture.height > MOST_PIXELS:
                    raise MediaError(
                        f"picture of {picture.width}x{picture.height}: too large; make it smaller"
                    )
                return np.asarray(picture.convert("RGB"))
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise MediaError(f"picture of {len(self.data)} bytes: cannot be read ({error})") from None

    @property
    def digest(self) -> str:
        """SHA-256 of the encoded bytes."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def url(self) -> str:
        """The picture as a ``data:`` URL."""
        return f"data:{self.kind};base64,{base64.b64encode(self.data).decode()}"


@dataclass(frozen=True, slots=True)
class Question:
    """One request. ``content`` are texts and pictures in reading order; ``examples`` are earlier (ask, answer) pairs.

    ``purpose`` names the instruction and its version ("caption.merge/1"); it is recorded and never sent. ``schema`` is
    a JSON schema the answer is to follow, for servers that can be told.
    """

    content: tuple[str | Image, ...]
    system: str = ""
    examples: tuple[tuple[str, str], ...] = ()
    purpose: str = ""
    max_tokens: int = 512
    temperature: float = 0.1
    top_p: float | None = None
    seed: int | None = None
    schema: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        """The texts, without the pictures."""
        return "\n".join(item for item in self.content if isinstance(item, str))

    @property
    def images(self) -> tuple[Image, ...]:
        """The pictures, without the texts."""
        return tuple(item for item in self.content if isinstance(item, Image))

    def record(self) -> dict[str, Any]:
        """Plain values; a picture is its digest."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "content"}
        values["parts"] = [p if isinstance(p, str) else {"sha256": p.digest} for p in self.content]
        return values

    def key(self, model: str) -> str:
        """64 hex digits from everything that decides the answer, and who is asked."""
        text = json.dumps([model, self.record()], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. ``finish`` is "stop", or "length" when it was cut off."""

    text: str
    model: str
    finish: str = "stop"
    prompt_tokens: int = 0
    answer_tokens: int = 0

    @property
    def tokens(self) -> int:
        """What the budget is charged: as the server counted, else a quarter of the characters."""
        return (self.prompt_tokens + self.answer_tokens) or max(1, len(self.text) // 4)

    def record(self) -> dict[str, Any]:
        """The answer as plain values, for a cache or a transcript."""
        return asdict(self)


class LanguageModel(Protocol):
    """Anything that answers questions."""

    name: str
    """Says which model it is; part of every key, so answers of one model are never taken for another's."""

    def answer(self, question: Question) -> Answer:
        """One attempt. Raises ChatFailure."""


class Scripted:
    """A LanguageModel that answers with what ``reply(question)`` returns: for tests, dry runs, and rules offline.

    ``reply`` may raise ChatFailure, and is called from several threads.
    """

    def __init__(self, reply: Callable[[Question], str], name: str = "scripted") -> None:
        self.reply, self.name = reply, name

    def answer(self, question: Question) -> Answer:
        """One attempt; tokens are counted as words."""
        text = self.reply(question)
        return Answer(text, self.name, "stop", len(question.text.split()), len(text.split()))
