"""What strangers send to a studio: over a thousand requests, five hundred scripts, over three hundred files.

Lists times mutations, the same ones always. ``tests/studio/test_hostile.py`` sends a share of them, and
``benchmarks/studio_hostile.py`` all of them.
"""

from __future__ import annotations

import html
import io
import json
import struct
import urllib.parse
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cogvideox.video import Video

NO_VIDEO = "video_" + "0" * 32
DAMAGED = "damaged: "
JSON, BOUNDARY = "application/json", "multipart/form-data; boundary=b"


@dataclass(frozen=True)
class HostileRequest:
    """One request: what it tries, method, path with its query, headers and body."""

    name: str
    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


TEXTS = [
    "", " ", "\t\n", "a\0b", "\0", "\ud800", "\udfff\ud800", "\u202e\u2066", "\ufeff", "\ufffe", "𝒳" * 50,
    "é" * 5000, "a" * 9000,
    "a" * 600_000, "../" * 40, "../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "\\\\host\\share",
    "C:\\windows",
    "http://127.0.0.1:22/", "http://169.254.169.254/latest", "gopher://x", "$(touch x)", "`id`", "; rm -rf .",
    "| cat", "%s%n%x",
    "{0.__class__}", "${jndi:ldap://x}", "' OR 1=1 --", '"; DROP TABLE videos; --', "1); ATTACH 'x' AS y; --",
    "%00", "%2e%2e%2f",
    "%c0%ae%c0%ae/", "__proto__", "constructor", "self", "\r\nSet-Cookie: a=b", "con", "nul.txt",
    "hub:evil/kernel", "-", "--help",
]  # fmt: skip
"""Texts where a text or a name is expected, and where none is."""
VALUES: list[Any] = [
    None, True, False, 0, -1, -0.0, 1, 2**31, 2**63, 2**64, -(2**64), 10**40, 1e308, -1e308, 5e-324, 0.1, [],
    [[]], [None], {}, {"": ""},
    {"a": {"b": {"c": {}}}}, [1] * 3000, {str(n): n for n in range(300)}, {"$gt": ""}, {"__class__": "x"}, ["a",
    {"b": [1]}], *TEXTS,
]  # fmt: skip
RAW = [
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 6000, b"0x10", b"01", b"+1", b"'x'", b"undefined",
    b"[" * 3000 + b"]" * 3000,
    b'{"a":' * 500 + b"1" + b"}" * 500, b'"\\ud800"', b'"\\u0000"', b'"\xff"', b'{"a":1,"a":2}', b"/* */ 1",
    b'"\\x41"', b"1 2", b"tru",
]  # fmt: skip
"""JSON that Python's own writer would not write, in place of a value."""
PLACES = [
    "prompt", "model", "seconds", "size", "input_reference", "cogvideox", "cogvideox.steps", "cogvideox.seed",
    "cogvideox.guidance",
    "cogvideox.negative_prompt", "cogvideox.times", "cogvideox.frames", "cogvideox.fps", "cogvideox.inputs",
    "cogvideox.inputs.image",
    "cogvideox.inputs.mask", "cogvideox.keyframes", "cogvideox.keyframes.3", "cogvideox.adapters",
    "cogvideox.adapters.x",
    "cogvideox.webhook", "cogvideox.strength", "cogvideox.cache", "cogvideox.stg_layers", "cogvideox.video_use",
]  # fmt: skip
NAMES = [each for each in TEXTS if 0 < len(each) < 400 and "\ud800" not in each and "\udfff" not in each]
IDS = [
    *NAMES,
    "video_",
    NO_VIDEO + "0",
    NO_VIDEO.upper(),
    NO_VIDEO + "%00",
    "..",
    ".",
    "....//",
    "%2f",
    "video_" + "٠" * 32,
]
HEADERS = {
    "Range": ["bytes=", "bytes=-", "bytes=9-1", "bytes=0-,0-,0-", "bytes=" + "0-1," * 500, "bytes=a-b",
    "lines=1-2", "bytes=-" + "9" * 40],
    "Content-Type": ["", "text/html", "application/json; charset=utf-7", BOUNDARY[:-1],
    "multipart/form-data; boundary=" + "b" * 400,
                     "multipart/form-data; boundary=\"\\\"", "a" * 5000, "application/json, text/plain"],
    "Host": ["", "evil.example", "127.0.0.1@evil", "[", "[::1", "127.0.0.1:99999999", "localhost.", "127.0.0.1\t",
    "0", "a" * 3000],
    "Origin": ["null", "http://[", "http://[::1", "http://evil", "//", ":", "http://127.0.0.1:80@evil",
    "http://a:b:c", "x" * 3000, "\xff"],
    "Authorization": ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer " + "a" * 5000, "bearer\tx", "Bearer \xff",
    "Bearer x, Bearer y"],
    "Cookie": ["cogvideox_session=", "cogvideox_session=" + "a" * 3000, "=;;=", "cogvideox_session=\xff",
    "a=" + '"' * 99],
    "Idempotency-Key": ["", "a" * 300, "\xff" * 9, "' OR 1=1", "../x", "\t"],
    "X-Cogvideox-Token": ["", "\xff", "a" * 4000],
    "Sec-Fetch-Site": ["cross-site", "", "same-origin, cross-site", "\xff"],
    "X-HTTP-Method-Override": ["DELETE"],
    "X-Forwarded-Host": ["evil.example"],
    "Content-Encoding": ["gzip", "br", "x" * 999],
    "Accept": ["text/html", "*/*;q=" + "9" * 999],
    "If-Modified-Since": ["x", "\xff"],
    "Expect": ["100-continue", "x"],
    "Upgrade": ["websocket", "h2c"],
}  # fmt: skip
QUERIES = {
    "limit": ["0", "101", "-1", "1e9", "9" * 40, "NaN", "x", "", "1&limit=2"],
    "after": NAMES[:20],
    "order": ["", "ASC", "asc;", "desc--", "[]"],
    "search": NAMES[:30],
    "state": ["", "any", "queued'--", "[]", "QUEUED"],
    "favourite": ["2", "maybe", "", "null"],
    "variant": ["", "../video", "settings/..", "exe", "VIDEO", "%00"],
    "download": ["2", "x", ""],
    "value": ["2", "x", "[]"],
}
ROUTES = ["", "/content", "/preview", "/events", "/cancel", "/restore", "/favourite", "/remix", "/nothing"]
METHODS = ["PUT", "PATCH", "OPTIONS", "HEAD", "TRACE", "CONNECT", "PROPFIND", "get", "FOO"]


