"""Settings: every mistake is one ConfigError that names the path and suggests."""

from __future__ import annotations

import math
import time
import warnings
from typing import ClassVar, Literal

import pytest

from cogvideox.config import Config
from cogvideox.errors import ConfigError
from cogvideox.generation import GenerateOptions
from cogvideox.training.optim import OptimConfig
from cogvideox.training.recipes import Run, recipe, run_file
from cogvideox.training.tasks.diffusion import DiffusionTraining
from cogvideox.training.tasks.vae import CropPhase, VAETraining
from cogvideox.vae import VAEConfig


def told(make) -> str:
    with pytest.raises(ConfigError) as error:
        make()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_keywords_are_checked_like_files():
    assert told(lambda: GenerateOptions(promt="x")) == "promt: unknown setting (did you mean 'prompt'?)"
    assert told(lambda: GenerateOptions(steps=0)) == "steps 0: must be 1 to 1000"
    assert "lr: Input should be greater than 0, got 0" in told(lambda: OptimConfig(lr=0))
    assert told(lambda: GenerateOptions.parse({"promt": "x"}, "a.yaml")).startswith("a.yaml: promt")
    assert "give one of them" in told(lambda: GenerateOptions(frames=9, seconds=1.0))


def test_no_setting_is_named_twice_in_a_message():
    assert told(lambda: GenerateOptions(control_net="canny:12")).startswith(
        "control_net 'canny:12': strength 12 must"
    )
    told_of_run = told(lambda: recipe("lora").override(["task.data.size=x"]))
    assert told_of_run.count("task.data.size") == 1


def test_names_in_a_group_of_any_names_are_told_without_words_of_the_library():
    """A shell or a hurry leaves out the blank that YAML needs after a colon; then it is a name without a value."""
    run = recipe("world-inpaint")
    unknown = told(lambda: run.override(["task.masks={silhuette: 1}"]))
    assert unknown.startswith("task.masks: 'silhuette': input should be 'box', 'moving-box'")
    assert unknown.endswith("(did you mean 'silhouette'?)") and "[key]" not in unknown
    for setting in ("task.masks={silhouette:1}", "task.masks={box: 0.5, silhouette:1}"):
        assert told(lambda setting=setting: run.override([setting])) == (
            "task.masks: 'silhouette:1' has no value; write a blank after the colon: {silhouette: 1}"
        )
    assert run.override(["task.masks={silhouette: 1}"]).task.masks == {"silhouette": 1}
    assert "task.data.size: 'frames:9' has no value" in told(
        lambda: recipe("lora").override(["task.data={folder: clips, size: {frames:9}}"])
    )


def test_a_mistake_in_a_group_is_one_error_with_the_whole_path():
    phases = [{"until": 1}]
    assert told(lambda: VAETraining(vae={"latent_chanels": 4}, phases=phases)) == (
        "vae.latent_chanels: unknown setting (did you mean 'latent_channels'?)"
    )
    assert told(lambda: VAETraining(vae=VAEConfig(), phases=[{"until": 1}, {"until": 0}])).startswith(
        "phases.1.until: "
    )
    task = {"kind": "vae", "vae": {"layers_per_blok": 1}, "phases": phases}
    assert told(lambda: Run(name="x", out="y", task=task)) == (
        "task.vae.layers_per_blok: unknown setting (did you mean 'layers_per_block'?)"
    )
    arm = {"num_attention_heads": 1, "attention_head_dim": 8}
    assert told(lambda: DiffusionTraining(transformer=arm, schedule={})).startswith(
        "transformer: num_attention_heads 1"
    )


def test_settings_reach_into_lists():
    run = recipe("world-vae").override(["task.phases.0.batch=2", "task.phases.3.until=440"])
    assert (run.task.phases[0].batch, run.task.phases[1].batch, run.task.phases[3].until) == (2, 8, 440)
    assert "4 entries, counted from 0" in told(
        lambda: recipe("world-vae").override(["task.phases.4.batch=2"])
    )
    assert "4 entries" in told(lambda: recipe("world-vae").override(["task.phases.batch=2"]))
    assert "not a group" in told(lambda: recipe("world-vae").override(["steps.x=2"]))
    assert "did you mean 'phases'" in told(lambda: recipe("world-vae").override(["task.phase.0.batch=2"]))


