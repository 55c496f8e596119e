"""A bounded JSON object out of a request, and errors as JSON."""

from __future__ import annotations

import json
from typing import Any

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

MOST_BODY = 64 << 10


async def read_bounded(request: Request, most: int = MOST_BODY) -> bytes:
    """The body of a request of at most so many bytes. Raises HTTPException."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise HTTPException(413, f"more than {most >> 10} KiB")
    except ClientDisconnect:
        raise HTTPException(400, "cut short") from None  # nobody reads it
    return bytes(body)


async def read_object(request: Request) -> dict[str, Any]:
    """The JSON object in a request's body. Raises HTTPException for what is none, or is over 64 KiB."""
    body = await read_bounded(request)
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPException(400, "not JSON") from None
    if not isinstance(content, dict):
        raise HTTPException(400, "not an object")
    return content


def problem(status: int, why: str) -> JSONResponse:
    """A JSON response with the error's text."""
    return JSONResponse({"error": why}, status_code=status)
