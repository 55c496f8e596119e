"""Answers outlive the run: a cache by content hash, and transcripts that can be replayed without a server."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from cogvideox.chat.question import KINDS, Answer, ChatFailure, Question
from cogvideox.errors import ConfigError, InputError, OutputError
from cogvideox.files import parse_json, read_json, read_small_text
from cogvideox.files.atomic import write_text
from cogvideox.files.jsonl import lines_of


class Cache:
    """One small file per answer, ``ab/abcdef….json``, whole or absent; any number of processes may share it."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def get(self, key: str) -> Answer | None:
        """The answer, or None; a damaged file counts as none."""
        try:
            values = read_json(self._file(key), most=64 << 20)
            return Answer(**values["answer"])
        except (ConfigError, TypeError, KeyError):
            return None

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer. Raises OutputError."""
        write_text(self._file(key), json.dumps({"answer": answer.record()}))

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


class Transcript:
    """A JSON line for every question that ended, with its answer or the reason why there is none."""

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        self._lock = threading.Lock()

    def write(
        self,
        model: str,
        key: str,
        question: Question,
        answer: Answer | None,
        failure: ChatFailure | None,
        attempts: int,
    ) -> None:
        """Append one line. Raises OutputError."""
        said = answer.record() if answer else None
        why = {"kind": failure.kind, "detail": failure.detail} if failure else None
        record = {"model": model, "key": key, "question": question.record(), "answer": said}
        line = json.dumps({**record, "failure": why, "attempts": attempts}) + "\n"
        try:
            with self._lock:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                with self.file.open("a", encoding="utf-8") as stream:
                    stream.write(line)
        except OSError as error:
            raise OutputError(f"{self.file}: cannot be written ({error.strerror}); free some space") from None


class Replay:
    """A transcript as a model: it answers, or fails, as was recorded. The last line about a question counts."""

    def __init__(self, file: str | Path) -> None:
        self._lines: dict[str, dict[str, Any]] = {}
        self.name = ""
        for record in _read(Path(file)):
            if self.name and record["model"] != self.name:
                raise InputError(
                    f"{file}: holds answers of {self.name} and {record['model']}; replay one at a time"
                )
            self.name = record["model"]
            self._lines[record["key"]] = record
        if not self._lines:
            raise InputError(f"{file}: holds no answers; record a run first")

    def answer(self, question: Question) -> Answer:
        """As recorded. Raises ChatFailure, of kind "unknown" for a question that was not asked then."""
        record = self._lines.get(question.key(self.name))
        if record is None:
            raise ChatFailure("unknown", f"{question.purpose or 'question'}: the transcript does not hold it")
        if record["answer"] is None:
            why = record["failure"]
            raise ChatFailure(why["kind"] if why["kind"] in KINDS else "unknown", why["detail"])
        return Answer(**record["answer"])


def _read(file: Path) -> list[dict[str, Any]]:
    """The lines of a transcript; one that a crash cut short is left out. Raises InputError."""
    try:
        lines = lines_of(read_small_text(file, most=1 << 30))
    except InputError as error:
        raise InputError(f"{file}: cannot be read as a transcript ({error}); check the path") from None
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = parse_json(line, f"{file}:{number}")
        except ConfigError:
            continue
        if not isinstance(record, dict) or not {"model", "key", "answer", "failure"} <= record.keys():
            raise InputError(f"{file}: line {number}: not a line of a transcript; check the path")
        records.append(record)
    return records
