"""Many clients at a job server: pollers, uploaders and half-open connections; status codes, times and memory.

    python benchmarks/studio_load.py --pollers 500 --uploaders 50 --half-open 1100 --seconds 300
    python benchmarks/studio_load.py --port 8750 --seconds 5      a server that runs already

Prints one line of JSON. Pollers ask for the status of a video every second on a kept connection, uploaders send a
PNG every two seconds. Times are of a whole request as a client sees it, on the same machine as the server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing as mp
import os
import resource
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

HALF = b"POST /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"


class Figures:
    """What clients saw: codes by kind of request, and seconds of status requests."""

    def __init__(self) -> None:
        self.codes: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.refused = 0

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain values, times in milliseconds."""
        times = sorted(self.seconds) or [0.0]

        def at(share: float) -> float:
            return round(1000 * times[min(len(times) - 1, int(share * len(times)))], 1)

        failed = sum(count for code, count in self.codes.items() if code.split()[1].startswith("5"))
        return {
            "requests": sum(self.codes.values()), "5xx": failed, "codes": dict(self.codes), "closed": self.refused,
            "p50 ms": at(0.5), "p95 ms": at(0.95), "p99 ms": at(0.99),
        }  # fmt: skip


async def ask(port: int, line: Any, head: str, body: bytes = b"", kind: str = "") -> tuple[Any, int, bytes]:
    """One request on a kept connection, which is made again when the server has closed it."""
    reader, writer = line or await asyncio.open_connection("127.0.0.1", port)
    more = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n" if body else ""
    writer.write(f"{head} HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}\r\n".encode() + body)
    await writer.drain()
    header = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = int(header.partition("content-length:")[2].split("\r\n")[0])
    return (reader, writer), int(header.split()[1]), await reader.readexactly(length)


async def poll(port: int, name: str, until: float, figures: Figures, delay: float) -> None:
    """Ask for the status of a video every second."""
    line = None
    await asyncio.sleep(delay)
    while time.monotonic() < until:
        began = time.monotonic()
        try:
            line, code, _ = await ask(port, line, f"GET /v1/videos/{name}")
            figures.codes[f"status {code}"] += 1
            figures.seconds.append(time.monotonic() - began)
        except (OSError, asyncio.IncompleteReadError):
            line, figures.refused = None, figures.refused + 1
        await asyncio.sleep(max(0.0, 1.0 - (time.monotonic() - began)))


async def upload(port: int, until: float, figures: Figures, delay: float) -> None:
    """Upload a picture every two seconds."""
    line = None
    await asyncio.sleep(delay)
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    body = head + picture() + b"\r\n--b--\r\n"
    while time.monotonic() < until:
        try:
            line, code, _ = await ask(port, line, "POST /v1/inputs", body, "multipart/form-data; boundary=b")
            figures.codes[f"upload {code}"] += 1
        except (OSError, asyncio.IncompleteReadError):
            line, figures.refused = None, figures.refused + 1
        await asyncio.sleep(2.0)


async def hold(port: int, count: int, until: float) -> None:
    """Keep so many half-open requests."""
    lines: list[Any] = []
    while time.monotonic() < until:
        lines = [each for each in lines if not each[0].at_eof()]
        for _ in range(min(100, count - len(lines))):
            with contextlib.suppress(OSError):
                line = await asyncio.open_connection("127.0.0.1", port)
                line[1].write(HALF)
                lines.append(line)
        await asyncio.sleep(0.2)


def picture(side: int = 96) -> bytes:
    """A grey PNG."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = zlib.compress((b"\0" + b"\x80" * side * 3) * side)
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


async def load(port: int, seconds: float, pollers: int, uploaders: int, half_open: int) -> Figures:
    """All clients at once for so many seconds; half-open ones in a process of their own, as strangers are, so that
    opening a thousand connections does not count as waiting for the server."""
    holding = mp.get_context("spawn").Process(target=hold_apart, args=(port, half_open, seconds))
    if half_open:
        holding.start()
    body = json.dumps({"prompt": "a red circle", "cogvideox": {"steps": 2, "frames": 1}}).encode()
    _, code, answer = await ask(port, None, "POST /v1/videos", body, "application/json")
    assert code == 200, answer
    name, figures, until = json.loads(answer)["id"], Figures(), time.monotonic() + seconds
    work = [poll(port, name, until, figures, number / max(1, pollers)) for number in range(pollers)]
    work += [upload(port, until, figures, 2 * number / max(1, uploaders)) for number in range(uploaders)]
    await asyncio.gather(*work)
    if half_open:
        holding.join()
    return figures


def hold_apart(port: int, count: int, seconds: float) -> None:
    """``hold`` in a process of its own."""
    many_files()
    asyncio.run(hold(port, count, time.monotonic() + seconds))


def many_files() -> None:
    """As many open files as the system allows, 8192 at most."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192) if hard > 0 else 8192, hard))


def memory_of(process: int) -> int:
    """Resident bytes of a process."""
    text = Path(f"/proc/{process}/status").read_text()
    return 1024 * int(text.partition("VmRSS:")[2].split()[0])


def processor_of(process: int) -> float:
    """Seconds of processor time that a process has used."""
    words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=300)
    for name, count in (("pollers", 500), ("uploaders", 50), ("half-open", 0)):
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--port", type=int)
    chosen = parser.parse_args()
    many_files()
    clients = chosen.seconds, chosen.pollers, chosen.uploaders, chosen.half_open
    if chosen.port:
        print(json.dumps(asyncio.run(load(chosen.port, *clients)).to_dict()))
        return
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from support.studio_client import studio

    with tempfile.TemporaryDirectory() as folder:
        limits = ("--limit", "inputs_for_one=1000000")
        with studio(Path(folder), *limits) as client:
            client.ready()
            before, used = memory_of(client.server.process.pid), processor_of(client.server.process.pid)
            figures = asyncio.run(load(client.port, *clients)).to_dict()
            after, used = memory_of(client.server.process.pid), processor_of(client.server.process.pid) - used
            figures |= {"server MB before": before >> 20, "server MB after": after >> 20}
            figures["server ms of processor a request"] = round(1000 * used / figures["requests"], 2)
            figures["log"] = client.server.log.read_text()[-500:]
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
