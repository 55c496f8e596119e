"""Our reading of both tokenizer files against transformers' T5Tokenizer."""

from __future__ import annotations

import pytest

from cogvideox.errors import CheckpointError
from cogvideox.text import Tokenizer, train_tokenizer

SENTENCES = [
    "a red circle moves to the right",
    "two blue squares grow, slowly",
    "The camera pans over a ring.",
]
PROMPTS = [
    *SENTENCES,
    "",
    "  two   spaces ",
    "Ünïcödé ﬁ ½ 東京 🙂",
    "tab\tand\nline",
    "a" * 300,
    "</s> <pad> <unk>",
]


@pytest.fixture(scope="module")
def trained():
    return train_tokenizer(SENTENCES * 5, vocabulary=60, max_tokens=16)


@pytest.fixture(scope="module")
def peer(trained, tmp_path_factory):
    from transformers import T5Tokenizer

    folder = tmp_path_factory.mktemp("peer")
    trained.write(folder)
    return T5Tokenizer.from_pretrained(str(folder), extra_ids=0)


@pytest.mark.parametrize("prompt", PROMPTS[:-1])
def test_the_original_file_gives_the_ids_of_transformers(trained, peer, prompt):
    assert trained.encode(prompt) == peer(prompt, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_translated_file_gives_the_ids_of_transformers(peer, tmp_path, prompt):
    peer.save_pretrained(str(tmp_path))
    ours = Tokenizer.read(tmp_path)
    assert "tokenizer.json" in ours.files and "spiece.model" not in ours.files
    assert ours.encode(prompt) == peer(prompt, add_special_tokens=False)["input_ids"]


def test_files_are_written_back_byte_for_byte(trained, tmp_path):
    trained.write(tmp_path / "a")
    Tokenizer.read(tmp_path / "a").write(tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert (tmp_path / "b" / file.name).read_bytes() == file.read_bytes()


def test_text_comes_back(trained):
    assert trained.decode(trained.encode(SENTENCES[0])) == SENTENCES[0]


@pytest.mark.parametrize("files", [{}, {"spiece.model": b"nonsense"}, {"tokenizer.json": b"{"}])
def test_a_broken_tokenizer_is_refused(files):
    with pytest.raises(CheckpointError, match=r"tokenizer|spiece"):
        Tokenizer(files, "here/tokenizer")