def hostile_requests() -> Iterator[HostileRequest]:
    """Every request of the lists, one after the other."""
    yield from _bodies()
    yield from _paths()
    yield from _headers()
    yield from _forms()


def _bodies() -> Iterator[HostileRequest]:
    """A good body with one value replaced, and bodies that are none."""
    for place in PLACES:
        for number, value in enumerate(VALUES):
            body = json.dumps(_with(place, value)).encode()
            yield HostileRequest(f"{place} {number}", "POST", "/v1/videos", {"Content-Type": JSON}, body)
        for raw in RAW:
            body = json.dumps(_with(place, "RAW")).encode().replace(b'"RAW"', raw)
            yield HostileRequest(f"{place} {raw[:20]!r}", "POST", "/v1/plan", {"Content-Type": JSON}, body)
    for raw in (
        *RAW,
        b"",
        b"\0",
        b"\xef\xbb\xbf{}",
        b"{}{}",
        b"<x/>",
        b"a=b",
        b"\x80\x04\x95",
        b"{" * 100_000,
        b" " * 500_000,
    ):
        for path in (
            "/v1/videos",
            "/v1/plan",
            "/v1/session",
            f"/v1/videos/{NO_VIDEO}/remix",
            "/v1/videos/edits",
        ):
            yield HostileRequest(f"body {raw[:20]!r}", "POST", path, {"Content-Type": JSON}, raw)
    for name in (
        *TEXTS[:20],
        "image",
        "reuse_table",
        "attention",
        "anyway",
        "flow",
        "control_net",
        "compile",
        "Prompt",
        "steps ",
    ):
        body = json.dumps({"prompt": "a", "cogvideox": {name: "/etc/passwd"}, name[:300]: 1}).encode()
        yield HostileRequest(f"field {name[:20]!r}", "POST", "/v1/videos", {"Content-Type": JSON}, body)


