"""Frames on disk: an array like any other, without a file that stays, in memory that can be given back."""

from __future__ import annotations

import gc
import mmap
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from cogvideox.errors import OutputError
from cogvideox.video import Video, read_video
from cogvideox.video.spool import forget_pages, frames_on_disk, passing


def filled(count=40, height=32, width=48):
    frames = frames_on_disk(count, height, width)
    frames[:] = np.random.default_rng(0).integers(0, 256, frames.shape, dtype=np.uint8)
    return frames


def test_they_are_an_array_that_keeps_what_was_written():
    frames, plain = filled(), np.random.default_rng(0).integers(0, 256, (40, 32, 48, 3), dtype=np.uint8)
    forget_pages(frames)
    assert np.array_equal(frames, plain) and frames.dtype == np.uint8
    forget_pages(frames[3:7])  # a part of them
    assert np.array_equal(np.stack(list(passing(frames))), plain)
    forget_pages(plain)  # an array in memory stays
    assert plain.any()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif", ".png"])
def test_a_video_of_them_is_written_as_one_in_memory(suffix, tmp_path):
    frames = filled()
    one = Video(frames, 8.0).save(tmp_path / f"one{suffix}")
    two = Video(np.array(frames), 8.0).save(tmp_path / f"two{suffix}")
    if suffix == ".mkv":  # names itself by chance
        assert np.array_equal(read_video(one).frames, frames)
    else:
        assert one.read_bytes() == two.read_bytes()


def test_no_file_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    frames = filled()
    if os.name == "posix":
        assert not list(Path(tmp_path).iterdir())
    del frames
    gc.collect()
    assert not list(Path(tmp_path).iterdir())


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="pages cannot be given back here")
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs /proc")
def test_memory_is_given_back():
    def resident():
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Rss:"))

    frames, before = frames_on_disk(100, 256, 256), resident()
    frames[:] = 1
    held = resident() - before
    forget_pages(frames)
    assert held > 0.8 * frames.nbytes and resident() - before < 0.2 * frames.nbytes
    assert frames[7, 7, 7, 0] == 1


def test_the_room_on_the_disk_is_taken_at_once(monkeypatch):
    """Later a full disk would kill the process: a write to a mapped file cannot fail in another way."""
    made, make = [], tempfile.TemporaryFile

    def watched():
        made.append(file := make())
        made.append(os.dup(file.fileno()))
        return file

    monkeypatch.setattr(tempfile, "TemporaryFile", watched)
    frames = frames_on_disk(40, 64, 64)
    assert os.fstat(made[1]).st_blocks * 512 >= frames.nbytes
    os.close(made[1])


def test_a_full_disk_is_an_error_of_ours(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match="No space left on device.*TMPDIR"):
        frames_on_disk(10, 32, 32)