@pytest.mark.parametrize("value", ["[", "{a: ", "a: b: c", "{a: 1, a: 2}", ".inf", "*x"])
def test_a_value_that_is_not_yaml_is_named(value):
    assert f"steps={value}" in told(lambda: recipe("world-vae").override([f"steps={value}"]))


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("task.phases=[]", "at least 1 item"),
        ("task.phases.1.frames=25", "phases.1: crops of frames 25.*clips of 17 frames"),
        ("task.phases.1.size=128", "phases.1: crops of frames 1 and size 128"),
        ("task.phases.1.frames=13", "phases.1: 13 frames come back from the VAE as 16"),
        ("task.phases.1.size=33", "33 must be a multiple of 8; try 40"),
        ("task.phases.1.until=300", "phases end at .400, 300, 416, 430."),
        ("task.phases.0.batch=0", "task.phases.0.batch: "),
    ],
)
def test_phases_that_cannot_be_run_are_refused_before_they_run(setting, why):
    with pytest.raises(ConfigError, match=why):
        recipe("world-vae").override([setting])


def test_the_error_is_a_value_error_and_values_stay_frozen():
    assert issubclass(ConfigError, ValueError)
    assert CropPhase(until=3).model_copy(update={"batch": 1}).batch == 1
    assert Config.parse({}) == Config()


class Inner(Config):
    width: int = 3


class Settings(Config):
    count: int = 1
    rate: float | None = 1.0
    on: bool = False
    sizes: tuple[int, ...] = ()
    shares: dict[str, float] = {}
    inner: Inner = Inner()
    either: int | Literal["auto"] = "auto"
    name: str = ""


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"count": True}, "count: "),
        ({"count": "1"}, "count: "),
        ({"count": 1.5}, "count: "),
        ({"rate": False}, "rate: "),
        ({"rate": "1:30"}, "rate: "),
        ({"rate": math.inf}, "rate: "),
        ({"rate": math.nan}, "rate: "),
        ({"on": 1}, "on: "),
        ({"on": "1"}, "on: "),
        ({"sizes": [1, True]}, "sizes.1: "),
        ({"shares": {"a": math.nan}}, "shares.a: "),
        ({"inner": {"width": True}}, "inner.width: "),
        ({"either": "1"}, "either: "),
        ({"name": 1}, "name: "),
    ],
)
def test_numbers_are_numbers_and_truth_is_true_or_false(given, where):
    assert told(lambda: Settings.parse(given)).startswith(where)
    assert told(lambda: Settings(**given)).startswith(where)


def test_what_says_a_number_without_doubt_is_read():
    read = Settings.parse({"count": 2.0, "rate": 2, "on": "yes", "either": 3, "inner": {"width": 4}})
    assert (read.count, read.rate, read.on, read.either, read.inner.width) == (2, 2.0, True, 3, 4)
    assert Settings().override(["count=1e3", "rate=1e-4", "on=off"]).count == 1000


@pytest.mark.parametrize(
    "name", ["1e5", "1:30", "yes", "0x1F", "010", "1_000", ".inf", "2020-01-01", "", "~"]
)
def test_settings_that_are_written_are_read_back(name):
    assert Settings.from_yaml(Settings(name=name).to_yaml()).name == name