def _with(place: str, value: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "prompt": "a ball",
        "cogvideox": {"steps": 2, "inputs": {}, "keyframes": {}, "adapters": {}},
    }
    inner = body
    *above, last = place.split(".")
    for name in above:
        inner = inner[name]
    inner[last] = value
    return body


def _paths() -> Iterator[HostileRequest]:
    for name in IDS:
        quoted = urllib.parse.quote(name, safe="/%\\")
        for route in ROUTES:
            method = "POST" if route in ("/cancel", "/restore", "/favourite", "/remix") else "GET"
            if "/events" not in route:
                yield HostileRequest(f"id {name[:20]!r}{route}", method, f"/v1/videos/{quoted}{route}")
        for path in ("/v1/inputs/{}/content", "/v1/models/{}", "/{}", "/docs/{}", "/pages/{}"):
            yield HostileRequest(f"{path} {name[:20]!r}", "GET", path.format(quoted))
    for name, values in QUERIES.items():
        for value in values:
            query = f"{name}={urllib.parse.quote(value, safe='&%')}"
            for path in ("/v1/videos", f"/v1/videos/{NO_VIDEO}/content", f"/v1/videos/{NO_VIDEO}/favourite"):
                method = "POST" if path.endswith("favourite") else "GET"
                yield HostileRequest(f"?{query[:30]}", method, f"{path}?{query}")
    for method in METHODS:
        for path in (
            "/",
            "/v1/videos",
            f"/v1/videos/{NO_VIDEO}",
            "/v1/session",
            "/health",
            "*",
            "//evil/",
            "/v1//videos",
        ):
            yield HostileRequest(f"{method} {path}", method, path)


def _headers() -> Iterator[HostileRequest]:
    body = json.dumps({"prompt": "a ball", "cogvideox": {"steps": 2}}).encode()
    for name, values in HEADERS.items():
        for value in values:
            headers = {"Content-Type": JSON, name: value}
            yield HostileRequest(f"{name}: {value[:20]!r}", "POST", "/v1/videos", headers, body)
            yield HostileRequest(
                f"{name}: {value[:20]!r}", "GET", f"/v1/videos/{NO_VIDEO}/content", {name: value}
            )
            yield HostileRequest(f"{name}: {value[:20]!r}", "DELETE", "/v1/session", {name: value})


def _forms() -> Iterator[HostileRequest]:
    def part(head: str, content: bytes) -> bytes:
        return (
            b"--b\r\nContent-Disposition: form-data; "
            + head.encode("utf-8", "replace")
            + b"\r\n\r\n"
            + content
            + b"\r\n"
        )

    end = b"--b--\r\n"
    for name in [*NAMES, "a" * 9000]:
        shown = name.replace('"', "%22").replace("\r", "").replace("\n", "")
        for head in (
            f'name="{shown}"',
            f'name="file"; filename="{shown}"',
            f'name="cogvideox[{shown}]"',
            f"name={shown}",
        ):
            body = part(head, b"x") + end
            for path in ("/v1/videos", "/v1/inputs"):
                yield HostileRequest(f"form {head[:40]!r}", "POST", path, {"Content-Type": BOUNDARY}, body)
    for value in (*RAW, *(each.encode("utf-8", "surrogatepass") for each in TEXTS if len(each) < 10_000)):
        for name in ("prompt", "cogvideox", "cogvideox[steps]", "cogvideox[inputs][image]", "seconds"):
            good = part('name="prompt"', b"a") if name != "prompt" else b""
            yield HostileRequest(
                f"form {name}={value[:20]!r}", "POST", "/v1/videos", {"Content-Type": BOUNDARY},
                good + part(f'name="{name}"', value) + end,
            )  # fmt: skip
    inner = [
        b'{"negative_prompt": %b}',
        b'{"seed": %b}',
        b'{"inputs": {"image": %b}}',
        b'{"times": [%b]}',
        b"{%b: 1}",
    ]
    for raw in RAW:
        for outer in inner:
            content = part('name="prompt"', b"a") + part('name="cogvideox"', outer % raw)
            headers = {"Content-Type": BOUNDARY}
            yield HostileRequest(
                f"form cogvideox={outer.decode()} {raw[:20]!r}", "POST", "/v1/videos", headers, content + end
            )
    for number, body in enumerate((
        b"", end, b"--b\r\n", b"--b\r\n\r\n\r\n--b--\r\n", b"x" * 5000, part('name="a"', b"x"), (part('name="a"',
        b"x") * 300) + end,
        part('name="file"; filename="a"', b"x") * 3 + end, part('name="a', b"") + end, part("filename=x",
            b"x") + end,
        b"--b\r\nX: y\r\n" * 40 + end, part('name="cogvideox[a][b][c][d][e][f]"', b"x") + end,
        part('name="cogvideox"', b"{}") + part('name="cogvideox[a]"', b"x") + end, part('name="a[]"',
            b"x") + part('name="a"', b"x") + end,
        part('name="[]"', b"x") + end, part('name="[a]"', b"x") + end, part('name="video"; filename="v"',
            b"") + end,
    )):  # fmt: skip
        for path in (
            "/v1/videos",
            "/v1/inputs",
            "/v1/plan",
            "/v1/videos/edits",
            f"/v1/videos/{NO_VIDEO}/remix",
        ):
            yield HostileRequest(f"form {number}", "POST", path, {"Content-Type": BOUNDARY}, body)


