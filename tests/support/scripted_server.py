"""A real HTTP server on this machine that answers chat requests as a script says, also badly."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Reply:
    """What is sent. ``declared``: the length that is promised; None: the true one; -1: none, until the end."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    declared: int | None = None
    before: float = 0.0  # seconds of silence
    endless: bytes = b""  # sent again and again after the body
    pause: float = 0.0  # between those
    hang_up: bool = False  # without a word


def completion(text: str | None, finish: str = "stop", **message) -> Reply:
    values = {
        "id": "x", "object": "chat.completion", "created": 0, "model": "served",
        "choices": [{"index": 0, "finish_reason": finish,
                     "message": {"role": "assistant", "content": text, **message}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }  # fmt: skip
    return Reply(json.dumps(values).encode())


def error(status: int, message: str = "no", code: str = "x", **headers: str) -> Reply:
    body = json.dumps({"error": {"message": message, "code": code, "type": code}}).encode()
    return Reply(body, status, headers)


def text_of(request: dict) -> str:
    """The words of the last message."""
    content = request["messages"][-1]["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


@dataclass
class Scripted:
    url: str
    requests: list[dict]
    headers: list[dict]
    most_open: int = 0


@contextmanager
def scripted_server(script: Callable[[dict, int], Reply]):
    """Serve ``script(request, attempt)``, attempts counted from 1 for each text. Yields what was seen."""
    seen = Scripted("", [], [])
    counts: Counter[str] = Counter()
    lock = threading.Lock()
    live = [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                seen.requests.append(request)
                seen.headers.append({k.lower(): v for k, v in self.headers.items()})
                counts[text_of(request)] += 1
                attempt = counts[text_of(request)]
                live[0] += 1
                seen.most_open = max(seen.most_open, live[0])
            try:
                self.send(script(request, attempt))
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                with lock:
                    live[0] -= 1

        def send(self, reply: Reply) -> None:
            time.sleep(reply.before)
            if reply.hang_up:
                self.close_connection = True
                return
            self.send_response(reply.status)
            length = len(reply.body) if reply.declared is None else reply.declared
            if length >= 0:
                self.send_header("content-length", str(length))
            for name, value in {"content-type": "application/json", **reply.headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(reply.body)
            self.close_connection = length != len(reply.body)
            for _ in range(100_000 if reply.endless else 0):
                self.wfile.write(reply.endless)
                self.wfile.flush()
                time.sleep(reply.pause)

        def log_message(self, *args) -> None: ...

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *args) -> None: ...

    server = Quiet(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    seen.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
