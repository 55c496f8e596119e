"""Client of an OpenAI-compatible server (vLLM, SGLang, a vendor): one attempt, its errors as kinds of ``ChatFailure``.

Answers are not trusted: redirects are not followed, and a body has a largest size and a longest time. The key is read
from the environment when it is needed; it is never stored, logged, or sent without encryption to another machine.
"""

from __future__ import annotations

import ipaddress
import json
import os
import threading
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from cogvideox.chat.question import Answer, ChatFailure, Question
from cogvideox.config import Config
from cogvideox.errors import ConfigError, DependencyError

KINDS_OF_STATUS = {
    401: "key", 403: "key", 402: "quota", 408: "timeout", 409: "server", 425: "server", 429: "busy",
}  # fmt: skip
HTTP_LIBRARIES = {"httpx", "httpx2", "httpcore", "httpcore2", "ssl"}  # which one depends on openai


class ServerConfig(Config):
    """Address and model of a server, and how long to wait for it."""

    url: str = Field(description="base URL, such as http://127.0.0.1:8000/v1")
    model: str = Field(min_length=1, description="the model's name on that server")
    key_variable: str = Field(
        "OPENAI_API_KEY", description="environment variable that holds the key, if one is needed"
    )
    connect: float = Field(5.0, gt=0, description="seconds to connect")
    read: float = Field(60.0, gt=0, description="seconds to wait for the next byte")
    whole: float = Field(180.0, gt=0, description="seconds for one whole answer")
    most_bytes: int = Field(2 << 20, gt=0, description="bytes of an answer at most")

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{url!r} is not an address; write one such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ConfigError("the address holds a name, a password or a query; keep keys in the environment")
        return url.rstrip("/")

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


