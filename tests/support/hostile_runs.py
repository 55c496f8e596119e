"""Sends what ``support.hostile`` lists to a studio on a socket and says what went wrong: nothing, it should be."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from support.hostile import DAMAGED, HostileRequest, raw_requests

FILE_LIMITS = {
    "decoders": 1, "image_pixels": 250_000, "video_frames": 40, "video_bytes": 3_000_000, "image_bytes": 2_000_000,
    "queued_for_one": 10**6, "queued": 10**6, "inputs_for_one": 10**6, "decode_seconds": 10,
}  # fmt: skip
"""Limits of a studio that is sent everything: small files, long queues."""
NOT_OF_REQUESTS = ("image/", "text/javascript", "text/css")


@dataclass
class Figures:
    """How many were sent, the codes of the answers, and each that was not as it should be."""

    count: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {"sent": self.count, "codes": dict(sorted(self.codes.items())), "faults": len(self.faults)}


@dataclass(frozen=True)
class Answered:
    """An answer as it came: status, headers by lower-case name, body."""

    status: int
    headers: dict[str, str]
    body: bytes


def send(port: int, each: HostileRequest) -> Answered | None:
    """Send a request as it is, whatever a library would say of it; None when the server has cut the line."""
    headers = {"Host": "127.0.0.1", "Connection": "close", **each.headers}
    if each.body or each.method == "POST":
        headers.setdefault("Content-Length", str(len(each.body)))
    lines = [f"{each.method} {each.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    data = "\r\n".join(lines).encode("utf-8", "surrogatepass") + b"\r\n\r\n" + each.body
    return exchange(port, data, each.method)


def in_json(name: str, path: str, **fields: Any) -> HostileRequest:
    """A POST of JSON with these fields."""
    return HostileRequest(
        name, "POST", path, {"Content-Type": "application/json"}, json.dumps(fields).encode()
    )


def exchange(port: int, data: bytes, method: str = "GET", patience: float = 30) -> Answered | None:
    """Bytes to a socket, and what comes back; None for nothing."""
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as line:
        with contextlib.suppress(OSError):  # it has answered and closed before all was sent
            line.sendall(data)
        answer = http.client.HTTPResponse(line, method=method)
        try:
            answer.begin()
            return Answered(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        except (OSError, http.client.HTTPException):
            return None


def fault_of(answer: Answered, studio: Any) -> str:
    """What is wrong with an answer; '' for nothing."""
    text = answer.body.decode("utf-8", "replace")
    if answer.status >= 500 and "not_ready" not in text:  # there is no worker that could plan
        return f"status {answer.status}: {text[:200]}"
    if str(studio.folder.root) in text or "Traceback" in text or ".py" in text:
        return f"gives something away: {text[:300]}"
    kind = answer.headers.get("content-type", "")
    if answer.status >= 400 and text and kind.startswith("application/json"):
        message = json.loads(text).get("error", {}).get("message", "")
        if not message or len(message) > 1000 or not message.isprintable():
            return f"without a message for people: {text[:300]}"
    elif answer.status >= 400 and text and not kind.startswith("text/plain"):
        return f"status {answer.status} as {kind}: {text[:200]}"
    if "nosniff" not in answer.headers.get("x-content-type-options", "") and not kind.startswith(
        "text/plain"
    ):
        return f"without our headers: {answer.status} {answer.headers}"
    return ""


def around(client: Any) -> set[str]:
    """Names beside the studio's folder and in it, without those of uploads and videos."""
    root = client.studio.folder.root
    return {f"../{each.name}" for each in root.parent.iterdir()} | {each.name for each in root.iterdir()}


def _counted(client: Any, request: HostileRequest, figures: Figures, about: str = "") -> Any:
    """The answer to a request, counted by its status; None, and a fault, where the line was cut."""
    answer = send(client.port, request)
    figures.count += 1
    if answer is None:
        figures.faults.append(f"{request.name}{about}: cut off without an answer")
    else:
        figures.codes[answer.status] += 1
    return answer


def requests_refused(client: Any, requests: Sequence[HostileRequest]) -> Figures:
    """Send requests one after the other: no 5xx, a message for people, nothing outside the folder, no file left."""
    figures, before = Figures(), around(client)
    for each in requests:
        answer = _counted(client, each, figures)
        if answer is None:
            continue
        if fault := fault_of(answer, client.studio):
            figures.faults.append(f"{each.method} {each.path[:60]} {each.name}: {fault}")
    if left := list((client.studio.folder.root / "incoming").iterdir()):
        figures.faults.append(f"left in incoming: {len(left)}")
    if new := {each for each in around(client) - before if "sqlite" not in each}:
        figures.faults.append(f"new files: {new}")
    return figures


