"""The list of public models: every entry can be used as it says, and the page shows it."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest
import typer

from cogvideox.checkpoints.hub import read_reference
from cogvideox.checkpoints.published import model_of, published, published_as
from cogvideox.cli import app
from cogvideox.generation.given import BETTER
from cogvideox.generation.preflight import plan_memory
from cogvideox.generation.recommended import SETTINGS_PRESETS
from cogvideox.presets import PRESETS
from cogvideox.strength import split_strength

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = [entry for section in published().values() for entry in section]
IDS = [entry.hub for entry in ENTRIES]


def test_the_list_is_whole():
    assert len(IDS) == len(set(IDS)) > 50
    assert {spec.hub for spec in PRESETS.values() if spec.hub} <= set(IDS)
    assert {preset.adapter for preset in SETTINGS_PRESETS.values()} <= set(IDS)
    named = {name for text in BETTER.values() for name in re.findall(r"[\w.-]+/[\w.-]+", text)}
    assert len(named) == 3 and all(published_as(name) for name in named), "messages name public models"


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_an_entry_can_be_used_as_it_says(entry):
    assert read_reference(entry.hub) is not None and entry.does and entry.licence
    assert entry.run or entry.note, "an entry without a command says why"
    if not entry.run:
        return
    name, *rest = shlex.split(entry.run)
    command = typer.main.get_command(app).commands[name]
    given = command.make_context(name, rest).params
    model = given["model"]
    assert model in (*PRESETS, entry.hub.partition(":")[0]) or published_as(model)
    assert given.get("preset") in (None, *SETTINGS_PRESETS)
    for name in (*(given["lora"] or []), *given["control_net"]):
        assert split_strength(name)[0] == entry.hub
    if given["transformer"]:
        assert read_reference(given["transformer"]).repository == entry.hub
    if given["preset"]:
        assert SETTINGS_PRESETS[given["preset"]].adapter == entry.hub
    if given["kind"]:
        assert given["kind"] == entry.kind


PLANNED = sorted(
    {(entry.base, entry.kind, entry.frames, entry.least) for entry in ENTRIES if entry.base}, key=str
)


@pytest.mark.parametrize(("base", "kind", "frames", "least"), PLANNED)
def test_the_memory_is_what_plan_says(base, kind, frames, least):
    """Three are planned again, a model, one of VideoX-Fun and VOID; all of them: benchmarks/models_page.py."""
    spec = model_of(base, kind or None, frames)
    assert spec.kind == (kind or PRESETS[base].kind) and spec.frames == (frames or spec.frames)
    assert least and 1e9 < least < 8e9
    if (base, kind, frames) in (("2b", "", None), ("5b", "control", None), ("1.5-5b", "removal", None)):
        assert plan_memory(spec, device="cuda", memory_policy="disk", storage="stored").least.peak == least


def test_models_of_videox_fun_are_planned_as_they_were_trained():
    void = model_of("1.5-5b", "removal")
    assert (void.height, void.width, void.frames, void.guidance) == (384, 672, 85, 1.0)
    assert void.transformer.in_channels == 48 and void.schedule.snr_shift_scale == 1
    old = model_of("2b", "inpaint")
    assert (old.height, old.width, old.frames, old.transformer.in_channels) == (384, 672, 49, 33)
    assert model_of("5b") is PRESETS["5b"]


def test_the_page_is_that_of_the_list():
    page = runpy.run_path(str(ROOT / "benchmarks" / "models_page.py"))
    shown = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert shown == page["page"](), "write it again: python benchmarks/models_page.py --page"
