"""A Video is a sequence of frames, and fits into any size in three ways."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cogvideox.errors import FrameError
from cogvideox.video import Video

FRAMES = np.arange(9, dtype=np.uint8)[:, None, None, None] * np.ones((9, 4, 6, 3), np.uint8)
VIDEO = Video(FRAMES, 8.0, {"kind": "generate"})


def test_a_place_is_a_frame_and_a_slice_is_a_video_of_the_same_rate_and_record():
    assert (
        len(VIDEO) == 9
        and VIDEO[0].shape == (4, 6, 3)
        and VIDEO[-1][0, 0, 0] == 8 == VIDEO[np.int64(8)][0, 0, 0]
    )
    part = VIDEO[2:5]
    assert isinstance(part, Video) and (len(part), part.fps, part.manifest) == (3, 8.0, VIDEO.manifest)
    assert [int(frame[0, 0, 0]) for frame in VIDEO[::-2]] == [8, 6, 4, 2, 0]
    assert [int(frame[0, 0, 0]) for frame in VIDEO[-3:]] == [6, 7, 8]
    assert [int(frame[0, 0, 0]) for frame in VIDEO] == list(range(9))
    assert VIDEO[::-1].to_tensor().shape == (1, 3, 9, 4, 6)


def test_frames_that_are_not_there_are_named():
    for place in (9, -10):
        with pytest.raises(IndexError, match=f"frame {place}: the video has 9"):
            VIDEO[place]
    with pytest.raises(FrameError, match="frames 5:2:None of 9"):
        VIDEO[5:2]
    with pytest.raises(TypeError):
        VIDEO["first"]


@pytest.mark.parametrize("size", [(8, 8), (4, 30), (30, 4), (4, 6), (1, 1)])
def test_contain_keeps_all_of_the_picture_between_black_bars(size):
    white = Video(np.full((2, 10, 20, 3), 255, np.uint8), 8.0).contain(*size)
    assert white.frames.shape == (2, *size, 3)
    rows, columns = (white.frames[0].max(axis=(axis, 2)) > 200 for axis in (1, 0))
    assert rows.any() and columns.any() and (rows.all() or columns.all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_pixels_become_bytes_before_they_come_to_the_host(dtype, monkeypatch):
    pixels = (1.2 * torch.randn(1, 3, 5, 6, 8, generator=torch.Generator().manual_seed(0))).to(dtype)
    whole = pixels[0].float().clamp(-1, 1).add(1).mul(127.5).round().byte().permute(1, 2, 3, 0).numpy()
    moved, plain = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda x: moved.append((x.dtype, x.nbytes)) or plain(x))
    frames = Video.from_tensor(pixels, 8.0).frames
    assert np.array_equal(frames, whole) and frames.flags.c_contiguous
    assert moved == [(torch.uint8, 3 * 5 * 6 * 8)]
