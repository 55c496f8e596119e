"""Condition videos of clips: made from the clip alone, encoded once, elsewhere too; control videos beside the clips."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cogvideox.clip_folders.listing import list_clips
from cogvideox.data.clips import ClipSize, FolderClips, WorldClips
from cogvideox.data.conditions import ConditionClips, ControlVideos, MaskedVideos
from cogvideox.data.encode_elsewhere import clips_from_plain
from cogvideox.errors import ConfigError
from cogvideox.perception.canny import canny
from cogvideox.video import Video
from cogvideox.world import guide_video
from support.clip_folders import write_layout

SIZE = ClipSize(frames=9, short_side=32)
MASKED = MaskedVideos(masks={"silhouette": 1, "moving-box": 1}, seed=5)


@pytest.fixture
def folder(tmp_path) -> FolderClips:
    write_layout(tmp_path / "clips", "stems", count=3)
    return FolderClips(list_clips(tmp_path / "clips"), SIZE)


def test_a_masked_clip_is_the_clip_with_black_in_its_hole():
    world = WorldClips(0, "train", 3, 32, 9)
    clips = ConditionClips.variants_of(world, MASKED, 2)
    assert len(clips) == 6 and len({clips.content(n) for n in range(6)}) == 6
    for number in range(6):
        clip, variant = divmod(number, 2)
        hidden = MASKED.mask(world, clip, variant, (9, 32, 32))
        pixels, whole = clips.pixels(number), world.pixels(clip)
        assert not pixels[hidden].any() and np.array_equal(pixels[~hidden], whole[~hidden])
    assert not np.array_equal(clips.pixels(0), clips.pixels(1))
    other = ConditionClips.variants_of(world, MASKED.changed(seed=6), 2)
    assert other.content(0) != clips.content(0)


def test_control_videos_are_edges_or_what_the_world_tells(folder):
    world = WorldClips(0, "train", 2, 32, 9)
    edges = ConditionClips.variants_of(folder, ControlVideos(guide="canny"), 1)
    assert all(np.array_equal(edges.pixels(n), canny(folder.pixels(n))) for n in range(3))
    assert np.array_equal(np.unique([edges.pixels(n) for n in range(3)]), [0, 255])
    dotted = ConditionClips.variants_of(world, ControlVideos(guide="path"), 1)
    assert np.array_equal(dotted.pixels(1), guide_video(world.scene(1), "path", 32, 9))
    with pytest.raises(ConfigError, match="only the tiny world tells it"):
        ConditionClips.variants_of(folder, ControlVideos(guide="path"), 1).pixels(0)


def test_they_are_the_same_in_another_process(folder):
    world = WorldClips(0, "train", 4, 32, 9)
    for source, maker in (
        (world, MASKED),
        (world, ControlVideos(guide="silhouette")),
        (folder, ControlVideos(guide="canny")),
        (folder, MaskedVideos(masks={"box": 1}, seed=1)),
    ):
        clips, chosen = ConditionClips.variants_of(source, maker, 2), [5, 0]
        plain = json.loads(json.dumps([clips.to_plain(), [clips.clip_to_plain(each) for each in chosen]]))
        again = clips_from_plain(*plain)
        for number, index in enumerate(chosen):
            assert np.array_equal(again.pixels(number), clips.pixels(index))
            assert again.name(number) == clips.name(index)


def test_control_videos_lie_in_a_folder_under_the_names_of_the_clips(folder, tmp_path):
    controls = tmp_path / "controls"
    for index in range(3):
        Video(255 - folder.pixels(index), 8).save(controls / f"clip{index}.mkv")
    beside = folder.beside(controls)
    assert beside.pixels(2).shape == folder.pixels(2).shape
    assert np.abs(beside.pixels(2).astype(int) - (255 - folder.pixels(2))).max() <= 4
    assert beside.content(2) != folder.content(2)
    (controls / "clip1.mkv").unlink()
    with pytest.raises(
        ConfigError, match="1 of 3 clips have no video of their name there, such as clip1.mp4"
    ):
        folder.beside(controls)
    with pytest.raises(ConfigError, match="no such folder"):
        folder.beside(tmp_path / "nowhere")
