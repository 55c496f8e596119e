"""Webhooks: signed so that OpenAI's client accepts them, tried again, never redirected."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
from cogvideox.errors import ConfigError  # noqa: E402
from cogvideox.studio.queue import NewVideo  # noqa: E402
from cogvideox.studio.webhooks import WAITS, deliver  # noqa: E402
from support.studio_app import idle_studio  # noqa: E402


@pytest.fixture
def receiver():
    """A server that notes what it gets and answers with the codes of ``codes``, then 200."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            server.got.append((dict(self.headers.items()), body.decode()))
            server.paths.append(self.path)
            code = server.codes.pop(0) if server.codes else 200
            self.send_response(code)
            if code == 302:
                self.send_header("Location", f"http://127.0.0.1:{server.server_port}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *values):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.got, server.codes, server.paths = [], [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_an_end_is_told_signed_and_tried_again(tmp_path, receiver, monkeypatch):
    monkeypatch.setattr("cogvideox.studio.webhooks.WAITS", (0,) * len(WAITS))
    receiver.codes = [500, 302]
    with idle_studio(tmp_path) as client:
        studio = client.studio
        url = f"http://127.0.0.1:{receiver.server_port}/hook"
        studio.queue.add(NewVideo("ann", {"settings": {"prompt": "a secret"}, "webhook": url}))
        video = studio.queue.take()
        studio.queue.end(video.id, "completed", size=1)
        studio.webhooks.start()
        studio._ended(studio.queue.get(video.id))
        until = time.monotonic() + 20
        while len(receiver.got) < 3 and time.monotonic() < until:
            studio.webhooks.wake()
            time.sleep(0.05)
        assert len(receiver.got) == 3, "a failure and a redirect are failures"
        headers, body = receiver.got[-1]
        event = json.loads(body)
        assert (event["type"], event["data"]) == (
            "video.completed",
            {"id": video.id},
        ) and "secret" not in body
        assert len({json.loads(each)["id"] for _, each in receiver.got}) == 1
        openai = pytest.importorskip("openai")
        api = openai.OpenAI(api_key="none", webhook_secret=studio.webhooks.secret())
        assert api.webhooks.unwrap(body, headers).data.id == video.id
        with pytest.raises(openai.InvalidWebhookSignatureError):
            api.webhooks.unwrap(body.replace("completed", "failed"), headers)
        assert studio.webhooks.file.stat().st_mode & 0o77 == 0


def test_a_host_that_is_not_there_is_a_failure(tmp_path):
    assert not deliver("http://127.0.0.1:9/x", "evt_1", "{}", "whsec_eA==")


def test_the_whole_address_is_asked_for_with_its_query(receiver):
    assert deliver(f"http://127.0.0.1:{receiver.server_port}/hook?token=a%20b&c", "evt_1", "{}", "whsec_eA==")
    assert receiver.paths == ["/hook?token=a%20b&c"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/", "http://a..b/", "http://127.0.0.1:0/"])
def test_an_address_that_cannot_be_is_a_failure_and_no_end_of_deliveries(url):
    assert not deliver(url, "evt_1", "{}", "whsec_eA==")


@pytest.mark.parametrize("drop", [b"x", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_host_that_answers_drop_by_drop_is_cut_off(monkeypatch, drop):
    monkeypatch.setattr("cogvideox.studio.webhooks.SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip():
            line, _ = server.accept()
            try:
                while True:
                    line.sendall(drop)
                    time.sleep(0.05)
            except OSError:
                line.close()

        threading.Thread(target=drip, daemon=True).start()
        began = time.monotonic()
        assert not deliver(f"http://127.0.0.1:{server.getsockname()[1]}/", "evt_1", "{}", "whsec_eA==")
        assert time.monotonic() - began < 5


def test_a_damaged_secret_is_said_at_the_start(tmp_path):
    with idle_studio(tmp_path) as client:
        client.studio.webhooks.file.write_text("whsec_?\n", encoding="ascii")
        with pytest.raises(ConfigError, match="holds no secret"):
            client.studio.webhooks.start()


def test_there_is_a_secret_before_the_first_end_is_told(tmp_path):
    with idle_studio(tmp_path) as client:
        client.studio.webhooks.start(has_hosts=True)
        assert client.studio.webhooks.file.read_text(encoding="ascii").startswith("whsec_")
