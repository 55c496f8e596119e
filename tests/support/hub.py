"""A hub of one repository on this machine: it answers what huggingface_hub asks for listings and files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote

COMMIT = "c" * 40


@contextmanager
def serving_hub(
    repository: str, files: Mapping[str, bytes], revisions: tuple[str, ...] = ("main",)
) -> Iterator:
    """Its address, and the list of what is asked of it, as 'GET /path'."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(False)

        def do_GET(self) -> None:
            self.answer(True)

        def answer(self, body: bool) -> None:
            asked.append(f"{self.command} {self.path}")
            path = unquote(self.path.split("?")[0])
            listings = [f"/api/models/{repository}/tree/{revision}" for revision in revisions]
            for revision in (*revisions, COMMIT):
                start = f"/{repository}/resolve/{revision}/"
                if path.startswith(start) and path.removeprefix(start) in files:
                    return self.send(files[path.removeprefix(start)], body)
            if path in listings:
                tree = [
                    {"type": "file", "path": name, "oid": "0", "size": len(each)}
                    for name, each in files.items()
                ]
                return self.send(json.dumps(tree).encode(), body, "application/json")
            about = [f"/api/models/{repository}/revision/{revision}" for revision in (*revisions, COMMIT)]
            if path in (f"/api/models/{repository}", *about):
                names = [{"rfilename": name} for name in files]
                answer = {"id": repository, "sha": COMMIT, "siblings": names}
                return self.send(json.dumps(answer).encode(), body, "application/json")
            self.send_response(404)
            known = any(f"/{repository}/resolve/{r}/" in path for r in revisions)
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def send(self, content: bytes, body: bool, kind: str = "application/octet-stream") -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
