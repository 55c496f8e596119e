"""A language model made of a function: for tests, for dry runs, and for rules that answer without a network."""

from __future__ import annotations

from collections.abc import Callable

from cogvideox.chat.question import Answer, Question


class Scripted:
    """Answers with what ``reply(question)`` returns; it may raise ChatFailure, and is called from several threads."""

    def __init__(self, reply: Callable[[Question], str], name: str = "scripted") -> None:
        self.reply, self.name = reply, name

    def answer(self, question: Question) -> Answer:
        """One attempt."""
        text = self.reply(question)
        words = len(text.split())
        return Answer(text, self.name, "stop", len(question.text.split()), words)
