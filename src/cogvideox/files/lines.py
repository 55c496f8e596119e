"""Lines of a text that people or programs wrote line by line."""

from __future__ import annotations


def lines_of(text: str) -> list[str]:
    """Cut at line ends alone: ``splitlines`` also cuts at U+2028 and others that stand inside prompts and captions."""
    return text.removesuffix("\n").split("\n") if text else []
