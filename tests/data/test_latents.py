"""The cache makes what is missing and nothing else, and never gives what was made from other bytes or weights."""

import itertools
import os
import threading
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cogvideox import progress
from cogvideox.clip_folders.listing import list_clips
from cogvideox.data import cache, latents
from cogvideox.data.cache import TensorCache
from cogvideox.data.clips import ClipSize, FolderClips, WorldClips
from cogvideox.data.latents import embedded, encoded
from cogvideox.errors import ConfigError, MediaError, NumericsError
from cogvideox.vae import VAE
from support.clip_folders import clip, write_layout
from support.models import golden_model

SIZE = ClipSize(frames=9, short_side=32)


@pytest.fixture
def vae() -> VAE:
    return golden_model().vae.eval()


class Counted(WorldClips):
    """World clips that count how often they are drawn."""

    drawn = 0

    def pixels(self, index):
        self.drawn += 1
        return super().pixels(index)


def test_only_what_is_missing_is_encoded(vae, tmp_path, capsys):
    few = Counted(0, "train", 3, 32, 9)
    before = encoded(few, vae, tmp_path)
    assert few.drawn == 3 and "3/3 encoded" in capsys.readouterr().err
    many = Counted(0, "train", 5, 32, 9)
    after = encoded(many, vae, tmp_path)
    assert many.drawn == 2 and len(after) == 5
    assert torch.equal(after.latents(1)[0], before.latents(1)[0])
    assert after.shape(0) == tuple(after.latents(0)[0].shape) and after.first(0).shape == (32, 32, 3)
    assert not torch.equal(after.latents(0)[0], after.latents(1)[0])


class Stopped(Counted):
    """World clips with a person who presses Ctrl-C at the seventh."""

    def pixels(self, index):
        if index == 6:
            raise KeyboardInterrupt
        return super().pixels(index)


class Mixed(Counted):
    """World clips of which some are pictures and one, the tenth, is larger."""

    def pixels(self, index):
        clip = super().pixels(index)
        return clip[:1] if index in (3, 4) else np.tile(clip, (1, 2, 2, 1)) if index == 9 else clip


def test_a_stopped_encoding_goes_on_as_if_it_had_not_been(vae, tmp_path, monkeypatch, capsys):
    """Same latents, the same clips encoded together, nothing encoded twice but the batch that was under way."""
    monkeypatch.setattr(latents, "PIXELS", 2 * 9 * 32 * 32)
    batches = []
    encode = latents.encode_batch
    monkeypatch.setattr(
        latents,
        "encode_batch",
        lambda vae, batch, source: batches.append([i for i, _ in batch]) or encode(vae, batch, source),
    )
    whole = encoded(Counted(0, "train", 9, 32, 9), vae, tmp_path / "whole")
    together = list(batches)
    assert together == [[0, 1], [2, 3], [4, 5], [6, 7], [8]]
    batches.clear()
    first = Stopped(0, "train", 9, 32, 9)
    with pytest.raises(KeyboardInterrupt):
        encoded(first, vae, tmp_path / "stopped")
    assert "clips: 6/9 encoded" in capsys.readouterr().err
    rest = Counted(0, "train", 9, 32, 9)
    found = encoded(rest, vae, tmp_path / "stopped")
    assert batches == together and first.drawn + rest.drawn == 9
    for index in range(9):
        for one, other in zip(whole.latents(index), found.latents(index), strict=True):
            assert torch.equal(one, other)


def test_clips_are_encoded_together_by_their_pixels(vae, tmp_path, monkeypatch):
    sizes = []
    encode = latents.encode_batch
    monkeypatch.setattr(
        latents,
        "encode_batch",
        lambda vae, batch, source: sizes.append(len(batch)) or encode(vae, batch, source),
    )
    encoded(Counted(0, "train", 45, 32, 9), vae, tmp_path)
    assert sizes == [20, 20, 5]
    sizes.clear()
    monkeypatch.setattr(latents, "PIXELS", 3 * 9 * 32 * 32)
    mixed = encoded(Mixed(1, "train", 12, 32, 9), vae, tmp_path)
    assert sizes == [3, 2, 3, 1, 1, 2]  # clips, pictures, clips up to the large one, it alone, the rest
    assert mixed.shape(3)[1] == 1 and mixed.shape(9)[2:] == (8, 8)


def test_clips_encoded_together_are_those_encoded_alone(vae, tmp_path, monkeypatch):
    together = encoded(Counted(0, "train", 6, 32, 9), vae, tmp_path / "together")
    monkeypatch.setattr(latents, "TOGETHER", 1)
    alone = encoded(Counted(0, "train", 6, 32, 9), vae, tmp_path / "alone")
    for index in range(6):
        torch.testing.assert_close(together.latents(index)[0], alone.latents(index)[0], atol=2e-2, rtol=0)


