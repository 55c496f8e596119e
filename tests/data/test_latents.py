"""The cache makes what is missing and nothing else, and never gives what was made from other bytes or weights."""

import os

import pytest
import torch

from clip_folders import clip, write_layout
from cogvideox.data.clips import ClipSize, FolderClips, WorldClips
from cogvideox.data.latents import TensorCache, embedded, encoded
from cogvideox.data.listing import list_clips
from cogvideox.errors import ConfigError
from cogvideox.vae import VAE
from toy import toy_model

SIZE = ClipSize(frames=9, short_side=32)


@pytest.fixture
def vae() -> VAE:
    return toy_model().vae.eval()


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
