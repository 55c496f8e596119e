"""Pages that are written run nothing: every field of every page may hold a script, and stays text."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as xml
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cogvideox.curation.report import write_report
from cogvideox.errors import InputError
from cogvideox.evaluation.report import ScoreReport
from cogvideox.evaluation.report_page import write_page
from cogvideox.evaluation.score import Score
from cogvideox.evaluation.video_folder import Refused, open_videos
from cogvideox.reproduce.curves import curves
from cogvideox.video import Video

SCRIPTS = (
    "<script>boom()</script>",
    "</title><script>boom()</script>",
    "</style></small></td></table><img src=x onerror=boom()>",
    "\"><svg onload='boom()'>",
    "' onmouseover='boom()",
    '" style="background:url(javascript:boom())',
    "<iframe srcdoc='<script>boom()</script>'>",
    "<a href=javascript:boom()>x</a>",
    "<!--><script>boom()</script-->",
    "<meta http-equiv=refresh content='0;url=http://evil.example'>",
    "<base href=http://evil.example/>",
    "<form action=http://evil.example><button>",
    "<link rel=stylesheet href=http://evil.example>",
    "&lt;script&gt;boom()&lt;/script&gt;",
    "\u2028<script>\x00boom()</script>",
)
EVIL = " ".join(SCRIPTS)
TAGS = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "b", "table", "tr", "td", "th", "div",
        "span", "img", "small", "br", "figure", "figcaption", "svg", "rect", "line", "text"}  # fmt: skip
ATTRIBUTES = {"lang", "charset", "http-equiv", "content", "name", "class", "style", "src", "alt", "viewbox", "role",
              "x", "y", "x1", "x2", "y1", "y2", "width", "height", "fill", "stroke", "stroke-dasharray", "font-size",
              "opacity", "text-anchor", "stroke-width"}  # fmt: skip


class Reader(HTMLParser):
    """Tags, attributes and the text of a page, as a browser sees them."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.words, self.comments = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_data(self, data):
        self.words.append(data)

    def handle_comment(self, data):
        self.comments.append(data)


def check(page: str) -> str:
    """That a page holds nothing but our own tags, and a policy under which nothing runs; returns its text."""
    reader = Reader()
    reader.feed(page)
    assert {tag for tag, _ in reader.tags} <= TAGS
    assert {name for _, name, _ in reader.attributes} <= ATTRIBUTES
    assert not reader.comments
    assert [tag for tag, _ in reader.tags].count("meta") == 3
    policies = [attrs["content"] for _, attrs in reader.tags if attrs.get("http-equiv")]
    assert len(policies) == 1 and "default-src 'none'" in policies[0] and "script" not in policies[0]
    for tag, name, value in reader.attributes:
        if name in ("src", "href"):
            assert tag == "img" and value.startswith("data:image/")
        if name == "style":
            assert value.startswith("width:")
    return "".join(reader.words)


def curated(out, **changes):
    """A foreign folder that looks like a curated one, scripts in every text."""
    (out / "work" / "strips" / "ab").mkdir(parents=True)
    (out / "work" / "strips" / "ab" / "ab12.png").write_bytes(b"<script>boom()</script>")
    summary = {
        **dict.fromkeys(("films", "clips", "kept", "copied"), 3),
        **dict.fromkeys(("seconds", "kept_seconds", "kept_bytes"), 2.5),
        "recipe": EVIL,
        "dropped": [{"step": EVIL, "reason": EVIL, "clips": 1}],
        "thresholds": [
            {"stages": [{"name": EVIL, "rules": [{"score": EVIL, "least": 0.1, "most": None}]}]},
        ],
        "stages": {EVIL: 2},
        "samples": {"|": ["ab12"], f"{EVIL}|{EVIL}": ["cd34"]},
    }
    (out / "summary.json").write_text(json.dumps(summary | changes))
    row = {
        "id": "cd34",
        "source": {"path": EVIL},
        "span": {"start": 0.0, "end": 1.0},
        "dropped": {"step": EVIL, "reason": EVIL, "detail": EVIL},
        "scores": {EVIL: 0.5},
    }
    (out / "dropped.jsonl").write_text(json.dumps(row) + "\n")
    table = {"id": ["ab12"], "path": [EVIL], "start": [0.0], "end": [1.0], "caption": [EVIL[:120]]}
    pq.write_table(pa.table({**table, f"score.{EVIL}": [0.3], "record": ["{}"]}), out / "clips.parquet")
    return out


