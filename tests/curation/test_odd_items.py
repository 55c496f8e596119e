"""One odd item beside many good ones is named and dropped; the run goes on and nothing waits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from cogvideox.cli import app
from cogvideox.clip_folders.video_files import LeftOut, list_videos, walk_videos
from cogvideox.curation import engines, worker
from cogvideox.curation.patterns import bars_of, plain_of
from cogvideox.curation.recipe import default, tiny
from cogvideox.curation.run import curate
from cogvideox.errors import ConfigError
from support.films import take, write

SMALL = tiny().override(["shots.min_seconds=0.5"])


class InProcess:
    """Does jobs here: a quarter of a second cheaper than a worker, and as pure."""

    def run(self, jobs, order):
        for job in jobs:
            worker.do(job, order)
            yield engines.JobOutcome(job)


def fates(out: Path) -> dict[str, str]:
    dropped = [json.loads(line) for line in (out / "dropped.jsonl").read_text().splitlines()]
    return {row["source"]["path"]: row["dropped"]["reason"] for row in dropped}


@pytest.mark.filterwarnings("ignore:.*left out")
def test_names_links_and_depth_that_are_odd_are_named_and_the_rest_is_curated(tmp_path, request):
    root, out = tmp_path / "films", tmp_path / "out"
    write(root / "good.mp4", take(1, 12))
    film = (root / "good.mp4").read_bytes()
    with open(os.fsencode(root) + b"/caf\xe9.mp4", "wb") as stream:
        stream.write(film)
    (root / "self.mp4").symlink_to("self.mp4")
    (root / "loop").symlink_to(root)
    (root / "passwd.mp4").symlink_to("/etc/passwd")
    os.mkfifo(root / "pipe.mp4")
    (root / "folder.mp4").mkdir()
    request.addfinalizer(
        lambda: subprocess.run(["rm", "-rf", root / "d"], check=True)
    )  # too deep for pytest's own
    place = os.open(root, os.O_RDONLY)
    for _ in range(2100):
        os.mkdir("d", dir_fd=place)
        inner = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.close(place)
    assert curate(root, out, SMALL, InProcess())["kept"] == 1
    found = fates(out)
    deep = next(name for name in found if name.endswith("d/d"))
    assert {name: why for name, why in found.items() if name != deep} == {
        r"caf\xe9.mp4": "its name is not UTF-8",
        "loop": "folder left out",
        "self.mp4": "a link to nothing",
        "passwd.mp4": "a link out of the folder",
        "pipe.mp4": "no ordinary file",
    }
    assert found[deep] == "folder left out"
    with pytest.warns(UserWarning, match="left out") as told:
        assert [one.path for one in list_videos(root)] == ["good.mp4"]
    assert len(told) == 6 == sum(isinstance(one, LeftOut) for one in walk_videos(root))
    captioned = CliRunner().invoke(
        app, ["caption", str(root), "--strategy", "ask", "--ask", "rules", "--out", str(tmp_path / "c")]
    )
    assert captioned.exit_code == 3 and "unexpected" not in captioned.stderr
    records = [json.loads(line) for line in (tmp_path / "c" / "records.jsonl").read_text().splitlines()]
    assert {row["file"] for row in records} == {*found, "good.mp4"}


@pytest.mark.parametrize("beside", ["pipe", "device", "link", "bytes", "long", "loop", "folder"])
def test_a_text_beside_a_film_that_is_none_drops_that_film_and_waits_for_nothing(tmp_path, beside):
    root, out = tmp_path / "films", tmp_path / "out"
    for name in ("a", "b"):
        write(root / f"{name}.mp4", take(ord(name), 12))
    text = root / "a.txt"
    {
        "pipe": lambda: os.mkfifo(text),
        "device": lambda: text.symlink_to("/dev/zero"),
        "link": lambda: text.symlink_to("/etc/passwd"),
        "bytes": lambda: text.write_bytes(b"caf\xe9"),
        "long": lambda: text.write_bytes(b"word " * 20_000),
        "loop": lambda: text.symlink_to("a.txt"),
        "folder": text.mkdir,
    }[beside]()
    (root / "b.json").write_text("[" * 100_000)
    began = time.monotonic()
    assert curate(root, out, SMALL, InProcess())["kept"] == 1
    assert time.monotonic() - began < 30 and fates(out) == {"a.mp4": "caption unreadable"}
    everything_written = b"".join(p.read_bytes() for p in out.rglob("*") if p.is_file())
    assert b"root:" not in everything_written and str(root).encode() not in everything_written
    text.rmdir() if beside == "folder" else text.unlink()
    text.write_text("Mended.")
    assert curate(root, out, SMALL, InProcess())["kept"] == 2, "a text that was mended is read anew"


def test_a_recipe_that_is_a_bomb_is_refused_at_once(tmp_path):
    levels = ["&a0 [x,x,x,x,x,x,x,x,x]"] + [f"&a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 11)]
    (tmp_path / "bomb.yaml").write_text(f"name: [{', '.join(levels)}]\n")
    (tmp_path / "deep.yaml").write_text("name: " + "[" * 50_000)
    for name in ("bomb.yaml", "deep.yaml"):
        command = [
            sys.executable,
            "-m",
            "cogvideox",
            "curate",
            ".",
            "--recipe",
            str(tmp_path / name),
            "--dry-run",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and len(done.stderr) < 600
        assert name in done.stderr and "unexpected" not in done.stderr


def test_a_misspelt_score_in_a_recipe_is_an_error_with_a_suggestion(tmp_path):
    text = default().to_yaml()
    (tmp_path / "mine.yaml").write_text(text.replace("score: motion_top", "score: motion_tpo"))
    done = CliRunner().invoke(app, ["curate", ".", "--recipe", str(tmp_path / "mine.yaml"), "--dry-run"])
    assert (
        done.exit_code == 2
        and "rule motion_tpo" in done.stderr
        and "did you mean 'motion_top'?" in done.stderr
    )
    with pytest.raises(ConfigError, match="rule label.txt.*did you mean 'label.text'"):
        tiny().override(["steps=[{kind: labels}]", "choices=[{kind: thresholds, stages: [{name: a, rules: "
                         "[{score: label.txt, most: 0.5}]}]}]"])  # fmt: skip
    with pytest.raises(ConfigError, match="rule frozen: no step of this recipe gives that score"):
        tiny().override(["steps=[{kind: light}]"])


def pictures(source: str) -> np.ndarray:
    with av.open(f"{source}=size=456x256:rate=8", format="lavfi") as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


@pytest.mark.parametrize(
    "source", ["smptebars", "smptehdbars", "pal75bars", "pal100bars", "testsrc", "testsrc2", "rgbtestsrc"]
)
def test_bars_of_test_signals_are_seen(source):
    try:
        picture = pictures(source)
    except av.error.FFmpegError:
        pytest.skip("this FFmpeg draws no such picture")
    assert bars_of(picture) > 0.3
    noisy = picture.astype(np.int16) + np.random.default_rng(0).integers(-1, 2, picture.shape)
    assert bars_of(noisy.clip(0, 255).astype(np.uint8)) > 0.3


def test_titles_are_plain_and_footage_is_neither():
    for ground, ink in (
        ((0, 0, 0), (255, 255, 255)),
        ((50, 60, 70), (250, 220, 0)),
        ((255, 255, 255), (0, 0, 0)),
    ):
        title = np.full((256, 456, 3), ground, np.uint8)
        cv2.putText(title, "THANKS FOR", (60, 110), cv2.FONT_HERSHEY_SIMPLEX, 1.6, ink, 4, cv2.LINE_AA)
        cv2.putText(title, "WATCHING", (90, 180), cv2.FONT_HERSHEY_SIMPLEX, 1.6, ink, 4, cv2.LINE_AA)
        assert plain_of(title) > 0.85 and bars_of(title) == 0
    for number in range(4):
        footage = cv2.resize(take(number, 1, 128, 228)[0], (456, 256))
        assert plain_of(footage) < 0.5 and bars_of(footage) < 0.05
    sky = np.linspace((90, 140, 250), (190, 210, 255), 256)[:, None].repeat(456, axis=1).astype(np.uint8)
    assert plain_of(sky) < 0.6 and bars_of(sky) < 0.05


def test_the_default_recipe_drops_bars_and_titles_and_keeps_footage(tmp_path):
    footage = [cv2.resize(frame, (456, 256)) for frame in take(3, 24, 128, 228, speed=3)]
    write(tmp_path / "films" / "footage.mp4", np.stack(footage))
    bars = np.stack([pictures("smptebars")] * 24)
    for number, frame in enumerate(bars):  # a clock runs in it, as in most of them
        cv2.putText(
            frame,
            f"00:{number:02d}",
            (150 + 2 * number, 120),
            cv2.FONT_HERSHEY_SIMPLEX,
            1.4,
            (255, 255, 255),
            3,
        )
    write(tmp_path / "films" / "bars.mp4", bars)
    title = np.full((24, 256, 456, 3), (50, 60, 70), np.uint8)
    for number, frame in enumerate(title):
        cv2.putText(
            frame,
            "THE END",
            (60 + 4 * number, 140),
            cv2.FONT_HERSHEY_SIMPLEX,
            2,
            (250, 220, 0),
            5,
            cv2.LINE_AA,
        )
    write(tmp_path / "films" / "title.mp4", title)
    stages: list[tuple[str, int, int]] = []
    curate(tmp_path / "films", tmp_path / "out", default(), InProcess(), lambda *said: stages.append(said))
    found = fates(tmp_path / "out")
    assert set(found) == {"bars.mp4", "title.mp4"} and found["bars.mp4"] == "bars high"
    for stage in ("measuring", "choosing", "cutting", "pictures for the report", "writing tables"):
        assert [said for said in stages if said[0] == stage], f"{stage} says nothing"
    assert ("cutting", 1, 1) in stages
