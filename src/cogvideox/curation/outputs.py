"""What a curation has made in its folder: name, size and SHA-256 of every file, so that nothing else is ever replaced.

``out/.curate/made.jsonl`` gets a line before a file appears under its name. A file that stands there without such a
line, or with other bytes, is somebody else's work: it is named and left, or the run is refused.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cogvideox.errors import OutputError
from cogvideox.files import inside, parse_json
from cogvideox.files.atomic import atomic_file
from cogvideox.files.digest import sha256_of_file
from cogvideox.files.text import MOST_TABLE_BYTES, read_small_text

HOME = ".curate"
KIND = "cogvideox curate"
TABLES = ("recipe.yaml", "metadata.jsonl", "clips.parquet", "dropped.jsonl", "captions.jsonl", "summary.json",
          "report.html")  # fmt: skip
SHARD = re.compile(r"shards/clips-\d{5,9}\.tar")
VIDEO = re.compile(r"videos/[0-9a-f]{24}\.mp4")


class OutputList:
    """The list of files that curation wrote in ``out``, by name relative to it, kept in ``out/.curate/made.jsonl``."""

    def __init__(self, out: Path) -> None:
        self.out, self.file = out, out / HOME / "made.jsonl"
        self.known: dict[str, dict[str, int]] = {}
        """name -> SHA-256 -> size in bytes; the last digest is what was written last."""
        if os.path.lexists(self.file):
            self._read()

    def __contains__(self, name: str) -> bool:
        """Whether we wrote a file of this name and one of that size stands there; its bytes are not read."""
        try:
            size = os.lstat(self.out / name).st_size
        except OSError:
            return False
        return size in self.known.get(name, {}).values()

    def check(self) -> None:
        """Raises OutputError when ``out`` holds anything under our names that is not ours, or leads out of itself."""
        if os.path.lexists(self.out) and not self.out.is_dir():
            raise OutputError(f"{self.out}: is a file, not a folder; choose another out")
        for name in (HOME, "shards", "videos", "work"):
            folder_path = self.out / name
            if os.path.lexists(folder_path) and not (folder_path.is_dir() and inside(folder_path, self.out)):
                what = f"not a folder inside {self.out}"
                raise OutputError(f"{folder_path}: {what}; choose another out, or move it away")
        foreign = [name for name in TABLES if os.path.lexists(self.out / name) and name not in self.known]
        shards = filter(SHARD.fullmatch, self._present("shards"))
        foreign += [name for name in shards if name not in self.known]
        if not self.file.exists() and (self.out / "work").is_dir() and any((self.out / "work").iterdir()):
            foreign.append("work")
        if foreign:
            raise OutputError(
                f"{self.out}: holds {', '.join(foreign[:4])}{' ...' * (len(foreign) > 4)}, which curate has no "
                "record of making, so nothing there is touched; choose another out, or move them away"
            )

    def warn_of_foreign_files(self) -> None:
        """Warn of shards and videos that stand in our folders and not on the list: training may read them, too."""
        for folder, ending in (("shards", ".tar"), ("videos", ".mp4")):
            for name in self._present(folder):
                if name.lower().endswith(ending) and name not in self.known:
                    left = "not made by curate, so it is left; training may read it too"
                    warnings.warn(f"{self.out / name}: {left}", stacklevel=2)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield where to write what becomes ``out/name`` when the block ends well. Raises OutputError; see publish."""
        with atomic_file(self.draft(name), overwrite=True) as temporary:
            yield temporary
        self.publish(name)

    def draft(self, name: str) -> Path:
        """Where the bytes of ``name`` are written before they are published; no reader takes it for a clip."""
        path = self.out / HOME / "new" / f"{name.replace('/', '-')}.part"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def publish(self, name: str) -> None:
        """Give a draft its name. Raises OutputError when what stands there is not as we wrote it."""
        draft, target = self.draft(name), self.out / name
        digest, size = sha256_of_file(draft), draft.stat().st_size
        if os.path.lexists(target) and not self.is_ours(name) and not _same(target, digest):
            raise OutputError(
                f"{target}: not as curate wrote it, so it is not replaced; move it away, or choose another out"
            )
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._note(name, digest, size)
            os.replace(draft, target)
        except OSError as error:
            raise OutputError(f"{target}: cannot be written ({error.strerror}); free some space") from None

    def is_ours(self, name: str) -> bool:
        """Whether a plain file stands under the name with bytes that we wrote; it is read for that."""
        target, digests = self.out / name, self.known.get(name, {})
        plain = not target.is_symlink() and target.is_file() and inside(target, self.out)
        return plain and target.stat().st_size in digests.values() and sha256_of_file(target) in digests

    def remove(self, name: str) -> bool:
        """Remove a file that we wrote; one that has changed since is named and left. True when it is gone."""
        target = self.out / name
        if not os.path.lexists(target):
            self.known.pop(name, None)
            return True
        if not self.is_ours(name):
            why = "not as curate wrote it, so it is left; remove it if it is old"
            warnings.warn(f"{target}: {why}", stacklevel=2)
            return False
        target.unlink()
        self.known.pop(name, None)
        return True

    def remove_unwanted(self, wanted: Callable[[str], bool]) -> None:
        """Remove the shards and videos on the list that are no longer wanted; nothing that is not on the list."""
        for name in sorted(self.known):
            if (SHARD.fullmatch(name) or VIDEO.fullmatch(name)) and not wanted(name):
                self.remove(name)

    def compact(self) -> None:
        """Rewrite the list: the files that are there now, in order, so that equal results have equal lists."""
        last = {name: list(digests.items())[-1] for name, digests in sorted(self.known.items())}
        self.known = {name: dict([one]) for name, one in last.items() if os.path.lexists(self.out / name)}
        self._rewrite()
        with suppress(OSError):
            (self.out / HOME / "new").rmdir()

    def _rewrite(self) -> None:
        lines = [_line(name, *one) for name, digests in self.known.items() for one in digests.items()]
        with atomic_file(self.file, overwrite=True) as temporary:
            temporary.write_text(_head() + "".join(lines), encoding="ascii")

    def _present(self, folder: str) -> list[str]:
        """What stands in a folder of ours, as ``folder/name``, in order."""
        path = self.out / folder
        return [f"{folder}/{name}" for name in sorted(os.listdir(path))] if path.is_dir() else []

    def _note(self, name: str, digest: str, size: int) -> None:
        """One durable line, before the file has its name."""
        digests = self.known.setdefault(name, {})
        digests.pop(digest, None)
        digests[digest] = size
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        with open(os.open(self.file, flags, 0o644), "ab") as stream:
            if not stream.tell():
                stream.write(_head().encode())
            stream.write(_line(name, digest, size).encode())
            stream.flush()
            os.fsync(stream.fileno())

    def _read(self) -> None:
        text = read_small_text(self.file, root=self.out, most=MOST_TABLE_BYTES, error=OutputError)
        head, *lines = text.split("\n")
        if head + "\n" != _head():
            raise OutputError(
                f"{self.file}: not a list that curate wrote; choose another out, or move it away"
            )
        partial = lines.pop()  # a line that a kill cut short: its file has not got its name
        for number, line in enumerate(lines, 2):
            match parse_json(line, f"{self.file}:{number}", error=OutputError):
                case {"file": str(name), "sha256": digest, "bytes": int(size)} if _may_be_ours(name):
                    self.known.setdefault(name, {})[str(digest)] = size
                case _:
                    raise OutputError(
                        f"{self.file}:{number}: not a line that curate wrote; choose another out"
                    )
        if partial:
            self._rewrite()


def _may_be_ours(name: str) -> bool:
    return name in TABLES or bool(SHARD.fullmatch(name) or VIDEO.fullmatch(name))


def _same(target: Path, digest: str) -> bool:
    """Whether a plain file with these very bytes stands there already, so that replacing it loses nothing."""
    return not target.is_symlink() and target.is_file() and sha256_of_file(target) == digest


def _head() -> str:
    return json.dumps({"made_by": KIND, "version": 1}) + "\n"


def _line(name: str, digest: str, size: int) -> str:
    return json.dumps({"file": name, "sha256": digest, "bytes": size}) + "\n"