def test_a_report_of_a_foreign_curation_is_text(tmp_path):
    page = write_report(curated(tmp_path)).read_text()
    words = check(page)
    for script in SCRIPTS[:-1]:
        assert words.count(script) >= 8, script


PLACES = (
    *[
        (name,)
        for name in ("films", "clips", "kept", "copied", "seconds", "kept_seconds", "kept_bytes", "recipe")
    ],
    ("dropped", 0, "clips"),
    ("dropped", 0, "step"),
    ("thresholds", 0, "stages", 0, "rules", 0, "least"),
    ("thresholds", 0, "stages", 0, "name"),
    ("stages", EVIL),
    ("samples", "|"),
    ("samples", "|", 0),
)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place))[:30])
@pytest.mark.parametrize(
    "value", [EVIL, "../../../../etc/passwd", [EVIL], {"a": EVIL}, True, float("inf"), -1]
)
def test_a_summary_of_another_shape_is_refused_or_text(place, value, tmp_path):
    out = curated(tmp_path)
    summary = json.loads((out / "summary.json").read_text())
    inner = summary
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    (out / "summary.json").write_text(json.dumps(summary))
    try:
        page = write_report(out).read_text()
    except InputError as error:
        assert "summary.json" in str(error) and len(str(error)) < 400 + len(EVIL)
        return
    check(page)
    assert isinstance(value, str | int) and not isinstance(value, bool)


@pytest.mark.parametrize(
    "name", ["summary.json", "dropped.jsonl", "clips.parquet", "work/strips/ab/ab12.png"]
)
@pytest.mark.parametrize("kind", ["pipe", "link", "garbage", "folder"])
def test_a_foreign_folder_leads_nowhere_and_hangs_nobody(name, kind, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "out").mkdir()
    file = curated(tmp_path / "out") / name
    file.unlink()
    {
        "pipe": lambda: os.mkfifo(file),
        "link": lambda: file.symlink_to(tmp_path / "secret"),
        "garbage": lambda: file.write_bytes(b"\xff{" * 99),
        "folder": file.mkdir,
    }[kind]()
    if name.endswith("png"):
        page = write_report(tmp_path / "out").read_text()
        assert "c2VjcmV0" not in page  # "secret" in base64
        check(page)
        return
    with pytest.raises(InputError, match=file.name):
        write_report(tmp_path / "out")


def test_a_report_of_an_evaluation_is_text(tmp_path):
    folder = tmp_path / "<script>boom()<"
    for name in ("<img src=x onerror=boom()>", "' onload='boom()", '"><svg onload=boom()>'):
        frames = np.zeros((5, 16, 16, 3), np.uint8)
        Video(frames, 8, {"config": {"prompt": EVIL}}).save(folder / f"{name}.mp4")
    (folder / "<title><script>boom()<.mp4").write_bytes(b"")
    clips = open_videos(folder)
    scores = [
        Score(EVIL, 0.5, 0.4, 0.6, 3, EVIL, EVIL, EVIL, each=(0.1, 0.2, 0.3), settings={EVIL: EVIL}),  # type: ignore[arg-type]
        Score(EVIL, None, why=EVIL),
    ]
    report = ScoreReport.of(EVIL, EVIL, scores, clips, missing=(EVIL,))
    report = ScoreReport(
        **{
            **vars(report),
            "refused": (*report.refused, Refused(EVIL, EVIL, EVIL)),
            "provenance": {"created": EVIL},
        }
    )
    words = check(write_page(report, clips, tmp_path / "out").read_text())
    for script in SCRIPTS[:-1]:
        assert words.count(script) >= 12, script
    assert words.count("<img src=x onerror=boom()>.mp4") == 1


def test_pictures_of_experiments_and_notebooks_are_text():
    drawn = curves(
        EVIL.replace("\0", ""), {EVIL.replace("\0", ""): [[(0, 1.0), (1, 2.0)]]}, EVIL.replace("\0", "")
    )
    kinds = {element.tag.rpartition("}")[2] for element in xml.fromstring(drawn).iter()}
    assert kinds <= {"svg", "title", "rect", "text", "path", "polygon", "polyline"}
    shown = Video(np.zeros((2, 16, 16, 3), np.uint8), 8, {"config": {"prompt": EVIL}})._repr_html_()
    reader = Reader()
    reader.feed(shown)
    assert {tag for tag, _ in reader.tags} == {"video", "source", "div"}
