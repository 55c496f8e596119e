"""The table of models holds the published numbers, and reading it is instant."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from cogvideox.checkpoints.shapes import meta_names
from cogvideox.errors import ConfigError
from cogvideox.presets import PRESETS, get_preset, guess_preset
from cogvideox.transformer import Transformer, mmdit_of_same_size

# tensors and elements of the released files
PUBLISHED = {
    "2b": (736, 1_693_783_872),
    "5b": (1024, 5_570_283_072),
    "5b-i2v": (1025, 5_625_087_552),
    "1.5-5b": (1024, 5_570_676_352),
    "1.5-5b-i2v": (1028, 5_571_594_880),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_real_sizes_have_the_published_tensor_and_element_counts(name):
    preset = get_preset(name)
    transformer, vae = meta_names(preset.transformer), meta_names(preset.vae)
    assert (len(transformer), sum(map(math.prod, transformer.values()))) == PUBLISHED[name]
    assert (len(vae), sum(map(math.prod, vae.values()))) == (436, 215_583_907)


def test_scaling_shift_and_inversion_follow_the_released_configs():
    rows = {name: get_preset(name) for name in PUBLISHED}
    assert [rows[name].vae.scaling_factor for name in rows] == [1.15258426, 0.7, 0.7, 0.7, 0.7]
    assert [rows[name].schedule.snr_shift_scale for name in rows] == [3.0, 1.0, 1.0, 1.0, 1.0]
    assert [rows[name].vae.invert_scale_latents for name in rows] == [False, False, False, True, True]
    assert [rows[name].transformer.position_mode for name in rows][1:4:2] == ["resample", "slice"]


@pytest.mark.parametrize("name", PRESETS)
def test_every_row_builds_and_is_recognised_by_its_network(name):
    preset = get_preset(name)
    assert preset.schedule.timestep_spacing == "trailing"
    assert guess_preset(preset.transformer) == name.removesuffix("-base")  # one network, other weights


def test_the_equal_size_arm_has_the_depth_that_matches():
    assert mmdit_of_same_size(get_preset("tiny").transformer) == get_preset("tiny-mmdit1").transformer


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(ConfigError, match="did you mean '5b-i2v'"):
        get_preset("5b-iv2")


def test_reading_the_table_loads_no_torch():
    code = "import sys, cogvideox.presets as p; p.get_preset('5b'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", PRESETS)
def test_names_computed_from_one_block_are_those_of_the_whole_network(name):
    config = PRESETS[name].transformer
    with torch.device("meta"):
        whole = Transformer(config).state_dict()
    assert meta_names(config) == {key: tuple(value.shape) for key, value in whole.items()}
