"""What clients read names no path of the operator's machine, and no switch that they do not have."""

import pytest

from cogvideox.studio.public_text import PublicText, model_names

PUBLIC = PublicText(
    {"toon": "/srv/secret/toon.safetensors", "toon-2": "/srv/secret/toon.safetensors-2", "hub": "a/b"}
)


@pytest.mark.parametrize(
    "text, shown",
    [
        ("/srv/secret/toon.safetensors: no alpha; give --lora-alpha", "toon: no alpha; give --lora-alpha"),
        ("/srv/secret/toon.safetensors-2: damaged", "toon-2: damaged"),
        ("a/b: not a model", "hub: not a model"),
        ("model '/srv/models/CogVideoX-2b': no vae", "model 'CogVideoX-2b': no vae"),
        ("~/models/x: gone", "x: gone"),
        ("~root/models/x: gone", "x: gone"),
        (r"C:\models\x.gguf: gone", "x.gguf: gone"),
        (
            "use 8n + 1 frames, 16/9, and/or http://127.0.0.1/v1",
            "use 8n + 1 frames, 16/9, and/or http://127.0.0.1/v1",
        ),
        ("transformer/config.json: missing", "transformer/config.json: missing"),
        (
            "about 31 hours; ask for fewer steps; --anyway makes it all the same",
            "about 31 hours; ask for fewer steps",
        ),
        ("does not fit; GenerateOptions(anyway=True) makes it all the same", "does not fit"),
    ],
)
def test_paths_are_names(text: str, shown: str) -> None:
    assert PUBLIC(text) == shown


def test_folders_of_models_are_called_by_their_names(tmp_path, monkeypatch) -> None:
    for each in ("a/fox", "b/fox", "b/cat"):
        (tmp_path / each).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "b")
    given = ["5b", "owner/name", f"{tmp_path}/a/fox/", "fox", "cat/", "5b"]
    names = model_names(given)
    assert [*names] == ["5b", "owner/name", "fox", str((tmp_path / "b/fox").resolve()), "cat"]
    assert [*names.values()] == given[:-1]
