"""A model by name: what is mistyped is not sent to the hub, what is not here says how to get it, old owners work."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

import cogvideox.checkpoints.hub as hub
from cogvideox.checkpoints import find_folder, find_spec, inspect, load_model
from cogvideox.checkpoints.adapter_reading import find_adapter
from cogvideox.errors import CheckpointError
from cogvideox.presets import PRESETS
from support.hub import COMMIT, serving_hub
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


# files of a repository


FILES = {
    "README.md": b"#",
    "a.safetensors": b"aaaa",
    "a.json": b"{}",
    "sub/b.safetensors": b"bb",
    "huge.bin": b"x" * 9,
}


@pytest.fixture
def hub_here(monkeypatch, tmp_path):
    """A hub on this machine with a repository, and a cache of its own; gives a way to serve some files."""

    def serve(files, revisions=("main",)):
        address, seen = stack.enter_context(serving_hub("some-owner/some-lora", files, revisions))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        return seen

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with ExitStack() as stack:
        yield serve


def file_of(text, **how):
    return hub.find_file(hub.read_reference(text), **how)


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("owner/name", hub.HubReference("owner/name")),
        ("owner/name@v1.0", hub.HubReference("owner/name", "", "v1.0")),
        ("owner/name:a/b.safetensors", hub.HubReference("owner/name", "a/b.safetensors")),
        ("owner/name:a.safetensors@refs/pr/1", hub.HubReference("owner/name", "a.safetensors", "refs/pr/1")),
        ("owner/a.safetensors", None),
        ("owner/name:../secret", None),
        ("owner/name:/etc/x", None),
        ("/owner/name", None),
        ("a/b/c", None),
        ("name", None),
        ("owner/na\0me", None),
        ("x" * 500 + "/y", None),
    ],
)
def test_names_on_the_hub_are_read(text, reference):
    assert hub.read_reference(text) == reference
    assert reference is None or str(reference) == text


def test_a_file_is_downloaded_with_what_belongs_to_it_and_nothing_else(hub_here):
    seen = hub_here(FILES, ("main", "v1"))
    file = file_of("some-owner/some-lora:a.safetensors@v1")
    assert file.read_bytes() == b"aaaa" and file.with_suffix(".json").read_bytes() == b"{}"
    assert not any("huge" in each or "sub/b" in each for each in seen)
    assert hub.origin_of(file) == {"repository": "some-owner/some-lora", "revision": COMMIT}
    assert find_folder("some-owner/some-lora:sub/b.safetensors").read_bytes() == b"bb"


def test_an_earlier_download_needs_no_network(hub_here, monkeypatch):
    hub_here(FILES)
    file = file_of("some-owner/some-lora:a.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert file_of("some-owner/some-lora:a.safetensors") == file
    assert file_of("some-owner/some-lora:a.safetensors", download=False) == file
    assert file_of("some-owner/some-lora") == file, "the only one here"
    message = told(lambda: file_of("some-owner/some-lora:sub/b.safetensors"))
    assert "on this computer are of it a.safetensors" in message and "not available from the hub" in message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("some-owner/some-lora", "2 safetensors files"),
        ("some-owner/some-lora", "name one, such as some-owner/some-lora:a.safetensors"),
        ("some-owner/some-lora:c.safetensors", "no such file (did you mean 'a.safetensors'?)"),
        ("some-owner/other", "hf download some-owner/other --local-dir other"),
        ("some-owner/other:a.safetensors", "hf download some-owner/other a.safetensors --local-dir other"),
        ("some-owner/some-lora:a.safetensors@gone", "not available from the hub"),
    ],
)
def test_what_the_hub_does_not_hold_is_told_with_what_it_holds(hub_here, text, part):
    hub_here(FILES)
    assert part in told(lambda: file_of(text))


def test_the_usual_name_comes_before_others(hub_here):
    hub_here(FILES | {"pytorch_lora_weights.safetensors": b"pp"})
    assert find_adapter("some-owner/some-lora").read_bytes() == b"pp"


def test_nothing_is_downloaded_where_that_is_not_wanted(hub_here, tmp_path):
    seen = hub_here(FILES)
    message = told(lambda: file_of("some-owner/some-lora:a.safetensors", download=False))
    assert "nothing is downloaded here" in message and seen == []
    (tmp_path / "some-owner").mkdir()
    assert (
        "some-owner/ exists and does not hold it" in told(lambda: file_of("some-owner/some-lora"))
        and seen == []
    )


@pytest.mark.parametrize(
    ("text", "ask"),
    [
        ("some-owner/some-lora:a.safetensors@v1", find_adapter),
        ("some-owner/some-lora:a.safetensors", find_folder),
        (f"some-owner/some-model@{COMMIT}", find_folder),
        ("some-owner/some-model@main", find_folder),
        ("some-owner/some-model", find_folder),
    ],
)
def test_a_hub_that_does_not_answer_is_asked_once_and_in_silence(hub_here, monkeypatch, capfd, text, ask):
    """The client's own way is five more tries in 23 seconds, with two lines on stderr for each."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"sleeps {seconds} s"))
    message = told(lambda: ask(text))
    assert "not available from the hub" in message and "hf download" in message
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("revision", ["..", "../..", "a/../../b", "/etc/hostname"])
def test_a_revision_is_no_path_out_of_the_cache(revision):
    assert hub.read_reference(f"owner/name@{revision}") is None
    assert hub.read_reference(f"owner/name:a.safetensors@{revision}") is None
    assert hub.read_reference("owner/name@refs/pr/1").revision == "refs/pr/1"
