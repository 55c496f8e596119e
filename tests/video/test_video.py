"""Videos and images in and out: what goes in comes out, what cannot be read is refused by name."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image

from cogvideox.errors import FrameError, MediaError, NumericsError, OutputError, SizeError
from cogvideox.files.atomic import atomic_file
from cogvideox.manifest import manifest, write_sidecar
from cogvideox.video import (
    DecodeLimits,
    Video,
    check_output,
    contact_sheet,
    file_info,
    probe,
    read_image,
    read_video,
    saving,
    video_info,
)


def moving_square(frames=9, height=32, width=48) -> np.ndarray:
    """A bright square on grey, one step to the right per frame."""
    pixels = np.full((frames, height, width, 3), 96, np.uint8)
    for i in range(frames):
        pixels[i, 8:24, 2 + 3 * i : 14 + 3 * i] = (220, 60, 40)
    return pixels


def numbered(frames: int) -> np.ndarray:
    """Frame i is plain grey of level 10 + 8 i, so a decoded frame says which one it is."""
    return np.stack([np.full((32, 32, 3), 10 + 8 * i, np.uint8) for i in range(frames)])


def which(frames: np.ndarray) -> list[int]:
    return [round((float(frame.mean()) - 10) / 8) for frame in frames]


def write_raw(path, frames, times, codec="libx264", rate=30, container=None, **stream_settings):
    """A file with chosen timestamps (in 1/1000 s) and stream settings, to test the reader."""
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for name, value in stream_settings.items():
            setattr(stream.codec_context, name, value)
        stream.codec_context.time_base = stream.time_base = av.time_base and __import__("fractions").Fraction(
            1, 1000
        )
        for array, moment in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = moment, stream.codec_context.time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


MADE = {
    "kind": "generate",
    "digitalSourceType": "made",
    "config": {"prompt": "a réd square\nmoves"},
    "seed": 7,
}


def test_saved_video_reads_back_with_its_colours_frames_and_rate(tmp_path):
    video = Video(moving_square(), 8.0)
    path = video.save(tmp_path / "a.mp4")
    back = read_video(path)
    assert (len(back), back.height, back.width, back.fps) == (9, 32, 48, 8.0)
    difference = np.abs(back.frames.astype(int) - video.frames)
    assert difference.mean() < 2.5  # 4:2:0 and crf 18


def test_the_same_frames_give_the_same_bytes_whatever_memory_held_before(tmp_path):
    """glibc fills what it hands out with MALLOC_PERTURB_, and x264's defaults read it; elsewhere this shows less."""
    make = (
        "import sys; from cogvideox.video import Video; from cogvideox.world import render, sample_scene;"
        "Video(render(sample_scene(0, 2), 64, 17), 8).save(sys.argv[1])"
    )
    digests = set()
    for fill in ("0", "85", "200"):
        file = tmp_path / f"{fill}.mp4"
        environment = os.environ | {"MALLOC_PERTURB_": fill}
        subprocess.run([sys.executable, "-c", make, str(file)], check=True, env=environment)
        digests.add(hashlib.sha256(file.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_plain_colours_survive_the_bt709_round_trip(tmp_path):
    for colour in [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (10, 128, 200)]:
        frames = np.full((2, 32, 32, 3), colour, np.uint8)
        back = read_video(Video(frames, 8.0).save(tmp_path / "c.mp4", overwrite=True))
        assert np.abs(back.frames.astype(int) - frames).max() <= 4, colour


def test_mp4_is_what_players_expect(tmp_path):
    path = Video(moving_square(), 8.0, MADE).save(tmp_path / "a.mp4")
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # the index stands in front
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
        assert (int(codec.colorspace), int(codec.color_trc), int(codec.color_primaries)) == (1, 1, 1)
        tags = container.metadata
    assert tags["title"] == "a réd square moves"
    assert json.loads(tags["comment"]) == MADE


def test_what_made_it_stands_beside_it(tmp_path):
    path = Video(moving_square(), 8.0, MADE).save(tmp_path / "red.mp4")
    assert json.loads((tmp_path / "red.json").read_text()) == MADE
    assert sorted(p.name for p in tmp_path.iterdir()) == ["red.json", path.name]


def test_without_metadata_only_the_label_stays(tmp_path):
    path = Video(moving_square(), 8.0, MADE).save(tmp_path / "red.mp4", metadata=False)
    assert [p.name for p in tmp_path.iterdir()] == ["red.mp4"]
    with av.open(str(path)) as container:
        assert json.loads(container.metadata["comment"]) == {"digitalSourceType": "made"}
        assert "title" not in container.metadata
    assert b"square" not in path.read_bytes()


@pytest.mark.parametrize("height, width", [(1, 1), (31, 47), (17, 16), (2, 300)])
def test_odd_sizes_are_padded_to_even_by_repeating_a_line(tmp_path, height, width):
    frames = np.random.default_rng(0).integers(90, 110, (3, height, width, 3), dtype=np.uint8)
    back = read_video(Video(frames, 8.0).save(tmp_path / "odd.mp4"))
    assert (back.height, back.width) == (height + height % 2, width + width % 2)
    assert np.abs(back.frames[:, :height, :width].astype(int) - frames).mean() < 10


@pytest.mark.parametrize("fps", [1, 7.5, 8, 16, 24000 / 1001, 29.97, 60, 240])
def test_frame_rates_survive(tmp_path, fps):
    header = probe(Video(numbered(5), fps).save(tmp_path / "rate.mp4"))
    assert header.fps == pytest.approx(fps, rel=1e-3)
    assert header.frames == 5


@pytest.mark.parametrize("suffix, codec", [("webm", "libvpx-vp9"), ("mkv", "libx264"), ("avi", "mpeg4")])
def test_other_containers_are_read(tmp_path, suffix, codec):
    path = write_raw(tmp_path / f"v.{suffix}", numbered(6), range(0, 600, 100), codec, rate=10)
    assert which(read_video(path, fps=10).frames) == list(range(6))


def test_gif_goes_out_and_in(tmp_path):
    path = Video(numbered(6), 10.0).save(tmp_path / "a.gif")
    back = read_video(path)
    assert which(back.frames) == list(range(6))
    assert back.fps == pytest.approx(10.0)


def test_a_still_keeps_its_frames_in_a_gif(tmp_path):
    path = Video(np.full((9, 32, 48, 3), 99, np.uint8), 10.0, MADE).save(tmp_path / "still.gif")
    assert len(read_video(path)) == 9
    with Image.open(path) as image:
        assert image.n_frames == 9 and image.info["duration"] == 100
        assert image.info["comment"].startswith(b'{"digitalSourceType": "made"}')


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_a_rate_that_no_file_keeps_is_refused(tmp_path, suffix):
    with pytest.raises(FrameError, match="fps 0.0001"):
        Video(numbered(2), 0.0001).save(tmp_path / f"slow.{suffix}")
    assert probe(Video(numbered(2), 0.01).save(tmp_path / f"slow.{suffix}")).fps == pytest.approx(0.01)


def test_an_old_record_of_ours_goes_with_its_video_and_no_other_does(tmp_path):
    video = Video(moving_square(), 8.0, MADE)
    ours = MADE | {"digitalSourceType": saving.AI_MADE, "config_hash": "0" * 16}
    for name, text in (("ours", json.dumps(ours)), ("theirs", '{"mine": 1}')):
        (tmp_path / f"{name}.json").write_text(text)
        video.save(tmp_path / f"{name}.mp4", overwrite=True, metadata=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ours.mp4", "theirs.json", "theirs.mp4"]


def test_frames_are_chosen_by_timestamp_not_by_count(tmp_path):
    """Variable rate: ten frames in the first second, then one held for a second."""
    times = [*range(0, 1000, 100), 2000]
    path = write_raw(tmp_path / "vfr.mkv", numbered(11), times)
    wanted = [round(i * 1000 / 5) for i in range(11)]
    nearest = [int(np.argmin([abs(t - w) for t in times])) for w in wanted]
    assert which(read_video(path, fps=5).frames) == nearest


def test_a_start_after_zero_is_the_first_frame(tmp_path):
    path = write_raw(tmp_path / "late.mkv", numbered(5), range(3000, 3500, 100))
    assert which(read_video(path, fps=10).frames) == list(range(5))


def test_lower_and_higher_rates_sample_the_same_time(tmp_path):
    path = Video(numbered(16), 16.0).save(tmp_path / "v.mp4")
    assert which(read_video(path, fps=8).frames) == list(range(0, 16, 2))
    assert which(read_video(path, fps=32, max_frames=4).frames) == [0, 0, 1, 1]
    assert which(read_video(path, max_frames=3).frames) == [0, 1, 2]


def test_pixels_that_are_not_square_become_square(tmp_path):
    frames = moving_square(3, 32, 32)
    path = write_raw(tmp_path / "sar.mkv", frames, [0, 100, 200], sample_aspect_ratio=Fraction(2, 1))
    assert (probe(path).width, probe(path).height) == (64, 32)
    assert read_video(path).frames.shape[1:3] == (32, 64)


def test_hdr_is_refused(tmp_path):
    path = write_raw(tmp_path / "pq.mkv", numbered(2), [0, 100], color_trc=16)
    with pytest.raises(MediaError, match="HDR"):
        read_video(path)


@pytest.mark.parametrize("keep", [0, 1, 40, 500, 0.3, 0.6, 0.9])
def test_a_truncated_video_is_refused(tmp_path, keep):
    noise = np.random.default_rng(0).integers(0, 255, (24, 32, 32, 3), dtype=np.uint8)
    whole = Video(noise, 8.0).save(tmp_path / "v.mp4").read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: keep if keep >= 1 else int(len(whole) * keep)])
    with pytest.raises(MediaError) as caught:
        read_video(cut)
    assert "cut.mp4" in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_videos_give_frames_or_one_error(tmp_path):
    whole = Video(moving_square(), 8.0).save(tmp_path / "v.mp4").read_bytes()
    random = np.random.default_rng(3)
    path = tmp_path / "m.mp4"
    for _ in range(60):
        data = bytearray(whole)
        for place in random.integers(0, len(data), 12):
            data[place] = random.integers(0, 256)
        path.write_bytes(data)
        try:
            assert 1 <= len(read_video(path)) <= 4096
        except MediaError as error:
            assert "m.mp4" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    "data",
    [
        b"#EXTM3U\n#EXTINF:1,\nother.mp4\n",
        b"ffconcat version 1.0\nfile other.mp4\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"plain text",
    ],
)
def test_files_that_point_elsewhere_are_not_followed(tmp_path, data):
    Video(numbered(2), 8.0).save(tmp_path / "other.mp4")
    path = tmp_path / "list.mp4"
    path.write_bytes(data)
    with pytest.raises(MediaError, match="not a video"):
        read_video(path)


