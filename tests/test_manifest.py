"""What made this file is recorded, in plain values, without telling where people keep their files."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest

from cogvideox.errors import MediaError, OutputError
from cogvideox.files.digest import sha256_of
from cogvideox.manifest import AI_MADE, manifest, write_sidecar


def test_a_record_is_plain_and_says_that_a_model_made_it(tmp_path):
    image = tmp_path / "secret-folder" / "first.png"
    image.parent.mkdir()
    image.write_bytes(b"abc")
    record = manifest(
        "generate", {"prompt": "x", "steps": 3}, {"image": image, "model": "tiny", "video": None}, 5
    )
    assert record["digitalSourceType"] == AI_MADE and AI_MADE.endswith("/trainedAlgorithmicMedia")
    assert record["inputs"]["image"] == {"file": "first.png", "sha256": hashlib.sha256(b"abc").hexdigest()}
    assert record["inputs"]["model"] == "tiny" and record["seed"] == 5
    assert "secret-folder" not in json.dumps(record)
    assert {"python", "torch"} <= set(record["versions"])


def test_the_config_hash_changes_with_any_setting_and_with_nothing_else():
    one = manifest("generate", {"a": 1, "b": 2}, {}, 0)
    same = manifest("generate", {"b": 2, "a": 1}, {}, 1)
    other = manifest("generate", {"a": 1, "b": 3}, {}, 0)
    assert one["config_hash"] == same["config_hash"] != other["config_hash"]


def test_hash_of_a_folder_depends_on_names_and_contents(tmp_path):
    folder = tmp_path / "m"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a").write_bytes(b"1")
    first = sha256_of(folder)
    assert len(first) == 64 and first == sha256_of(folder)
    (folder / "sub" / "a").rename(folder / "sub" / "b")
    assert sha256_of(folder) != first


def test_a_missing_input_is_named(tmp_path):
    with pytest.raises(MediaError, match="gone.png"):
        manifest("generate", {}, {"image": tmp_path / "gone.png"}, 0)


def test_a_sidecar_stands_beside_the_file_and_is_not_overwritten(tmp_path):
    path = write_sidecar(tmp_path / "red.mp4", {"a": "é"})
    assert path == tmp_path / "red.json" and json.loads(path.read_text(encoding="utf-8")) == {"a": "é"}
    with pytest.raises(OutputError, match="exists already"):
        write_sidecar(tmp_path / "red.mp4", {})


def test_versions_are_read_without_importing_the_libraries():
    code = "import sys; from cogvideox.manifest import versions; versions(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
