"""Every way an answer can fail to come: a kind, whether to try again now, and whether a later run should."""

from __future__ import annotations

from dataclasses import dataclass

from cogvideox.errors import ChatError


@dataclass(frozen=True, slots=True)
class Kind:
    """``again``: try again now. ``pending``: the question can be asked anew in a later run. ``sick``: the server may be
    down. ``halts``: nothing else can be asked either."""

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