def test_no_file_and_no_setting_hangs_or_floods_a_message(tmp_path):
    bomb = "[x,x,x,x,x,x,x,x,x]"
    lines = [f"name: [&a0 {bomb}", *(f"&a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 11))]
    file = tmp_path / "bomb.yaml"
    file.write_text(", ".join(lines) + "]")
    started = time.monotonic()
    messages = [
        told(lambda: Settings.from_yaml(file)),
        told(lambda: run_file(file)),
        told(lambda: Settings().override(["name=" + lines[0][6:] + "," + ",".join(lines[1:]) + "]"])),
        told(lambda: Settings().override(["x" * 10**6 + "=1"])),
        told(lambda: Settings().override(["sizes." + "9" * 5000 + "=1"])),
        told(lambda: Settings().override(["count=" + "9" * 10**6])),
        told(lambda: Settings().override(["count=" + "[" * 10**5])),
        told(lambda: Settings.parse({"name": [["x"] * 10**5] * 10**3})),
        told(lambda: Settings.parse({"x" * 10**6: 1})),
    ]
    assert time.monotonic() - started < 5
    assert max(map(len, messages)) < 500


def test_what_was_typed_stands_on_one_line_of_the_message():
    settings = ["steps=a: &a [x,x,x]\nb: &b [*a,*b]\n", "steps=x\n\r\ty\0", "a\nb=[", "steps=\n\n&a [*a]"]
    for setting in settings:
        told(lambda setting=setting: recipe("lora").override([setting]))


class Group(Config):
    renamed_settings: ClassVar[dict[str, str]] = {"adding": "reduce"}
    reduce: str = "fast"
    rate: float = 1.0


class Whole(Config):
    steps: int = 1
    group: Group = Group()
    maybe: Group | None = None
    groups: tuple[Group, ...] = (Group(), Group())


def test_changed_is_a_checked_copy():
    whole = Whole(steps=3)
    changed = whole.changed(steps=5, **{"group.rate": 2.0, "groups.1.reduce": "exact"})
    assert (changed.steps, changed.group.rate, changed.groups[1].reduce) == (5, 2.0, "exact")
    assert type(changed) is Whole and whole == Whole(steps=3)
    assert whole.changed(group={"rate": 3}).group == whole.changed(group=Group(rate=3)).group == Group(rate=3)
    assert changed.changed(group=Group()).steps == 5
    assert told(lambda: whole.changed(stepps=5)) == "stepps: unknown setting (did you mean 'steps'?)"
    assert told(lambda: whole.changed(**{"group.rat": 5})) == (
        "group.rat: unknown setting (did you mean 'rate'?)"
    )
    assert told(lambda: whole.changed(steps="many")).startswith("steps: ")
    assert told(lambda: whole.changed(**{"group.rate": "much"})).startswith("group.rate: ")
    assert "2 entries" in told(lambda: whole.changed(**{"groups.2.rate": 5}))
    assert "is one value" in told(lambda: whole.changed(**{"maybe.rate": 5}))
    assert told(lambda: whole.changed(**{"groups.1.rate": "much"})).startswith("groups.1.rate: ")


@pytest.mark.parametrize("group", ["group", "groups.1"])
def test_a_setting_under_its_old_and_its_new_name_at_once_is_refused(group):
    both = {f"{group}.adding": "exact", f"{group}.reduce": "fast"}
    with pytest.warns(FutureWarning):
        assert "leave the old name out" in told(lambda: Whole().changed(**both))


def test_a_change_without_effect_is_refused_from_python_as_on_the_command_line():
    with pytest.warns(FutureWarning):  # the old name of scene_mix
        assert "task.scene_mix: " in told(lambda: recipe("lora").override(["task.stories={motion: 1}"]))
    assert "task.scene_mix: " in told(lambda: recipe("lora").changed(**{"task.scene_mix": {"motion": 1}}))
    assert "every stage has its own" in told(lambda: recipe("world-stages").changed(**{"base.steps": 7}))


def test_a_run_changes_without_losing_the_type_of_its_task():
    run = recipe("world-vae")
    changed = run.changed(**{"task.phases.0.batch": 2, "optim.lr": 1e-3})
    assert type(changed) is type(run) and type(changed.task) is VAETraining
    assert changed.task.phases[0].batch == 2 and changed.optim.lr == 1e-3


@pytest.mark.parametrize(
    "make",
    [
        lambda: Whole(group={"adding": "exact"}),
        lambda: Whole(group=Group(adding="exact")),
        lambda: Whole.parse({"group": {"adding": "exact"}}),
        lambda: Whole.from_yaml("group:\n  adding: exact\n"),
        lambda: Whole().override(["group.adding=exact"]),
        lambda: Whole().override(["group={adding: exact}"]),
        lambda: Whole().changed(**{"group.adding": "exact"}),
        lambda: Whole().changed(group={"adding": "exact"}),
    ],
)
def test_a_renamed_setting_keeps_its_old_name_for_one_release(make):
    with pytest.warns(FutureWarning, match="adding: is called (group.)?reduce now") as seen:
        assert make() == Whole(group=Group(reduce="exact"))
    assert len(seen) == 1 and "\n" not in str(seen[0].message)


def test_a_renamed_setting_in_lists_and_unset_groups():
    with pytest.warns(FutureWarning):
        assert Whole().override(["groups.1.adding=exact"]).groups[1].reduce == "exact"
    with pytest.warns(FutureWarning):
        assert Whole().override(["maybe={reduce: fast}", "maybe.adding=exact"]).maybe == Group(reduce="exact")


def test_a_setting_under_its_old_and_its_new_name_is_refused():
    both = {"adding": "fast", "reduce": "exact"}
    assert "adding is the old name of reduce, and both are given" in told(lambda: Group(**both))
    assert "group: adding is the old name" in told(lambda: Whole.parse({"group": both}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        overrides = ["group.adding=fast", "group.reduce=exact"]
        assert "is also given as group.adding" in told(lambda: Whole().override(overrides))
        assert "(did you mean 'reduce'?)" in told(lambda: Whole().override(["group.redduce=a"]))


class Special(Group):
    renamed_settings: ClassVar[dict[str, str]] = {"speed": "pace"}
    pace: int = 1


def test_a_subclass_keeps_the_old_names_of_its_base():
    with pytest.warns(FutureWarning) as seen:
        assert Special.parse({"adding": "exact", "speed": 3}) == Special(reduce="exact", pace=3)
    assert len(seen) == 2