def raw_requests() -> list[bytes]:
    """Bytes on a socket that no library would send: smuggling, half a header, other protocols."""
    post = b"POST /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    get = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    chunked = post + b"Transfer-Encoding: chunked\r\n\r\n"
    return [
        b"\r\n\r\n", b"\0" * 100, b"GET\r\n\r\n", b"GET /\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET http://evil/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        get + b"Host: evil\r\n\r\n",
        post + b"Content-Length: -1\r\n\r\n", post + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
            post + b"Content-Length: x\r\n\r\n",
        post + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\n\r\n",
        post + b"Content-Length: 99999999999999999999\r\n\r\n{", chunked + b"zz\r\n", chunked + b"-1\r\n\r\n",
            chunked + b"ffffffffffffffffff\r\n",
        chunked + b"2\r\n{}\r\n0\r\n\r\n", post + b"Transfer-Encoding: xchunked\r\n\r\n{}",
            post + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        get + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
            get + b"".join(b"X%d: y\r\n" % n for n in range(500)) + b"\r\n", get + b" folded: x\r\n\r\n",
        get + b"X\0: y\r\n\r\n", get + b"X: \0\r\n\r\n", get + b"X y\r\n\r\n",
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"GET /%00 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"CONNECT evil:80 HTTP/1.1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        get + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", b"GET /health HTTP/0.9\r\n\r\n",
    ]  # fmt: skip


# scripts

SCRIPTS = [
    "<script>{run}</script>", "<img src=x onerror={run}>", "<svg onload={run}>",
    "<svg><script>{run}</script></svg>", "<body onload={run}>",
    "<iframe src=\"javascript:{run}\"></iframe>", "<iframe srcdoc=\"<script>{run}</script>\"></iframe>",
    "<a href=\"javascript:{run}\">x</a>",
    "<details open ontoggle={run}>", "<video><source onerror={run}></video>", "<audio src=x onerror={run}>",
    "<input autofocus onfocus={run}>",
    "<math><mi xlink:href=\"javascript:{run}\">x</mi></math>", "<object data=\"javascript:{run}\">",
    "<embed src=\"javascript:{run}\">",
    "<link rel=stylesheet href=\"javascript:{run}\">", "<style>@import 'javascript:{run}';</style>",
    "<meta http-equiv=refresh content=\"0;url=javascript:{run}\">",
    "<base href=\"http://evil.example/\">", "<form action=\"javascript:{run}\"><button>x</button></form>",
    "<template><script>{run}</script></template>",
    "javascript:{run}", "data:text/html,<script>{run}</script>", "\"><script>{run}</script>",
    "'><script>{run}</script>", "</script><script>{run}</script>",
    "</title><script>{run}</script>", "</textarea><script>{run}</script>", "--><script>{run}</script>",
    "]]><script>{run}</script>",
    "\" onmouseover={run} x=\"", "' onfocus={run} autofocus x='", "`${{{run}}}`", "${{{run}}}",
    "{{{{constructor.constructor('{run}')()}}}}",
    "<%= {run} %>", "<x contenteditable onblur={run}>lose</x>", "<marquee onstart={run}>",
    "<img src=\"x`<script>{run}</script>\"`>", "<portal src=javascript:{run}>",
]  # fmt: skip
RUNS = ["window.__ran=1", "window['__r'+'an']=1", "top.__ran=1"]