class Server:
    """A ``LanguageModel`` on an OpenAI-compatible server. Threads may share it."""

    def __init__(self, config: ServerConfig) -> None:
        self.config, self.name = config, config.model
        key = os.environ.get(config.key_variable, "")
        if key and not config.is_local and config.url.startswith("http:"):
            raise ConfigError(
                f"url {config.url}: {config.key_variable} would be sent without encryption; use https, or unset it"
            )
        self._lock = threading.Lock()
        self._client: Any = None

    def answer(self, question: Question) -> Answer:
        """Ask once, without retries. Raises ChatFailure; DependencyError without the openai library."""
        import openai

        deadline = time.monotonic() + self.config.whole
        _late.deadline = deadline
        create = self._connected().chat.completions.with_streaming_response.create
        try:
            with create(model=self.config.model, **_request(question)) as response:
                body = _bounded(response.iter_bytes(), self.config.most_bytes, deadline)
        except ChatFailure:
            raise
        except _Status as status:
            raise self._explain(status) from None
        except openai.APITimeoutError:
            raise ChatFailure("timeout", f"{self.config.url}: no byte for {self.config.read:g} s") from None
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, _Status):  # some versions wrap it
                raise self._explain(error.__cause__) from None
            reason = _reason(error.__cause__ or error)
            raise ChatFailure("connection", f"{self.config.url}: {reason}") from None
        except openai.OpenAIError as error:
            raise ChatFailure("server", f"{self.config.url}: {self._clean(str(error))}") from None
        except Exception as error:  # the HTTP library's errors while a body is read
            if type(error).__module__.split(".")[0] not in HTTP_LIBRARIES:
                raise
            kind = "timeout" if "Timeout" in type(error).__name__ else "connection"
            raise ChatFailure(kind, f"{self.config.url}: {_reason(error)}") from None
        return _answer(body, self.config.model)

    def close(self) -> None:
        """Close its connections; the next question opens new ones."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> Any:
        try:
            from openai import DefaultHttpxClient, OpenAI, Timeout
        except ImportError:
            raise DependencyError("openai is not installed; install cogvideox[caption]") from None
        c = self.config
        timeout = Timeout(c.read, connect=c.connect)
        http = DefaultHttpxClient(
            timeout=timeout,
            follow_redirects=False,
            trust_env=not c.is_local,  # no proxy between this machine and itself
            event_hooks={"response": [self._stop_at_errors]},
        )
        # without a key of its own the library would look for one, and send that
        key = os.environ.get(c.key_variable) or "none"
        return OpenAI(base_url=c.url, api_key=key, max_retries=0, timeout=timeout, http_client=http)

    def _stop_at_errors(self, response: Any) -> None:
        """Hook on responses: raise _Status before the library reads the body of an error, which may never end."""
        if response.status_code == 200:
            return
        try:
            body = _bounded(response.iter_bytes(), 64 << 10, getattr(_late, "deadline", time.monotonic()))
        except ChatFailure:
            body = b""
        raise _Status(response.status_code, dict(response.headers), body)

    def _explain(self, status: _Status) -> ChatFailure:
        said = self._clean(_message(status.body))
        kind = KINDS_OF_STATUS.get(status.code, "server" if status.code >= 500 else "rejected")
        if kind == "busy" and "insufficient_quota" in status.body.decode("utf-8", "replace"):
            kind = "quota"
        if 300 <= status.code < 400:
            kind, said = "moved", "a redirect, which is not followed; give the address it leads to"
        hint = f"; check {self.config.key_variable}" if kind == "key" else ""
        wait = retry_after(status.headers.get("retry-after", ""))
        return ChatFailure(kind, f"{self.config.url}: status {status.code} ({said}){hint}", wait)

    def _clean(self, text: str) -> str:
        """One line without the key, which some servers repeat."""
        key = os.environ.get(self.config.key_variable, "")
        text = " ".join(text.replace(key, "***").split() if key else text.split())
        return "".join(c for c in text if c.isprintable())[:200]


class _Status(Exception):
    def __init__(self, code: int, headers: dict[str, str], body: bytes) -> None:
        super().__init__(code)
        self.code, self.body = code, body
        self.headers = {name.lower(): value for name, value in headers.items()}


_late = threading.local()  # deadline: when the answer that this thread waits for is too late


def retry_after(text: str) -> float | None:
    """Seconds from a Retry-After header: a number, or a date."""
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    now = datetime.now(UTC) if when.tzinfo else datetime.now(UTC).replace(tzinfo=None)
    return max(0.0, (when - now).total_seconds())


def _request(question: Question) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    if question.system:
        messages.append({"role": "system", "content": question.system})
    for asked, answered in question.examples:
        messages.append({"role": "user", "content": asked})
        messages.append({"role": "assistant", "content": answered})
    parts: list[dict[str, Any]] = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": part.url}}
        for part in question.content
    ]
    messages.append({"role": "user", "content": parts if question.images else question.text})
    values: dict[str, Any] = {
        "messages": messages,
        "max_tokens": question.max_tokens,
        "temperature": question.temperature,
    }
    values |= {name: v for name in ("top_p", "seed") if (v := getattr(question, name)) is not None}
    if question.schema is not None:
        shape = {"name": "answer", "schema": question.schema, "strict": True}
        values["response_format"] = {"type": "json_schema", "json_schema": shape}
    return values


def _bounded(chunks: Any, most: int, deadline: float) -> bytes:
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > most:
            raise ChatFailure("garbled", f"the answer is larger than {most} bytes")
        if time.monotonic() > deadline:
            raise ChatFailure("timeout", "the answer took longer than the time for one answer")
    return bytes(body)


def _answer(body: bytes, asked: str) -> Answer:
    """Parse the body of a completion. Raises ChatFailure: garbled for anything else, refused for a refusal."""
    try:
        values = json.loads(body)
        choice = values["choices"][0]
        message, finish = choice["message"], str(choice.get("finish_reason") or "stop")
        text, usage = message.get("content"), values.get("usage") or {}
        if message.get("refusal") or finish == "content_filter":
            raise ChatFailure("refused", str(message.get("refusal") or "the server's content filter")[:200])
        if not isinstance(text, str) or not text.strip():
            raise ChatFailure("garbled", f"a completion without text (finish {finish[:40]!r})")
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        asked_tokens, answered = (n if isinstance(n, int) and n >= 0 else 0 for n in counts)
        served = str(values.get("model") or asked)[:200]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        start = body[:60].decode("utf-8", "replace")
        raise ChatFailure("garbled", f"not a completion: {start!r}") from None
    text = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates cannot be stored
    return Answer(text, served, finish, asked_tokens, answered)


def _message(body: bytes) -> str:
    """The message in the body of an error, as OpenAI's API writes it, or its first bytes."""
    try:
        error = json.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError, RecursionError):
        return body[:120].decode("utf-8", "replace") or "no message"


def _reason(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
