"""Every option of a video is a flag, with one declaration and one help text."""

from __future__ import annotations

import json
from typing import Literal, get_args, get_origin

import pytest
import typer
from typer.testing import CliRunner

from cogvideox.captioning import options as caption_options
from cogvideox.captioning.options import CaptionOptions
from cogvideox.cli import app
from cogvideox.evaluate_model import options as evaluate_options
from cogvideox.evaluate_model.options import EvaluateOptions
from cogvideox.generation import options as generation
from cogvideox.generation.options import OPTION_GROUPS, GenerateOptions

COMMANDS = typer.main.get_command(app).commands
FIELDS = {
    "generate": GenerateOptions,
    "plan": GenerateOptions,
    "evaluate": EvaluateOptions,
    "caption": CaptionOptions,
}
CONFIGS = {generation: GenerateOptions, evaluate_options: EvaluateOptions, caption_options: CaptionOptions}
VALUES = {
    "prompt": "a blue square", "negative_prompt": "grey", "strength": "0.5", "context_frames": "1",
    "frames": "5", "height": "32", "width": "64", "fps": "12", "steps": "3", "guidance": "2.5", "seed": "7",
    "tile_height": "32", "tile_width": "48", "attention": "torch", "guidance_rescale": "0.7",
    "guidance_start": "0.2", "guidance_stop": "0.9", "zero_steps": "2", "apg_eta": "0.5", "apg_norm": "15",
    "apg_momentum": "-0.25", "cache": "tea:0.1", "window": "0", "window_overlap": "1",
}  # fmt: skip


@pytest.mark.parametrize("options", [generation, evaluate_options, caption_options])
def test_every_option_stands_under_one_heading(options):
    names = [name for names in options.OPTION_GROUPS.values() for name in names.split()]
    fields, where = set(CONFIGS[options].model_fields), f"OPTION_GROUPS of {options.__name__}"
    assert fields <= set(names), f"add {fields - set(names)} to a group of {where}: that makes it a flag"
    assert set(names) <= fields, f"remove {set(names) - fields} from {where}: there is no such field"
    assert len(names) == len(set(names)), f"{where} has a name twice"


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        *(("generate", name) for name in GenerateOptions.model_fields),
        *(("plan", name) for name in ("frames", "height", "width", "sampler")),
        *(("evaluate", name) for name in EvaluateOptions.model_fields),
        *(("caption", name) for name in CaptionOptions.model_fields),
    ],
)
def test_every_option_is_a_flag_with_the_description_of_its_field(verb, name):
    field = FIELDS[verb].model_fields[name]
    (flag,) = (each for each in COMMANDS[verb].params if each.name == name)
    assert f"--{name.replace('_', '-')}" in flag.opts
    assert flag.help.startswith(field.description) and flag.default is None


def dry_run(*words: str) -> dict:
    done = CliRunner().invoke(app, ["generate", "--dry-run", "--json", *words])
    assert done.exit_code == 0, (words, done.stderr)
    return json.loads(done.stdout)["options"]


def words_of(name: str) -> tuple[list[str], object]:
    """A flag with a value that is not the default, and what the option then is."""
    field = GenerateOptions.model_fields[name]
    flag = f"--{name.replace('_', '-')}"
    if field.annotation is bool:
        return [flag if not field.default else flag.replace("--", "--no-", 1)], not field.default
    if get_origin(field.annotation) is Literal:
        value = next(each for each in get_args(field.annotation) if each != field.default)
        return [flag, value], value
    assert name in VALUES, f"add {name} to VALUES above, with a value that is not its default"
    text = VALUES[name]
    kinds = {float, int} & {field.annotation, *get_args(field.annotation)}
    return [flag, text], kinds.pop()(text) if kinds else text


NEEDS_FILES = {"image", "video", "video_use", "strength", "context_frames", "join", "reuse", "reuse_table"}
NEEDS_FILES |= {
    "last_image",
    "keyframe",
    "mask",
    "remove",
    "control",
    "control_net",
    "control_preprocessor",
    "first_pass",
    "flow",
}


def test_flags_change_the_options():
    apart = {"seconds", "prompt"}  # not beside frames, and the command's argument
    apart |= {"stg_scale", "stg_layers", "times"}  # not beside compile, not beside steps
    apart |= {"window_stride", "riflex"}  # for windows that move, and for longer videos than were trained on
    names = [name for name in GenerateOptions.model_fields if name not in NEEDS_FILES | apart]
    words, expected = ["a red circle"], {"prompt": "a red circle"}
    for name in names:
        more, value = words_of(name)
        words += more
        expected[name] = value
    options = dry_run(*words)
    assert {name: options[name] for name in expected} == expected
    assert dry_run("--prompt", "a blue square", "--seconds", "0.5")["seconds"] == 0.5
    stg = dry_run("a red circle", "--stg-scale", "1", "--stg-layers", "1,3", "--stg-layers", "4")
    assert (stg["stg_scale"], stg["stg_layers"]) == (1, [1, 3, 4])
    timed = dry_run("a red circle", "--times", "999,400")
    assert (timed["times"], timed["steps"]) == ([999, 400], 2)


def test_flags_of_given_files_change_the_options(tmp_path, monkeypatch):
    import numpy as np

    from cogvideox.video import Video

    monkeypatch.chdir(tmp_path)
    Video(np.full((9, 64, 64, 3), 99, np.uint8), 8.0).save("v.mp4")
    words = ["a red circle", "--video", "v.mp4", "--video-use", "continue", "--context-frames", "1", "--join"]
    options = dry_run(*words)
    assert (options["video"], options["video_use"], options["join"]) == ("v.mp4", "continue", True)
    assert options["context_frames"] == 1
    short = dry_run("a red circle", "--video", "v.mp4", "--continue")
    assert short["video_use"] == "continue" and short["join"] is False
    assert dry_run("a red circle", "--video", "v.mp4", "--strength", "0.5")["strength"] == 0.5


def test_a_wrong_value_of_a_choice_names_the_choices():
    done = CliRunner().invoke(app, ["generate", "x", "--fit", "covr", "--dry-run"])
    assert done.exit_code == 2 and "fit: Input should be 'cover', 'contain' or 'stretch'" in done.stderr


def test_the_help_has_the_headings_in_order():
    text = CliRunner().invoke(app, ["generate", "--help"]).stdout
    positions = [text.index(f"\n{heading}:") for heading in OPTION_GROUPS]
    assert positions == sorted(positions)