def script_strings(count: int = 500) -> list[str]:
    """Texts that would run in a page that took them for HTML: ``window.__ran`` would be set."""
    made: list[str] = []
    changes = (
        lambda text: text,
        str.upper,
        lambda text: text.replace("<", "\0<").replace("\0", ""),
        lambda text: text.replace(" ", "/"),
        lambda text: text.replace(" ", "\n\t"),
        html.escape,
        lambda text: urllib.parse.quote(text),
        lambda text: "".join(f"&#{ord(each)};" for each in text),
        lambda text: text.replace("<", "\\u003c"),
        lambda text: text.replace("<", "＜"),
        lambda text: "a ball " * 5 + text,
        lambda text: text.replace("<", "<<"),
        lambda text: f"<b>{text}</b>",
    )
    for run in RUNS:
        for change in changes:
            made += [change(each.format(run=run)) for each in SCRIPTS]
    distinct = list(dict.fromkeys(made))
    step = len(distinct) / count
    return [distinct[int(index * step)] for index in range(count)]


# files


def picture(kind: str = "PNG", size: tuple[int, int] = (20, 30), **more: Any) -> bytes:
    """A picture of a few pixels in a format of Pillow."""
    rng, stream = np.random.default_rng(0), io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(stream, kind, **more)
    return stream.getvalue()