def test_sound_only_is_refused(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    with pytest.raises(MediaError, match="no video in it"):
        read_video(path)


@pytest.mark.parametrize(
    "limits, word",
    [
        (DecodeLimits(video_pixels=1000), "scale it down"),
        (DecodeLimits(frames=4), "more than 4 frames"),
        (DecodeLimits(kept_bytes=10_000), "the limit is"),
        (DecodeLimits(file_bytes=100), "the limit is"),
        (DecodeLimits(wall_seconds=-1), "decoding took"),
    ],
)
def test_limits_are_named(tmp_path, limits, word):
    path = Video(moving_square(), 8.0).save(tmp_path / "v.mp4")
    with pytest.raises(MediaError, match=word):
        read_video(path, limits=limits)


@pytest.mark.parametrize("path", ["no/such.mp4", "", ".", "/dev/null", "a\0b.mp4"])
def test_paths_that_are_not_files_are_refused(path):
    for read in (read_video, read_image, probe):
        with pytest.raises(MediaError):
            read(path)


# Images


def test_image_round_trip_and_orientation(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == pixels).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to show
    Image.fromarray(pixels).save(tmp_path / "r.png", exif=exif)
    assert (read_image(tmp_path / "r.png") == np.rot90(pixels, -1)).all()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    if mode == "I;16":
        image = Image.fromarray(np.full((5, 7), 65535, np.uint16))
    else:
        image = Image.new("RGB", (7, 5), (255, 255, 255)).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    assert (read_image(path) == 255).all() and read_image(path).shape == (5, 7, 3)


def test_transparency_lies_over_white(tmp_path):
    Image.new("RGBA", (2, 2), (200, 0, 0, 0)).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == 255).all()


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(MediaError, match="limit"):
        read_image(tmp_path / "bomb.png")
    Image.new("1", (7000, 7000)).save(tmp_path / "large.png")
    with pytest.raises(MediaError, match="7000x7000"):
        read_image(tmp_path / "large.png")


