"""Errors as OpenAI's clients expect them: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import re

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from cogvideox.errors import CogVideoXError, ConfigError, InputError, OutputError, describe
from cogvideox.studio.request import UnknownModelError

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
    507: "insufficient_storage_error",
}
CODES = {
    400: "invalid_value", 403: "forbidden", 404: "not_found", 405: "method_not_allowed", 413: "too_large",
    415: "unsupported_media_type", 421: "wrong_host", 503: "unavailable",
}  # fmt: skip
FIELD = re.compile(r"[a-z_]+(\.[A-Za-z0-9_]+)*(?=[ :])")


class ApiError(Exception):
    """An answer that is an error: ``status``, a message for people, a ``code`` for programs, the field at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str = "",
        kind: str = "",
        param: str | None = None,
        wait: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.wait = status, message, param, wait
        self.code = code or CODES.get(status, "error")
        self.kind = kind or TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")

    def answer(self) -> JSONResponse:
        """This error as a response."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        headers = {"Retry-After": str(self.wait)} if self.wait is not None else None
        return JSONResponse({"error": error}, self.status, headers=headers)


def refuse(status: int, why: str) -> JSONResponse:
    """The answer for what is refused before it is read."""
    return ApiError(status, why).answer()


def as_api_error(error: Exception) -> ApiError:
    """Any error of ours or of the framework as an answer; its text names no path of this machine."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, StarletteHTTPException):
        return ApiError(error.status_code, str(error.detail))
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        return ApiError(400, f"{first['loc'][-1]}: {first['msg']}", param=str(first["loc"][-1]))
    if isinstance(error, UnknownModelError):
        return ApiError(404, describe(error), "model_not_found", param="model")
    if isinstance(error, OutputError):
        why = "the server's disk refuses it; try again later, or tell its operator"
        return ApiError(503, why, "storage_unavailable", wait=10)
    if isinstance(error, InputError | ConfigError):
        text = describe(error)
        found = FIELD.match(text)
        return ApiError(400, text, param=found[0] if found else None)
    return ApiError(500, "the server failed; its log says more", "internal_error")


def install(app: FastAPI) -> None:
    """Answer everything that routes raise in OpenAI's shape."""

    def handle(request: Request, error: Exception) -> JSONResponse:
        return as_api_error(error).answer()

    for kind in (ApiError, HTTPException, StarletteHTTPException, RequestValidationError, CogVideoXError):
        app.add_exception_handler(kind, handle)
