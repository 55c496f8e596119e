"""A model by name: what is mistyped is not sent to the hub, what is not here says how to get it, old owners work."""

from __future__ import annotations

import pytest

import cogvideox.checkpoints.hub as hub
from cogvideox.checkpoints import find_folder, find_spec, inspect, load_model
from cogvideox.errors import CheckpointError
from cogvideox.presets import PRESETS
from support.models import write_model_folder


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What the hub was asked for, in a folder and with a cache of its own, without a network."""
    import huggingface_hub

    seen = []
    real = huggingface_hub.snapshot_download

    def noted(name, **options):
        if not options.get("local_files_only"):
            seen.append(name)
        return real(name, **options)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.snapshot_download", noted)
    return seen


def told(work):
    with pytest.raises(CheckpointError) as error:
        work()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_mistyped_local_path_is_not_sent_to_the_hub(asked, tmp_path):
    (tmp_path / "runs" / "model").mkdir(parents=True)
    assert "runs/ exists and does not hold it (did you mean 'model'?)" in told(
        lambda: find_folder("runs/modle")
    )
    assert "did you mean runs/model?" in told(lambda: find_folder("rnus/model"))
    for name in (
        "./runs/modle",
        "../x/y",
        "/no/where",
        "a/b/c",
        "runs/mod le",
        "x" * 5000,
        "a\0b",
        "",
        "x" * 150 + "/" + "y" * 150,
    ):
        assert "no such folder" in told(lambda name=name: find_folder(name)) if name else True
    assert asked == []


def test_an_id_that_nothing_local_is_near_is_asked_for_once(asked):
    message = told(lambda: load_model("some-owner/some-model"))
    assert asked == ["some-owner/some-model"]
    assert "hf download some-owner/some-model" in message


@pytest.mark.parametrize("name", [row.name for row in PRESETS.values() if row.hub])
def test_a_released_model_that_is_not_here_ends_in_one_line_that_says_how_to_get_it(asked, tmp_path, name):
    message = told(lambda: load_model(name))
    row = PRESETS[name]
    assert asked == [row.hub] and row.hub.startswith("zai-org/")
    for part in (f"about {row.download_gb:g} GB", str(tmp_path / "cache"), f"hf download {row.hub}"):
        assert part in message


def test_planning_and_dry_runs_never_ask_the_hub(asked):
    assert find_spec("5b").name == "5b"
    assert find_spec("THUDM/CogVideoX-5b-I2V").name == find_spec("zai-org/CogVideoX-5b-I2V").name == "5b-i2v"
    assert "nothing is downloaded here" in told(lambda: find_spec("some-owner/some-model"))
    assert "nothing is downloaded here" in told(lambda: find_folder("5b", download=False))
    assert asked == []


def test_an_old_download_is_found_under_the_old_owner(asked, tmp_path):
    repository = tmp_path / "cache" / "models--THUDM--CogVideoX-2b"
    write_model_folder(repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for name in ("2b", "THUDM/CogVideoX-2b", "zai-org/CogVideoX-2b"):
        assert find_folder(name) == find_folder(name, download=False) == repository / "snapshots" / ("0" * 40)
    assert inspect("2b").kind == "model folder"
    assert hub.released("thudm/cogvideox-2B").name == "2b"