def test_damaged_images_give_pixels_or_one_error(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    random = np.random.default_rng(1)
    for kind in ("png", "jpg", "webp", "gif", "bmp", "tif"):
        Image.fromarray(pixels).save(tmp_path / f"a.{kind}")
        whole = (tmp_path / f"a.{kind}").read_bytes()
        for trial in range(12):
            data = bytearray(whole[: len(whole) * (trial + 1) // 12])
            for place in random.integers(0, len(data), 5):
                data[place] = random.integers(0, 256)
            (tmp_path / f"m.{kind}").write_bytes(data)
            try:
                assert read_image(tmp_path / f"m.{kind}").shape[2] == 3
            except MediaError as error:
                assert f"m.{kind}" in str(error) and "\n" not in str(error)


# The value


def test_tensor_round_trip_is_exact():
    video = Video(moving_square(), 8.0)
    tensor = video.to_tensor()
    assert tuple(tensor.shape) == (1, 3, 9, 32, 48) and tensor.min() >= -1 and tensor.max() <= 1
    assert (Video.from_tensor(tensor, 8.0).frames == video.frames).all()


def test_from_tensor_clamps_and_refuses_nan():
    tensor = Video(moving_square(), 8.0).to_tensor() * 3
    assert Video.from_tensor(tensor, 8).frames.max() == 255
    tensor[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(NumericsError, match="1 of"):
        Video.from_tensor(tensor, 8)


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (20, 90), (32, 48), (33, 1)])
def test_cover_fills_the_target_and_keeps_the_centre(size):
    video = Video(moving_square(2), 8.0)
    assert video.cover(*size).frames.shape == (2, *size, 3)
    assert video.resize(*size).frames.shape == (2, *size, 3)


def test_cover_cuts_the_centre():
    frames = np.zeros((1, 10, 30, 3), np.uint8)
    frames[:, :, 10:20] = 255
    assert (Video(frames, 8.0).cover(10, 10).frames == 255).all()


def test_frames_that_would_be_cut_away_are_not_enlarged_first():
    """One of 60,000 x 1 pixels took eleven gigabytes to become 32 x 32."""
    frames = np.zeros((1, 1, 60_000, 3), np.uint8)
    for video in (Video(frames, 8.0), Video(frames.transpose(0, 2, 1, 3).copy(), 8.0)):
        with pytest.raises(MediaError, match="less than 1/64 of it would be left"):
            video.cover(32, 32)
        assert video.contain(32, 32).frames.shape == video.resize(32, 32).frames.shape == (1, 32, 32, 3)
    assert Video(frames[:, :, :64], 8.0).cover(32, 32).frames.shape == (1, 32, 32, 3)


def test_what_is_not_a_video_is_refused():
    good = moving_square()
    for frames in (good.astype(np.float32), good[0], good[..., :2], good[:0], [1, 2]):
        with pytest.raises(MediaError, match="uint8"):
            Video(frames, 8.0)
    for fps in (0, -1, float("nan"), float("inf"), 1000):
        with pytest.raises(FrameError, match="fps"):
            Video(good, fps)
    with pytest.raises(SizeError):
        Video(good, 8.0).resize(0, 10)


def test_a_notebook_shows_the_video_and_escapes_the_prompt():
    shown = Video(moving_square(), 8.0, {"config": {"prompt": "<script>"}})._repr_html_()
    assert "data:video/mp4;base64," in shown and "<script>" not in shown


# Saving


@pytest.mark.parametrize("suffix", ["mp4", "gif", "png"])
def test_an_existing_file_is_kept_unless_told(tmp_path, suffix):
    video, path = Video(moving_square(), 8.0), tmp_path / f"a.{suffix}"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        video.save(path)
    assert path.read_text() == "mine"
    assert video.save(path, overwrite=True).stat().st_size > 100
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_an_existing_sidecar_is_kept_unless_told(tmp_path):
    (tmp_path / "a.json").write_text("mine")
    with pytest.raises(OutputError, match="a.json: exists already"):
        Video(moving_square(), 8.0, MADE).save(tmp_path / "a.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("name", ["a.avi", "a", "folder.mp4", "file.txt/a.mp4", "a.json", "b\0.mp4"])
def test_bad_output_names_are_refused(tmp_path, name):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(OutputError) as caught:
        Video(moving_square(), 8.0).save(f"{tmp_path}/{name}")
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.txt", "folder.mp4"]


def test_missing_folders_are_made_when_saving_only(tmp_path):
    path = check_output(tmp_path / "x" / "y" / "a.mp4")
    assert not (tmp_path / "x").exists()
    assert Video(moving_square(), 8.0).save(path).is_file()


@pytest.mark.parametrize("suffix", ["mp4", "gif", "png"])
def test_a_full_disk_leaves_nothing_behind(tmp_path, suffix):
    """Under a file size limit the real encoder meets a real error of the system."""
    import resource
    import signal

    frames = np.random.default_rng(0).integers(0, 255, (9, 128, 128, 3), dtype=np.uint8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            Video(frames, 8.0).save(tmp_path / f"a.{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["write_mp4", "write_json"])
def test_an_interrupted_save_leaves_nothing_behind(tmp_path, monkeypatch, error, step):
    import cogvideox.video.video as value

    def fails(path, *rest):
        if step == "write_mp4":
            path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(value, step, fails)
    with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt):
        Video(moving_square(), 8.0, MADE).save(tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_overwrite_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("old")
    monkeypatch.setattr(
        os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OutputError, match="No space"), atomic_file(path, overwrite=True) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_silently_short_file_is_noticed(tmp_path, monkeypatch):
    path = Video(numbered(5), 8.0).save(tmp_path / "a.mp4")
    with pytest.raises(OSError, match="only 5 of 6"):
        saving._check_whole(path, 6)


# Contact sheet


def test_contact_sheet_has_a_row_per_video_and_a_caption_under_it():
    videos = [Video(moving_square(), 8.0), SimpleNamespace(frames=numbered(2))]
    plain = contact_sheet(videos, columns=4, cell_height=64)
    captioned = contact_sheet(videos, ["a red square moves to the right", "grey"], columns=4, cell_height=64)
    assert plain.width == 4 * 96 + 3 * 4 and plain.height == 2 * 64 + 2 * 4
    assert captioned.height > plain.height
    assert np.asarray(plain)[0, 0].tolist() == [96, 96, 96]


def test_contact_sheet_refuses_what_does_not_match():
    with pytest.raises(MediaError, match="no videos"):
        contact_sheet([])
    with pytest.raises(MediaError, match="2 captions for 1"):
        contact_sheet([Video(moving_square(), 8.0)], ["a", "b"])


def test_gif_preview_enlarges_tiny_frames(tmp_path):
    saving.write_gif(tmp_path / "p.gif", moving_square(), 8.0, least_height=100)
    with Image.open(tmp_path / "p.gif") as image:
        assert image.size == (48 * 4, 32 * 4) and image.n_frames == 9


def test_what_a_file_says_of_itself(tmp_path):
    """Header and manifest, from the tags or from the file beside it; nothing of a stranger's JSON is taken for ours."""
    manifest = {"kind": "generate", "config": {"prompt": "a red circle", "seed": 7, "image": None}}
    made = Video(np.zeros((9, 32, 48, 3), np.uint8), 8, manifest).save(tmp_path / "made.mp4")
    told = video_info(made)
    assert told.manifest["config"]["seed"] == 7 and (told.probe.width, told.probe.frames) == (48, 9)
    assert "prompt    a red circle" in told.to_text() and "image" not in told.to_text()
    gif = Video(np.zeros((9, 32, 48, 3), np.uint8), 8, manifest).save(tmp_path / "moving.gif")
    assert video_info(gif).manifest["config"]["prompt"] == "a red circle"
    plain = Video(np.zeros((9, 32, 48, 3), np.uint8), 8).save(tmp_path / "plain.mp4")
    (tmp_path / "plain.json").write_text('{"prompt": "not ours"}')
    assert video_info(plain).manifest == {} and "no word of what made it" in video_info(plain).to_text()


def test_what_a_picture_and_a_record_say_of_themselves(tmp_path):
    """A video may be a picture (``--out x.png``) with its record beside it."""
    made = Video(np.zeros((1, 32, 48, 3), np.uint8), 8).save(tmp_path / "made.png")
    told = file_info(made)
    assert told.manifest == {} or "digitalSourceType" in told.manifest
    assert "prompt" not in told.to_text()
    record = manifest("generate", {"prompt": "a red circle", "image": None}, {}, 7)
    write_sidecar(made, record)
    told = file_info(made)
    assert told.manifest["seed"] == 7 and "prompt    a red circle" in told.to_text()
    assert "kind      picture" in told.to_text() and json.loads(told.to_json())["form"] == "PNG"
    beside = file_info(tmp_path / "made.json")
    assert beside.manifest["config"]["prompt"] == "a red circle"
    assert "kind      record (generate)" in beside.to_text() and "prompt    a red circle" in beside.to_text()
    (tmp_path / "config.json").write_text('{"_class_name": "CogVideoXTransformer3DModel"}')
    with pytest.raises(MediaError, match=r"config.json: JSON, but no record of a video"):
        file_info(tmp_path / "config.json")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG and no more")
    with pytest.raises(MediaError, match="give a whole picture"):
        file_info(tmp_path / "broken.png")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_further_tags_stand_beside_our_own(tmp_path, suffix):
    video = Video(np.zeros((2, 16, 16, 3), np.uint8), 8.0, {"config": {"prompt": "a ball"}})
    path = video.save(tmp_path / f"a{suffix}", tags={"workflow": '{"nodes": []}'})
    with av.open(str(path)) as container:
        tags = {name.lower(): value for name, value in container.metadata.items()}
    assert tags["workflow"] == '{"nodes": []}' and tags["title"] == "a ball" and "config" in tags["comment"]


@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_tags_that_a_file_cannot_keep_are_refused_and_nothing_is_written(tmp_path, suffix):
    with pytest.raises(OutputError, match="tags workflow: .*keeps none; name it .mp4 or .mkv"):
        Video(np.zeros((2, 16, 16, 3), np.uint8), 8.0).save(tmp_path / f"a{suffix}", tags={"workflow": "x"})
    assert not list(tmp_path.iterdir())
