"""A server that nobody can hold up: half-open requests, clients that hang up, a port that is taken."""

from __future__ import annotations

import http.client
import logging
import resource
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest

uvicorn = pytest.importorskip("uvicorn")
from fastapi import Request, Response  # noqa: E402

from cogvideox.errors import OutputError  # noqa: E402
from cogvideox.rating.loopback import loopback_app  # noqa: E402
from cogvideox.web.bodies import read_object  # noqa: E402
from cogvideox.web.connection_limits import ConnectionLimits, LogRateLimit, within_file_limit  # noqa: E402
from cogvideox.web.listening import listen, serve  # noqa: E402
from support.serving_process import ask, serving, videos  # noqa: E402

HALF = b"POST /api/next HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


def few_files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))


def test_many_half_open_requests_keep_nobody_out_and_write_no_log(tmp_path):
    """More of them than the server may open files, of three kinds; everybody else is served meanwhile and after."""
    folder = videos(tmp_path / "a", 1)
    with serving(tmp_path, f"a={folder}", "--out", str(tmp_path / "study"), preexec_fn=few_files) as server:
        waiting = []
        for number in range(600):
            line = server.connect()
            line.sendall((HALF, HALF + b"Content-Length: 99\r\n\r\n{", b"")[number % 3])
            waiting.append(line)
            if number % 150 == 149:
                assert ask(server.port)[0] == 200
        for line in waiting:
            line.close()
        assert ask(server.port)[0] == 200
        log = server.log.read_bytes()
        assert b"Traceback" not in log and len(log) < 4000, log[:4000]


def test_clients_that_hang_up_print_nothing(tmp_path):
    folder = videos(tmp_path / "a", 1, frames=40, size=120)
    with serving(tmp_path, f"a={folder}", "--out", str(tmp_path / "study")) as server:
        url = ask(server.port)[1]["videos"][0].encode()
        before = server.log.read_text()
        for number in range(60):
            line = server.connect()
            line.sendall(
                (
                    HALF + b"Content-Length: 99\r\n\r\n{",
                    b"GET " + url + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 3,
                    b"\x16\x03\x01 nonsense\r\n\r\n",
                    HALF,
                )[number % 4]
            )
            if number % 2:  # a reset instead of an end
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            line.close()
        assert ask(server.port)[0] == 200
        assert server.log.read_text() == before


def test_a_taken_port_is_an_error_without_an_address(tmp_path):
    folder = videos(tmp_path / "a", 1)
    with listen(0) as server:
        port = server.getsockname()[1]
        with pytest.raises(OutputError, match=f"port {port}: cannot be served on .*choose another --port"):
            listen(port)
        command = [
            sys.executable,
            "-m",
            "cogvideox",
            "rate",
            "serve",
            f"a={folder}",
            "--out",
            str(tmp_path / "s"),
        ]
        done = subprocess.run([*command, "--port", str(port)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"port {port}" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "s").exists()


@pytest.fixture(scope="module")
def quick():
    """A server with short limits, in a thread."""
    app = loopback_app("ratings")

    @app.post("/api/next")
    async def echo(request: Request) -> Response:
        await read_object(request)
        return Response(b"ok")

    @app.get("/much")
    def much() -> Response:
        return Response(bytes(60_000_000))

    server = listen(0)
    limits = ConnectionLimits(header=1.5, body=2.5, slow=10_000, stalled=2.5, connections=12)
    threading.Thread(target=serve, args=(app, server, limits), daemon=True).start()
    return server.getsockname()[1]


def closed_after(line, most=15.0):
    """Seconds until the server closes a connection."""
    line.settimeout(most)
    began = time.monotonic()
    try:
        while line.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("sent", "least"),
    [(b"", 1.4), (HALF, 1.4), (HALF + b"Content-Length: 99\r\n\r\n{", 2.4)],
    ids=["nothing", "header", "body"],
)
def test_who_does_not_finish_a_request_is_closed(quick, sent, least):
    line = socket.create_connection(("127.0.0.1", quick))
    line.sendall(sent)
    assert least < closed_after(line) < 12


def test_dripping_does_not_help(quick):
    line = socket.create_connection(("127.0.0.1", quick))
    began = time.monotonic()
    with pytest.raises(OSError):
        for byte in HALF * 10:
            line.sendall(bytes([byte]))
            time.sleep(0.1)
    assert time.monotonic() - began < 12


def test_a_body_may_come_over_a_slow_line_but_not_drop_by_drop(quick):
    body = b'{"a": "' + b"x" * 60_000 + b'"}'
    head = HALF + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    line = socket.create_connection(("127.0.0.1", quick), timeout=10)
    line.sendall(head)
    for at in range(0, len(body), 4000):  # five seconds in all, twice what a body may take without it
        line.sendall(body[at : at + 4000])
        time.sleep(0.33)
    assert line.recv(1000).startswith(b"HTTP/1.1 200")
    line = socket.create_connection(("127.0.0.1", quick), timeout=10)
    line.sendall(head)
    began = time.monotonic()
    with pytest.raises(OSError):
        for _ in range(100):
            line.sendall(b"x" * 100)
            time.sleep(0.1)
    assert time.monotonic() - began < 8


def test_a_request_of_two_lengths_is_the_last_of_its_connection(quick):
    """What comes behind it is a request for one server and a body for another (request smuggling)."""
    line = socket.create_connection(("127.0.0.1", quick), timeout=10)
    two = b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    line.sendall(HALF + two + b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    got = b""
    while piece := line.recv(65536):
        got += piece
    assert got.startswith(b"HTTP/1.1 400") and got.count(b"HTTP/1.1") == 1


def test_who_does_not_take_an_answer_is_closed(quick):
    line = socket.create_connection(("127.0.0.1", quick))
    line.sendall(b"GET /much HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    time.sleep(6)
    line.settimeout(10)
    taken = 0
    try:
        while piece := line.recv(1 << 20):
            taken += len(piece)
    except ConnectionResetError:
        pass
    assert taken < 60_000_000


def test_who_is_slow_but_steady_is_served(quick):
    line = socket.create_connection(("127.0.0.1", quick))
    line.sendall(b"GET /much HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    taken = 0
    for _ in range(8):
        time.sleep(0.5)
        taken += len(line.recv(1 << 22))
    while piece := line.recv(1 << 22):
        taken += len(piece)
    assert taken > 60_000_000


def test_of_too_many_the_one_that_waits_longest_goes(quick):
    lines = [socket.create_connection(("127.0.0.1", quick)) for _ in range(12)]
    time.sleep(0.3)
    line = http.client.HTTPConnection("127.0.0.1", quick, timeout=10)
    line.request("POST", "/api/next", "{}", {"content-type": "application/json"})
    assert line.getresponse().read() == b"ok"
    assert closed_after(lines[0]) < 1.0
    for each in lines:
        each.close()


def test_a_process_with_few_files_takes_fewer_connections(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 4096))
    assert within_file_limit(ConnectionLimits()).connections == 44
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (20, 20))
    assert within_file_limit(ConnectionLimits()).connections == 8


def test_a_log_says_little_and_how_much_it_left_out():
    now = [0.0]
    few = LogRateLimit(2, lambda: now[0])
    record = [logging.makeLogRecord({"msg": f"m{n}"}) for n in range(5)]
    assert [few.filter(each) for each in record] == [True, True, False, False, False]
    now[0] = 61
    late = logging.makeLogRecord({"msg": "late"})
    assert few.filter(late) and late.getMessage() == "late (3 messages were left out in the minute before)"
