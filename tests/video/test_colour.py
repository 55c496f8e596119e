"""Which colours a file means, and which way up it is: by its tags, and told where it had to be guessed."""

from __future__ import annotations

import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from cogvideox.data.clips import ClipSize
from cogvideox.data.doctor import diagnose
from cogvideox.video import Video, open_decoder, probe, read_video, video_info
from cogvideox.video.orientation import from_matrix

MATRICES = {"bt709": (1, 0.2126, 0.0722), "bt601": (5, 0.299, 0.114), "bt2020": (9, 0.2627, 0.0593)}
PATCHES = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (240, 240, 240), (16, 16, 16), (10, 128, 200)]


def write_patches(path, matrix, *, size=(96, 64), tag=None, full=False, pixel_format="yuv444p", codec="ffv1"):
    """A file whose numbers were made by ``matrix`` by hand: six patches of colour; ``tag``: what it says."""
    _, red, blue = MATRICES[matrix]
    width, height = size
    rgb = np.repeat(np.repeat(np.array(PATCHES) / 255, width // 6, 0)[None], height, 0)
    luma = rgb @ np.array([red, 1 - red - blue, blue])
    planes = [luma, (rgb[..., 2] - luma) / (2 - 2 * blue), (rgb[..., 0] - luma) / (2 - 2 * red)]
    top = 4 if "10" in pixel_format else 1
    scale, zero = ((255, 255), 0) if full else ((219, 224), 16)
    numbers = [planes[0] * scale[0] + zero, planes[1] * scale[1] + 128, planes[2] * scale[1] + 128]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(8))
        stream.width, stream.height, stream.pix_fmt = width - width % 6, height, pixel_format
        if tag is not None:
            stream.codec_context.colorspace = MATRICES[tag][0]
        stream.codec_context.color_range = 2 if full else 1
        for _ in range(9):
            frame = av.VideoFrame(stream.width, stream.height, pixel_format)
            for plane, values in zip(frame.planes, numbers, strict=True):
                kind = np.uint16 if top > 1 else np.uint8
                rows = np.zeros((plane.height, plane.line_size // kind().itemsize), kind)
                rows[:, : plane.width] = (values * top).round().clip(0, 256 * top - 1)
                plane.update(rows.tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def worst(video) -> int:
    """The largest error of any patch's middle."""
    step = video.width // 6
    seen = video.frames[0, video.height // 2, step // 2 :: step][:6].astype(int)
    return int(np.abs(seen - np.array(PATCHES)).max())


@pytest.mark.parametrize("matrix", list(MATRICES))
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pixel_format", ["yuv444p", "yuv444p10le"])
def test_what_is_tagged_is_read_as_it_says(tmp_path, matrix, full, pixel_format):
    path = write_patches(tmp_path / "v.mkv", matrix, tag=matrix, full=full, pixel_format=pixel_format)
    assert worst(read_video(path)) <= 2 and worst(read_video(path, colour="bt601")) <= 2
    colours = probe(path).colours
    assert (colours.matrix, colours.full, colours.guessed) == (matrix, full, False)


@pytest.mark.parametrize(
    "size, matrix", [((1284, 720), "bt709"), ((1284, 534), "bt709"), ((642, 480), "bt601")]
)
def test_untagged_hd_is_bt709_and_less_is_bt601_and_it_is_said(tmp_path, size, matrix):
    path = write_patches(tmp_path / "v.mkv", matrix, size=size, codec="libx264")
    assert worst(read_video(path)) <= 4
    with open_decoder(path) as walking:
        pixels = next(iter(walking.frames()))[1].pixels(walking.size)
    assert worst(Video(pixels[None], 8)) <= 4
    colours = probe(path).colours
    assert (colours.matrix, colours.guessed) == (matrix, True)
    assert f"colours   {matrix}, limited range (a guess by the frame size)" in video_info(path).to_text()


def test_a_setting_says_what_untagged_files_of_a_folder_are(tmp_path):
    path = write_patches(tmp_path / "v.mkv", "bt601", size=(1284, 720), codec="libx264")
    assert worst(read_video(path)) > 10 and worst(read_video(path, colour="bt601")) <= 4
    (tmp_path / "v.txt").write_text("six patches of colour")
    small = ClipSize(frames=9, short_side=64)
    guessed = diagnose(tmp_path, small).to_text()
    assert "no colour tag: read as bt709, limited range (a guess by the frame size)" in guessed
    assert "no colour tag" not in diagnose(tmp_path, small, colour="bt601").to_text()


def test_the_doctor_tells_the_guess_also_of_clips_that_have_no_caption_yet(tmp_path):
    write_patches(tmp_path / "v.mkv", "bt601", size=(1284, 720), codec="libx264")
    report = diagnose(tmp_path, ClipSize(frames=9, short_side=64))
    assert not report.kept and "no caption" in report.dropped["v.mkv"]
    assert "no colour tag: read as bt709" in report.remarks["v.mkv"][0]
    assert "none of 1 clips has a caption" in report.remarks["the folder"][0]


@pytest.mark.parametrize("codec, pixel_format", [("utvideo", "gbrp"), ("ffv1", "bgr0")])
def test_rgb_needs_no_matrix_whatever_its_size(tmp_path, codec, pixel_format):
    path = tmp_path / ("v.avi" if codec == "utvideo" else "v.mkv")
    frames = np.random.default_rng(0).integers(0, 255, (1, 720, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 720, pixel_format
        frame = av.VideoFrame.from_ndarray(frames[0], format="rgb24").reformat(format=pixel_format)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert (read_video(path).frames == frames).all()
    assert str(probe(path).colours) == "rgb"


def test_our_own_hd_file_is_tagged_and_comes_back(tmp_path):
    frames = np.repeat(np.array(PATCHES, np.uint8)[None, None], 720, 1).repeat(64, 2)
    path = Video(frames, 8.0).save(tmp_path / "v.mp4")
    assert worst(read_video(path)) <= 4 and not probe(path).colours.guessed


EIGHT = {  # x' = a x + c y, y' = b x + d y, and what numpy does
    (1, 0, 0, 1): lambda p: p,
    (0, 1, -1, 0): lambda p: np.rot90(p, -1),
    (-1, 0, 0, -1): lambda p: np.rot90(p, 2),
    (0, -1, 1, 0): lambda p: np.rot90(p, 1),
    (-1, 0, 0, 1): lambda p: p[:, ::-1],
    (1, 0, 0, -1): lambda p: p[::-1],
    (0, 1, 1, 0): lambda p: p.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda p: p[::-1, ::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize("matrix", list(EIGHT))
def test_each_of_the_eight_display_matrices_is_read(tmp_path, matrix):
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:16, :32], picture[:16, 32:], picture[16:, :32] = (220, 30, 30), (30, 220, 30), (30, 30, 220)
    data = bytearray(Video(np.stack([picture] * 3), 8.0).save(tmp_path / "v.mp4").read_bytes())
    place = (
        data.index(b"tkhd") + 4 + 40
    )  # version and flags, 20 bytes of times and names, 16 of layers and volume
    assert struct.unpack_from(">9i", data, place) == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    a, b, c, d = (65536 * value for value in matrix)
    struct.pack_into(">9i", data, place, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "o.mp4").write_bytes(data)
    wanted = EIGHT[matrix](picture)
    video = read_video(tmp_path / "o.mp4")
    assert video.frames.shape[1:] == wanted.shape
    assert np.abs(video.frames[1].astype(int) - wanted).mean() < 6
    with open_decoder(tmp_path / "o.mp4") as walking:
        pixels = next(iter(walking.frames()))[1].pixels(walking.size)
    assert np.abs(pixels.astype(int) - wanted).mean() < 6
    header = probe(tmp_path / "o.mp4")
    assert (header.height, header.width) == wanted.shape[:2]
    assert ("orientation" in video_info(tmp_path / "o.mp4").to_text()) == (matrix != (1, 0, 0, 1))


def test_slanted_and_empty_matrices_are_the_nearest_of_the_eight():
    assert str(from_matrix(0.9, 0.3, -0.3, 0.9)) == str(from_matrix(0, 0, 0, 0)) == "as stored"
    assert str(from_matrix(-1, 0, 0, 1)) == "mirrored left to right"
    assert str(from_matrix(0.1, 1, -1, 0.1)) == "turned 90 degrees to the right"