def test_a_piece_is_written_after_half_a_minute_of_work(vae, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "SECONDS", 0.0)
    monkeypatch.setattr(latents, "TOGETHER", 1)
    found = encoded(Counted(0, "train", 80, 32, 9), vae, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 80  # more than are held open
    again = Counted(0, "train", 80, 32, 9)
    kept = encoded(again, vae, tmp_path)
    assert not again.drawn and all(
        torch.equal(found.latents(i)[0], kept.latents(i)[0]) for i in (79, *range(80))
    )


def test_a_log_hears_how_far_the_encoding_is(vae, tmp_path, monkeypatch, capsys):
    """Every report is written at once, by no other thread, and each look at the clock takes a second."""
    still = SimpleNamespace(start=lambda: None, join=lambda: None)
    threads = SimpleNamespace(Lock=threading.Lock, Event=threading.Event, Thread=lambda **_: still)
    monkeypatch.setattr(progress, "threading", threads)
    seconds = itertools.count()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    monkeypatch.setattr(progress, "_lines", partial(progress._lines, every=0))
    monkeypatch.setattr(latents, "TOGETHER", 5)
    encoded(Counted(0, "train", 25, 32, 9), vae, tmp_path)
    *lines, last = capsys.readouterr().err.splitlines()
    assert any(line.startswith("clips: encoding: 20 of 25, ") and line.endswith(" left") for line in lines)
    assert last == "clips: 25/25 encoded"
    encoded(Counted(0, "train", 25, 32, 9), vae, tmp_path)
    assert not capsys.readouterr().err


def flip(piece, at: int = -100) -> None:
    """Change one bit of a file."""
    data = bytearray(piece.read_bytes())
    data[at] ^= 1
    piece.write_bytes(data)


def test_a_flipped_bit_is_told_with_file_and_clip(vae, tmp_path):
    encoded(Counted(0, "train", 3, 32, 9), vae, tmp_path)
    (piece,) = tmp_path.glob("*.safetensors")
    flip(piece)
    cache._open.cache_clear()
    found = encoded(Counted(0, "train", 3, 32, 9), vae, tmp_path)
    told = []
    for index in range(3):
        try:
            found.latents(index), found.first(index)
        except MediaError as error:
            told.append(str(error))
    (message,) = told
    assert str(piece) in message and "train/00000" in message and "remove this file" in message
    piece.unlink()
    again = Counted(0, "train", 3, 32, 9)
    whole = encoded(again, vae, tmp_path)
    assert again.drawn == 3 and [whole.first(index).shape for index in range(3)] == [(32, 32, 3)] * 3


def test_a_flipped_name_in_a_header_makes_the_piece_again(vae, tmp_path):
    encoded(Counted(0, "train", 2, 32, 9), vae, tmp_path)
    (piece,) = tmp_path.glob("*.safetensors")
    flip(piece, piece.read_bytes().rindex(b'/mean":{') + 1)
    again = Counted(0, "train", 2, 32, 9)
    with pytest.warns(UserWarning, match="damaged piece"):
        encoded(again, vae, tmp_path)
    assert again.drawn == 2


def test_pieces_of_before_there_were_digests_are_read(vae, tmp_path):
    before = encoded(Counted(0, "train", 2, 32, 9), vae, tmp_path).latents(1)[0]
    (piece,) = tmp_path.glob("*.safetensors")
    save_file(load_file(piece), piece)
    cache._open.cache_clear()
    again = Counted(0, "train", 2, 32, 9)
    assert torch.equal(encoded(again, vae, tmp_path).latents(1)[0], before) and not again.drawn


def test_latents_that_are_not_finite_are_refused_by_name(vae, tmp_path):
    with torch.no_grad():
        vae.encoder.conv_out.conv.weight.mul_(1e6)
    with pytest.raises(NumericsError, match=r"train/000000: its latents are not finite \(\d+ of \d+ values"):
        encoded(Counted(0, "train", 2, 32, 9), vae, tmp_path)
    assert not list(tmp_path.iterdir())


def test_other_weights_are_never_given_these_latents(vae, tmp_path):
    encoded(Counted(0, "train", 2, 32, 9), vae, tmp_path)
    with torch.no_grad():
        vae.encoder.conv_in.conv.weight[0, 0, 0, 0, 0] += 1e-3
    again = Counted(0, "train", 2, 32, 9)
    encoded(again, vae, tmp_path)
    assert again.drawn == 2


def test_a_decoder_that_was_trained_on_leaves_latents_valid(vae, tmp_path):
    encoded(Counted(0, "train", 2, 32, 9), vae, tmp_path)
    with torch.no_grad():
        vae.decoder.conv_in.conv.weight.mul_(2)
    again = Counted(0, "train", 2, 32, 9)
    encoded(again, vae, tmp_path)
    assert not again.drawn


def test_stories_have_the_shares_that_are_asked_for():
    shares = {"rotate": 3.0, "count": 1.0}
    clips = WorldClips(0, "train", 400, 32, 9, shares)
    spins = sum(any(word in clips.caption(i, 0) for word in ("rotat", "spin")) for i in range(400))
    assert 270 < spins < 330
    plain = WorldClips(0, "train", 400, 32, 9)
    assert not {clips.content(i) for i in range(400)} & {plain.content(i) for i in range(400)}
    for wrong in ({"dance": 1.0}, {"count": -1.0, "pan": 2.0}, {"count": 0.0}):
        with pytest.raises(ConfigError, match="motion, size, rotate"):
            WorldClips(0, "train", 4, 32, 9, wrong)


def folder_clips(root) -> FolderClips:
    return FolderClips(list_clips(root), SIZE, root.parent / "digests.json")


def test_a_clip_that_changes_is_encoded_again_and_one_that_is_only_touched_is_not(vae, tmp_path, monkeypatch):
    write_layout(tmp_path / "set", "stems", count=3)
    seen = []
    whole = FolderClips.pixels
    monkeypatch.setattr(FolderClips, "pixels", lambda self, i: seen.append(self.name(i)) or whole(self, i))
    first = encoded(folder_clips(tmp_path / "set"), vae, tmp_path / "cache")
    assert seen == ["clip0.mp4", "clip1.mp4", "clip2.mp4"]
    seen.clear()
    os.utime(tmp_path / "set" / "clip0.mp4", (1, 1))
    clip(7)[0].save(tmp_path / "set" / "clip1.mp4", overwrite=True)
    (tmp_path / "set" / "clip2.txt").write_text("another caption")
    second = encoded(folder_clips(tmp_path / "set"), vae, tmp_path / "cache")
    assert seen == ["clip1.mp4"]
    assert torch.equal(first.latents(0)[0], second.latents(0)[0])
    assert not torch.equal(first.latents(1)[0], second.latents(1)[0])
    seen.clear()
    encoded(
        FolderClips(list_clips(tmp_path / "set"), ClipSize(frames=9, short_side=48)), vae, tmp_path / "cache"
    )
    assert len(seen) == 3


def test_two_clips_of_one_name_in_two_folders_do_not_share_latents(vae, tmp_path):
    for place, number in (("a", 1), ("b", 2)):
        (tmp_path / "set" / place).mkdir(parents=True)
        video, text = clip(number)
        video.save(tmp_path / "set" / place / "clip.mp4")
        (tmp_path / "set" / place / "clip.txt").write_text(text)
    found = encoded(folder_clips(tmp_path / "set"), vae, tmp_path / "cache")
    assert not torch.equal(found.latents(0)[0], found.latents(1)[0])


def test_a_clip_that_cannot_be_read_is_named_and_the_others_stay(vae, tmp_path):
    write_layout(tmp_path / "set", "stems", count=3)
    (tmp_path / "set" / "clip1.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(400))
    found = encoded(folder_clips(tmp_path / "set"), vae, tmp_path / "cache")
    assert list(found.dropped) == ["clip1.mp4"] and [found.name(i) for i in range(2)] == [
        "clip0.mp4",
        "clip2.mp4",
    ]


def test_a_clip_that_is_there_twice_is_encoded_once_and_lost_twice(vae, tmp_path, capsys):
    write_layout(tmp_path / "set", "stems", count=2)
    for name, source in (("again", "clip0.mp4"), ("bad", None), ("bad too", None)):
        data = (tmp_path / "set" / source).read_bytes() if source else b"\0\0\0\x18ftypmp42" + bytes(400)
        (tmp_path / "set" / f"{name}.mp4").write_bytes(data)
        (tmp_path / "set" / f"{name}.txt").write_text("a clip")
    found = encoded(folder_clips(tmp_path / "set"), vae, tmp_path / "cache")
    assert "2/3 encoded" in capsys.readouterr().err and len(found) == 3
    assert set(found.dropped) == {"bad.mp4", "bad too.mp4"}


def test_a_damaged_piece_is_made_again(vae, tmp_path):
    encoded(Counted(0, "train", 2, 32, 9), vae, tmp_path)
    (piece,) = tmp_path.glob("*.safetensors")
    piece.write_bytes(piece.read_bytes()[:-10])
    again = Counted(0, "train", 2, 32, 9)
    with pytest.warns(UserWarning, match="damaged piece"):
        encoded(again, vae, tmp_path)
    assert again.drawn == 2


def test_half_written_pieces_are_not_read(tmp_path):
    (tmp_path / ".0123.safetensors").write_bytes(b"half")
    cache = TensorCache(tmp_path)
    assert not cache.files


def test_text_is_encoded_once_for_one_encoder(tmp_path):
    asked = []

    def encode(prompts):
        asked.extend(prompts)
        return torch.stack([torch.full((3, 4), float(len(one))) for one in prompts])

    texts = embedded(["", "a cat", "a cat"], encode, "weights", tmp_path)
    assert asked == ["", "a cat"] and texts("a cat")[0, 0] == 5
    embedded(["a cat", "a dog"], encode, "weights", tmp_path)
    assert asked == ["", "a cat", "a dog"]
    embedded(["a cat"], encode, "other weights", tmp_path)
    assert asked[-1] == "a cat" and len(asked) == 4
