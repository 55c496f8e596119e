"""How strongly something is applied, the same at all steps or changing over them: ``0.8``, ``0.8@0-0.6``.

Adapters are given with a strength, and whatever else acts on some of the steps alone. Loads no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from cogvideox.errors import ConfigError
from cogvideox.files import short

MOST = 100.0
"""Strengths lie between minus this and this; what is beyond is a mistake."""
MOST_TEXT = 4096  # characters of a strength
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_SHARE = r"(?:\d+\.?\d*|\.\d+)"
_SPAN = rf"(?:{_NUMBER}|[-+]?(?:inf|nan))(?:@[^:,/]*)?"
_STRENGTH = re.compile(rf"{_SPAN}(?:,{_SPAN})*")
_PARTS = re.compile(rf"({_NUMBER})(?:@({_SHARE})-({_SHARE}))?")


@dataclass(frozen=True)
class StrengthSpan:
    """One value, from the share ``start`` of the steps up to ``stop``, which belongs to what follows."""

    value: float
    start: float = 0.0
    stop: float = 1.0

    def __str__(self) -> str:
        whole = (self.start, self.stop) == (0.0, 1.0)
        shown = f"{self.value:.12g}"
        return shown if whole else f"{shown}@{self.start:.12g}-{self.stop:.12g}"


@dataclass(frozen=True)
class Strength:
    """A strength at each step of a run: one value, or several one after the other, and none outside of them.

    ``Strength.parse("0.8@0-0.6,0.2@0.6-1")`` is 0.8 in the first 60 % of the steps and 0.2 in the rest.
    """

    spans: tuple[StrengthSpan, ...] = (StrengthSpan(1.0),)

    @classmethod
    def of(cls, value: Strength | float | str) -> Strength:
        """A strength as it is, from one number, or from text. Raises ConfigError for what is none."""
        if isinstance(value, Strength):
            return value
        try:
            return cls.parse(value if isinstance(value, str) else repr(float(value)))
        except OverflowError:
            raise ConfigError(
                f"strength {short(value)}: must be above -{MOST:g} and below {MOST:g}"
            ) from None

    @classmethod
    def parse(cls, text: str) -> Strength:
        """The strength that ``text`` says: ``0.8``, ``0.8@0-0.6``, or several of these with commas between.

        Raises ConfigError for another form, values of ``MOST`` or more, shares of the steps that are not from 0 to 1,
        stop where they begin, or overlap.
        """
        form = "write 0.8, or 0.8@0-0.6 for the first 60 % of the steps"
        if len(text) > MOST_TEXT:
            raise ConfigError(f"strength of {len(text)} characters: the most is {MOST_TEXT}; {form}")
        spans = []
        for part in text.split(","):
            found = _PARTS.fullmatch(part.strip())
            if found is None and not re.fullmatch(r"[-+]?(inf|nan)", part.strip()):
                raise ConfigError(f"strength {short(text)}: {short(part)} is none; {form}")
            value = float(found[1]) if found else float(part)
            if not -MOST < value < MOST:
                raise ConfigError(f"scale {value:g}: must lie between -{MOST:g} and {MOST:g}; {form}")
            start, stop = (float(found[2]), float(found[3])) if found and found[2] else (0.0, 1.0)
            if not 0 <= start < stop <= 1:
                raise ConfigError(
                    f"strength {short(text)}: {start:g}-{stop:g} is no part of the steps; {form}"
                )
            spans.append(StrengthSpan(value, start, stop))
        spans.sort(key=lambda span: span.start)
        for before, after in zip(spans, spans[1:], strict=False):
            if after.start < before.stop:
                raise ConfigError(f"strength {short(text)}: {before} and {after} overlap; move them apart")
        return cls(tuple(spans))

    @property
    def constant(self) -> float | None:
        """The value that it has at every step; None where it changes."""
        whole = len(self.spans) == 1 and (self.spans[0].start, self.spans[0].stop) == (0.0, 1.0)
        return self.spans[0].value if whole else None

    @property
    def plain(self) -> float | str:
        """The number where it is one, else the text: for records."""
        return str(self) if self.constant is None else self.constant

    def span_at(self, step: int, count: int) -> int | None:
        """The index of the span that step ``step`` of ``count`` is in; None where nothing is applied."""
        return next(
            (
                index
                for index, span in enumerate(self.spans)
                if span.start <= step / count < span.stop  # 7 / 25 is 0.28, but 0.28 * 25 is above 7
            ),
            None,
        )

    def __iter__(self) -> Iterator[StrengthSpan]:
        return iter(self.spans)

    def __str__(self) -> str:
        return ",".join(str(span) for span in self.spans)


def split_strength(text: str) -> tuple[str, Strength | None]:
    """``FILE:0.8@0-0.6`` as the file and the strength; None where the text ends in none. Raises ConfigError."""
    name, colon, tail = text.rpartition(":")
    if not colon or _STRENGTH.fullmatch(tail) is None:
        return text, None
    return name, Strength.parse(tail)
