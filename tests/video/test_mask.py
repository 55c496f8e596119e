"""What is given as a mask and is none is refused with how a mask is written."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from PIL import Image

from cogvideox.errors import MediaError
from cogvideox.video import Video
from cogvideox.video.mask import read_mask


@pytest.mark.parametrize("source", ["8,8,16", "8,8,16,16,2", (8, 8, 16, 16)])
def test_what_is_no_box_says_how_a_box_is_written(source):
    with pytest.raises(MediaError, match="write a box as text, 'x,y,width,height'"):
        read_mask(source, Video(np.zeros((1, 32, 48, 3), np.uint8), 8.0))


VIDEO = Video(np.zeros((2, 32, 48, 3), np.uint8), 8.0)


@pytest.mark.parametrize(("box", "used"), [
    ("8,8,160,16", "8,8,40,16"), ("-4,0,8,8", "0,0,4,8"), ("0,30,48,9", "0,30,48,2"), ("-1,-1,99,99", "0,0,48,32"),
])  # fmt: skip
def test_a_box_that_reaches_beyond_the_video_is_cut_with_a_word(box, used):
    with pytest.warns(
        UserWarning, match=f"mask {box}: reaches beyond the video of 48x32; of it {used} is used"
    ):
        cut = read_mask(box, VIDEO)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (cut == read_mask(used, VIDEO)).all() and cut.any()


def test_a_picture_in_colour_is_no_mask_without_a_word(tmp_path):
    """A few coloured pixels, or the faint colours of a lossy file, are nothing; red for white is."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    red = np.zeros((32, 48, 3), np.uint8)
    red[8:16, 8:16, 0] = 255
    for name, picture in (("noise", noise), ("red", red)):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
        with pytest.warns(
            UserWarning, match=rf"remove .*{name}.png: in colour, and only its brightness counts"
        ):
            read_mask(tmp_path / f"{name}.png", VIDEO, "remove")
    with pytest.warns(UserWarning, match="mask: in colour"):
        read_mask(Video(noise[None].repeat(2, 0), 8.0), VIDEO)
    white = np.repeat(red[..., :1], 3, axis=2)
    Image.fromarray(white).save(tmp_path / "white.jpg", quality=30)
    Video(white[None].repeat(2, 0), 8.0).save(tmp_path / "white.mp4")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("white.jpg", "white.mp4"):
            assert read_mask(tmp_path / name, VIDEO).max() > 200