def raw_answered(client: Any) -> Figures:
    """Bytes that no library sends: an answer below 500, or the line is cut; others are served after each."""
    figures = Figures()
    for data in raw_requests():
        answer = exchange(client.port, data, patience=2)
        figures.count += 1
        if answer is not None:
            figures.codes[answer.status] += 1
            if answer.status >= 500:
                figures.faults.append(f"{data[:60]!r}: status {answer.status}")
        healthy = send(client.port, HostileRequest("health", "GET", "/health"))
        if healthy is None or healthy.status != 200:
            figures.faults.append(f"{data[:60]!r}: nobody is served after it")
    return figures


def scripts_kept(client: Any, scripts: Sequence[str]) -> Figures:
    """Scripts wherever text is kept or echoed: what comes back is JSON that holds them as text, never a page."""
    figures = Figures()
    for script in scripts:
        requests = [
            in_json("create", "/v1/videos", prompt=script, cogvideox={"steps": 2, "negative_prompt": script}),
            in_json("model", "/v1/videos", prompt="x", model=script),
            in_json("field", "/v1/videos", **{"prompt": "x", script: 1}),
            in_json("option", "/v1/plan", prompt="x", cogvideox={script: 1}),
            in_json("key", "/v1/session", key=script),
        ]
        for each in requests:
            answer = _counted(client, each, figures, f" {script[:60]!r}")
            if answer is None:
                continue
            fault = fault_of(answer, client.studio)
            if not answer.headers.get("content-type", "").startswith("application/json"):
                fault = fault or f"answered as {answer.headers.get('content-type')}"
            if each.name == "create" and answer.status == 200:
                fault = fault or (
                    "" if json.loads(answer.body)["prompt"] == script else "is not kept as it is"
                )
            if fault:
                figures.faults.append(f"{each.name} {script[:60]!r}: {fault}")
    return figures


def scripts_shown(client: Any, scripts: Sequence[str]) -> Figures:
    """Videos whose prompts are scripts, shown on the page in a browser: none runs, nothing is asked of anybody else."""
    from support.browser import Watched, chromium

    figures = Figures()
    for script in scripts:
        body = json.dumps({"prompt": script, "cogvideox": {"steps": 2, "negative_prompt": script}}).encode()
        answer = send(
            client.port,
            HostileRequest("create", "POST", "/v1/videos", {"Content-Type": "application/json"}, body),
        )
        figures.count += answer is not None and answer.status == 200
    with chromium() as browser:
        watched = Watched(browser.new_page()).begin()
        page = watched.page
        page.on("dialog", lambda dialog: figures.faults.append(f"a dialog: {dialog.message}"))
        page.goto(f"http://127.0.0.1:{client.port}/")
        page.wait_for_selector(".card", timeout=60_000)
        while page.is_visible("#older"):
            before = page.locator(".card").count()
            page.click("#older")
            page.locator(".card").nth(before).wait_for(timeout=60_000)
        shown = page.locator(".card").count()
        for script in scripts[:: max(1, len(scripts) // 10)]:
            page.fill("#prompt", script)
        page.wait_for_timeout(500)
        if page.evaluate("window.__ran") is not None:
            figures.faults.append("a script has run")
        for selector in (
            "#gallery script",
            "#gallery img[src=x]",
            "#gallery iframe",
            "#gallery [onerror]",
            "#gallery form",
        ):
            if page.locator(selector).count():
                figures.faults.append(f"{selector} is there")
        if shown != figures.count:
            figures.faults.append(f"{shown} cards of {figures.count}")
        if watched.hosts() != {f"127.0.0.1:{client.port}"}:
            figures.faults.append(f"asked {watched.hosts()}")
        figures.faults += [each for each in watched.problems if "503" not in each]
    return figures


def files_refused(client: Any, files: Sequence[tuple[str, bytes]]) -> Figures:
    """Upload files: each is refused with a message that names it an upload, and nothing of it stays.

    What is only damaged may be taken: what a decoder makes of it is written again, within the limits.
    """
    figures = Figures()
    for name, data in files:
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        body = head + data + b"\r\n--b--\r\n"
        answer = send(
            client.port,
            HostileRequest(
                name, "POST", "/v1/inputs", {"Content-Type": "multipart/form-data; boundary=b"}, body
            ),
        )
        figures.count += 1
        if answer is None:
            figures.faults.append(f"{name}: cut off")
            continue
        figures.codes[answer.status] += 1
        fault = fault_of(answer, client.studio)
        if answer.status == 200:
            fault = fault if name.startswith(DAMAGED) else f"was taken: {answer.body[:200]!r}"
        elif "upload" not in json.loads(answer.body)["error"]["message"]:
            fault = fault or f"is not named: {answer.body[:200]!r}"
        if fault:
            figures.faults.append(f"{name}: {fault}")
    if left := list((client.studio.folder.root / "incoming").iterdir()):
        figures.faults.append(f"left in incoming: {len(left)}")
    return figures
