"""What Python users try first: a plain prompt, a path, the command line's names of samplers."""

import numpy as np
import pytest
from PIL import Image

import cogvideox
from cogvideox.errors import CheckpointError, ConfigError, InputError, OutputError
from cogvideox.generation import GenerateOptions, generate
from cogvideox.generation.given import read_given
from cogvideox.video import check_output
from support.models import golden_model, golden_text


def test_a_prompt_alone_is_options_enough():
    made = generate(golden_model(), "a red circle", **golden_text())
    assert made.manifest["config"]["prompt"] == "a red circle"
    with pytest.raises(ConfigError, match="give GenerateOptions or a prompt"):
        generate(golden_model(), {"prompt": "a red circle"})


def test_paths_are_read_and_other_things_refused(tmp_path):
    Image.fromarray(np.full((32, 48, 3), 7, np.uint8)).save(tmp_path / "a.png")
    given = read_given(GenerateOptions(), str(tmp_path / "a.png"), None)
    assert given.image.shape == (32, 48, 3)
    for wrong in (5, [1, 2]):
        with pytest.raises(InputError, match="give a path"):
            read_given(GenerateOptions(), wrong, None)
        with pytest.raises(InputError, match="give a path"):
            read_given(GenerateOptions(), None, wrong)


def test_samplers_have_the_same_names_everywhere():
    assert GenerateOptions(sampler="dpm").sampler == "dpmpp_sde"
    assert GenerateOptions(sampler="dpm-ode").sampler == "dpmpp_2m"
    with pytest.raises(ConfigError, match="sampler"):
        GenerateOptions.parse({"sampler": "euler"})


def test_a_model_that_is_not_found_says_what_there_is():
    with pytest.raises(CheckpointError, match=r"did you mean '5b'.*one of 2b, 5b"):
        cogvideox.load("5B")


def test_a_folder_that_only_looks_writable_is_found_before_the_work():
    with pytest.raises(OutputError, match="cannot be written"):
        check_output("/proc/x.mp4")


def test_plain_keywords_are_options():
    text = golden_text()
    plain = generate(golden_model(), "a red circle", steps=2, seed=3, frames=9, **text)
    options = GenerateOptions(prompt="a red circle", steps=2, seed=3, frames=9)
    assert (plain.frames == generate(golden_model(), options, **text).frames).all()
    assert plain.manifest["config"]["steps"] == 2
    changed = generate(golden_model(), options, steps=1, **text)
    assert changed.manifest["config"]["steps"] == 1 and changed.manifest["config"]["seed"] == 3


def test_an_unknown_keyword_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match="sed: unknown setting .did you mean 'seed'"):
        generate(golden_model(), "a red circle", sed=3)
    with pytest.raises(ConfigError, match="steps 0: must be 1 to 1000"):
        generate(golden_model(), "a red circle", steps=0)
    with pytest.raises(ConfigError, match="model of str: give what cogvideox.load returns"):
        generate("tiny", "a red circle")


def test_the_path_of_an_image_is_an_option_and_stands_in_the_record(tmp_path):
    Image.fromarray(np.full((32, 48, 3), 7, np.uint8)).save(tmp_path / "a.png")
    made = generate(
        golden_model(), "a red circle", image=tmp_path / "a.png", steps=1, seed=1, **golden_text()
    )
    assert made.manifest["config"]["image"] == "a.png" and "sha256" in made.manifest["inputs"]["image"]