def png_of(width: int, height: int, depth: int = 8, colour: int = 2, data: bytes = b"\0" * 1000) -> bytes:
    """A PNG whose header says what it likes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def _videos(folder: Path) -> dict[str, bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    frames = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), np.uint8)
    return {
        kind: Video(frames, 8.0).save(folder / f"x.{kind}").read_bytes() for kind in ("mp4", "mkv", "gif")
    }


FOREIGN = {
    "text": b"hello", "html": b"<script>1</script>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "xml": b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>',
    "json": b'{"prompt": "x"}', "zeros": bytes(5000),
    "m3u8": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "m3u8 http": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:22/\n",
    "ffconcat": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5000 RTP/AVP 96\n", "elf": b"\x7fELF" + bytes(200),
    "mpd": b'<MPD><Period><AdaptationSet><BaseURL>file:///etc/passwd</BaseURL></AdaptationSet></Period></MPD>',
    "rtsp": b"[playlist]\nFile1=rtsp://127.0.0.1/\n",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n",
    "pdf": b"%PDF-1.7\n1 0 obj<</OpenAction 2 0 R>>", "ps": b"%!PS\n(/etc/passwd) (r) file\n",
    "zip": b"PK\x03\x04" + b"x" * 100, "gzip": b"\x1f\x8b" + b"x" * 100,
    "tar": b"x" * 257 + b"ustar" + bytes(300), "pickle": b"\x80\x04\x95" + b"x" * 100,
    "torch": b"PK\x03\x04archive/data.pkl" + bytes(200), "safetensors": struct.pack("<Q", 2**60) + b"{}",
    "gguf": b"GGUF" + bytes(100), "npy": b"\x93NUMPY" + bytes(100),
    "wasm": b"\0asm" + bytes(50), "class": b"\xca\xfe\xba\xbe" + bytes(50),
    "pcx": b"\x0a\x05\x01\x08" + bytes(200), "fits": b"SIMPLE  =" + b" " * 3000,
    "dds": b"DDS " + bytes(200), "icns": b"icns" + bytes(100), "ico": b"\0\0\1\0\1\0" + bytes(100),
    "cur": b"\0\0\2\0\1\0" + bytes(100), "psd": b"8BPS" + bytes(100),
    "tga": bytes(18) + b"TRUEVISION-XFILE.", "exr": b"v/1\x01" + bytes(100), "hdr": b"#?RADIANCE\n" + bytes(100),
    "heic": b"\0\0\0\x18ftypheic" + bytes(100),
    "avif": b"\0\0\0\x18ftypavif" + bytes(100), "jxl": b"\xff\x0a" + bytes(100),
    "jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100), "j2k": b"\xff\x4f\xff\x51" + bytes(100),
    "webp none": b"RIFF\xff\xff\xff\xffWEBPVP8 " + bytes(100), "avi none": b"RIFF\0\0\0\0AVI LIST" + bytes(100),
    "wav": b"RIFF$\0\0\0WAVEfmt " + bytes(50), "flac": b"fLaC" + bytes(50),
    "mp3": b"ID3\x03" + bytes(200), "ogg": b"OggS" + bytes(200), "midi": b"MThd" + bytes(50),
    "swf": b"FWS\x08" + bytes(100), "flv": b"FLV\x01\x05" + bytes(50), "mpegts": b"G" + bytes(187),
    "rm": b".RMF" + bytes(100), "asf": b"0&\xb2u\x8ef\xcf\x11" + bytes(100),
    "y4m": b"YUV4MPEG2 W999999999 H999999999 F1:1\nFRAME\n", "y4m zero": b"YUV4MPEG2 W0 H0\nFRAME\n",
    "ppm": b"P6\n999999999 999999999\n255\n", "pbm": b"P1\n1 1\n", "xbm": b"#define x_width 9\n",
    "xpm": b"/* XPM */", "bom": b"\xff\xfe" + bytes(50), "newlines": b"\n" * 3000,
}  # fmt: skip


def hostile_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Files that are no picture and no video, or only claim to be; and damaged ones, which some decoders can mend."""
    yield from FOREIGN.items()
    sizes = (0, 1, 2**15, 20_000, 2**20, 2**31 - 1, 2**32 - 1)
    for width in sizes:
        for height in sizes:
            if (width, height) != (1, 1):  # those with few pixels are only short of data
                few = DAMAGED if 0 < width * height < 250_000 else ""
                yield f"{few}png {width}x{height}", png_of(width, height)
    for depth, colour in ((3, 2), (8, 9), (0, 0), (16, 3), (255, 255)):
        yield f"png depth {depth} colour {colour}", png_of(30, 20, depth, colour)
    pictures = {kind: picture(kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF")}
    for kind, data in pictures.items():
        for share in (0.02, 0.05, 0.1, 0.2, 0.4, 0.6):
            yield f"{kind} cut at {share}", data[: max(1, int(share * len(data)))]
        yield f"{kind} head alone", data[:12]
        yield f"{kind} and zeros", data[:16] + bytes(len(data))
        yield f"{kind} and noise", data[:16] + np.random.default_rng(1).bytes(500)
        yield f"{kind} backwards", data[::-1]
        yield f"{kind} after a byte", b"\0" + data
    yield "too many pixels", picture(size=(600, 600))
    yield "too wide", picture(size=(2, 200_000))
    films = _videos(folder)
    for kind, data in films.items():
        for share in (0.01, 0.02, 0.05, 0.1, 0.2, 0.3):
            first = DAMAGED if kind == "gif" else ""  # its first frame may be whole
            yield f"{first}{kind} cut at {share}", data[: max(1, int(share * len(data)))]
        yield f"{kind} head alone", data[:24]
        yield f"{kind} and zeros", data[:48] + bytes(len(data))
        yield f"{kind} and noise", data[:48] + np.random.default_rng(2).bytes(2000)
        yield f"{kind} backwards", data[::-1]
    moov = films["mp4"]
    for name in (
        b"ftyp",
        b"moov",
        b"trak",
        b"mdia",
        b"minf",
        b"stbl",
        b"stsd",
        b"stco",
        b"stsz",
        b"stts",
        b"avc1",
        b"avcC",
        b"mdat",
        b"tkhd",
        b"mdhd",
        b"hdlr",
    ):
        at = moov.find(name)
        if at < 0:
            continue
        for label, size in (("none", 0), ("one", 1), ("huge", 2**32 - 1), ("past the end", len(moov) * 2)):
            yield (
                f"{DAMAGED}mp4 {name.decode()} of size {label}",
                moov[: at - 4] + struct.pack(">I", size) + moov[at:],
            )
        yield f"{DAMAGED}mp4 without {name.decode()}", moov[:at] + b"free" + moov[at + 4 :]
    frames = np.random.default_rng(0).integers(0, 255, (50, 16, 16, 3), np.uint8)
    yield "too many frames", Video(frames, 8.0).save(folder / "long.mp4").read_bytes()
    for number in range(120):
        rng = np.random.default_rng(number)
        kind = list(pictures)[number % 5]
        yield f"{kind} noise {number}", pictures[kind][:8] + rng.bytes(int(rng.integers(20, 3000)))
