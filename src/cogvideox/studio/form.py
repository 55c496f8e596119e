"""The fields of a request, from JSON or from a form with files; files go to disk as they come."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect

from cogvideox.errors import ConfigError, InputError
from cogvideox.files import parse_json
from cogvideox.studio.limits import StudioLimits
from cogvideox.studio.request import check_text
from cogvideox.studio.uploads import IncomingFile, Receiving, Uploads
from cogvideox.web.bodies import read_bounded

MOST_HEADER = 8 << 10  # bytes of the header of one field
MOST_FILES = 2
NESTED = re.compile(r"\[([A-Za-z0-9_]{0,64})\]")


async def read_fields(
    request: Request, uploads: Uploads, limits: StudioLimits
) -> tuple[dict[str, Any], dict[str, IncomingFile]]:
    """Fields by name, nested ones (``cogvideox[guidance_rule]``) as objects, and files by the name of their field.

    Raises ConfigError or InputError for what is no such body or beyond a limit; then nothing of it stays on disk.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        form = _Form(request.headers["content-type"], uploads, limits)
        return await form.read(request)
    body = await read_bounded(request, limits.body_bytes)
    try:
        content = parse_json(body.decode("utf-8"), "body")
    except UnicodeDecodeError:
        raise ConfigError("body: not UTF-8; send JSON in UTF-8") from None
    if not isinstance(content, dict):
        raise ConfigError('body: not an object; send one, such as {"prompt": "a red ball"}')
    check_text(content)
    return content, {}


class _Form:
    """A form that is being read: fields in memory within limits, files on disk."""

    def __init__(self, content_type: str, uploads: Uploads, limits: StudioLimits) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if not boundary or len(boundary) > 256:
            raise ConfigError("form: without a boundary; let your client write the Content-Type")
        self.uploads, self.limits = uploads, limits
        self.fields: list[tuple[str, str]] = []
        self.files: dict[str, Receiving] = {}
        self.size = self.count = 0
        self.header: dict[bytes, bytes] = {}
        self.partial_header = [b"", b""]
        self.name, self.text, self.file = "", bytearray(), None  # type: tuple[str, bytearray, Receiving | None]
        self.ended = False
        self.parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_header_field": lambda data, start, end: self._header(0, data[start:end]),
                "on_header_value": lambda data, start, end: self._header(1, data[start:end]),
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_end": self._whole,
            },
        )

    async def read(self, request: Request) -> tuple[dict[str, Any], dict[str, IncomingFile]]:
        """All of it. Raises ConfigError or InputError."""
        whole = False
        try:
            await self._parse(request)
            fields = nest(self.fields)
            check_text(fields)
            files = {name: each.done() for name, each in self.files.items()}
            whole = True
            return fields, files
        finally:
            for each in self.files.values() if not whole else ():
                with suppress(OSError):
                    each.give_up()

    async def _parse(self, request: Request) -> None:
        """Feed the parser with the body. Raises ConfigError for one that is damaged or has no end."""
        try:
            async for chunk in request.stream():
                self.parser.write(chunk)
            self.parser.finalize()
        except ConfigError:
            raise
        except (FormParserError, KeyError, ValueError):
            raise ConfigError("form: damaged; let your client write it") from None
        except ClientDisconnect:
            raise ConfigError("form: cut short; send it again") from None
        if not self.ended:
            raise ConfigError("form: its end is missing; send it again")

    def _begin(self) -> None:
        self.header, self.partial_header, self.text, self.file = {}, [b"", b""], bytearray(), None
        self.count += 1
        if self.count > self.limits.form_parts:
            raise ConfigError(f"form: more than {self.limits.form_parts} fields, the limit; send fewer")

    def _header(self, which: int, data: bytes) -> None:
        self.partial_header[which] += data
        if len(self.partial_header[which]) > MOST_HEADER or len(self.header) > 16:
            raise ConfigError(f"form: a field's header is over {MOST_HEADER} bytes; shorten its name")

    def _header_end(self) -> None:
        name, value = self.partial_header
        self.header[name.lower()] = value
        self.partial_header = [b"", b""]

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self.header.get(b"content-disposition", b""))
        self.name = options.get(b"name", b"").decode("utf-8", "replace")
        if not self.name:
            raise ConfigError("form: a field without a name; name it")
        if b"filename" not in options:
            return
        if self.name in self.files or len(self.files) >= MOST_FILES:
            raise ConfigError(f"{self.name[:80]}: one file for each field, {MOST_FILES} at most; send fewer")
        self.file = self.files[self.name] = self.uploads.receive()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self.file is not None:
            self.file.write(data[start:end])
            return
        self.size += end - start
        if self.size > self.limits.body_bytes:
            raise InputError(
                f"form: fields of more than {self.limits.body_bytes >> 10} KiB, the limit; shorten them"
            )
        self.text += data[start:end]

    def _end(self) -> None:
        if self.file is None:
            try:
                self.fields.append((self.name, self.text.decode("utf-8")))
            except UnicodeDecodeError:
                raise ConfigError(f"{self.name[:80]}: not UTF-8; send UTF-8") from None

    def _whole(self) -> None:
        self.ended = True


def nest(fields: list[tuple[str, str]]) -> dict[str, Any]:
    """``a[b]=1`` as ``{"a": {"b": "1"}}`` and ``a[]=1`` as ``{"a": ["1"]}``, the way form clients write objects.

    Raises ConfigError for a field that is there twice, and for one that is both text and an object.
    """
    result: dict[str, Any] = {}
    for name, text in fields:
        stem, bracket, _ = name.partition("[")
        keys = [stem]
        if bracket:
            rest = name[len(stem) :]
            keys += NESTED.findall(rest)
            if "".join(f"[{key}]" for key in keys[1:]) != rest or len(keys) > 5:
                raise ConfigError(
                    f"{name[:80]}: not the name of a field; write such as cogvideox[guidance_rule]"
                )
        _put(result, keys, text, name)
    return result


def _put(into: dict[str, Any], keys: list[str], text: str, name: str) -> None:
    """Set one nested value; the last key is "" for one more of a list."""
    if keys[-1] == "":
        *keys, _ = keys
        more: Any = into
        for key in keys[:-1]:
            more = more.setdefault(key, {}) if isinstance(more, dict) else None
        values = more.setdefault(keys[-1], []) if isinstance(more, dict) else None
        if not isinstance(values, list):
            raise ConfigError(f"{name[:80]}: is both a list and something else; send one")
        values.append(text)
        return
    for key in keys[:-1]:
        inner = into.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{name[:80]}: is both text and an object; send one")
        into = inner
    if keys[-1] in into:
        raise ConfigError(f"{name[:80]}: is there twice; send it once")
    into[keys[-1]] = text
