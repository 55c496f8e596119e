"""JSON and YAML of strangers: data only, bounded, and what is not certain is refused."""

from __future__ import annotations

import os
import time

import pytest

from cogvideox.errors import ConfigError, InputError
from cogvideox.files import dump_yaml, parse_json, parse_yaml, read_small_text, read_yaml, short
from cogvideox.files.structured import MOST_DEPTH

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{c}: &{c} [{','.join(['*' + p] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
)


def quick(work, most=1.0):
    started = time.monotonic()
    work()
    assert time.monotonic() - started < most


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BOMB, "aliases unfolded"),
        ("a: &a [1, *a]", "inside itself"),
        ("a: " + "[" * 100_000, "nest"),
        ("a: " + "{b: " * 500 + "1" + "}" * 500, "nested too deeply"),
        ("a: 1\nb: 2\na: 3", "twice"),
        ("lr: .inf", "finite"),
        ("lr: .nan", "finite"),
        ("lr: 1e999", "finite"),
        ("n: " + "9" * 5000, "digits"),
        ("a: !!python/object/apply:os.system [id]", "YAML"),
        ("? [1, 2]\n: 3", "one word"),
        ("a: [1, 2", "line"),
    ],
)
def test_yaml_that_is_not_plain_bounded_data_is_refused_at_once(text, why):
    def work():
        with pytest.raises(ConfigError, match=why):
            parse_yaml(text, "recipe.yaml")

    quick(work)


def test_yaml_is_read_as_version_1_2():
    text = "a: 1:30\nb: 1e-4\nc: no\nd: true\ne: 2020-01-01\nf: 010\ng: 0x10\nh: -.5\ni:\nj: ~\nk: +3"
    assert parse_yaml(text, "t") == {
        "a": "1:30", "b": 1e-4, "c": "no", "d": True, "e": "2020-01-01", "f": "010",
        "g": 16, "h": -0.5, "i": None, "j": None, "k": 3,
    }  # fmt: skip


def test_yaml_with_modest_anchors_works():
    text = "base: &base {x: 1, y: 2}\nrun: {<<: *base, y: 3}\nlist: [*base, *base]"
    assert parse_yaml(text, "t")["run"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1, "a": 2}', "twice"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "Infinity"),
        ('{"a": 1e999}', "finite"),
        ('{"a": %s}' % ("9" * 4000), "digits"),
        ("[" * 100_000, "deeply"),
        ("[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1), "deeply"),
        ('{"a": ', "not JSON"),
    ],
)
def test_json_that_is_not_plain_bounded_data_is_refused_at_once(text, why):
    def work():
        with pytest.raises(ConfigError, match=why):
            parse_json(text, "config.json")

    quick(work)


def test_json_within_the_bounds_is_read():
    deep = "[" * MOST_DEPTH + "]" * MOST_DEPTH
    assert parse_json('{"a": [1, 2.5, null, true, "x"]}', "t") == {"a": [1, 2.5, None, True, "x"]}
    assert parse_json(deep, "t") is not None


def test_a_pipe_a_device_a_folder_and_an_endless_file_are_named_not_waited_for(tmp_path):
    pipe = tmp_path / "clip.txt"
    os.mkfifo(pipe)
    large = tmp_path / "large.txt"
    with open(large, "wb") as file:
        file.truncate(3 << 30)
    for path, why in (
        (pipe, "pipe"),
        ("/dev/zero", "device"),
        (tmp_path, "folder"),
        (large, "more than"),
        (tmp_path / "none.txt", "no such file"),
    ):

        def work(path=path, why=why):
            with pytest.raises(InputError, match=why):
                read_small_text(path)

        quick(work)


def test_links_lead_nowhere_outside_of_the_folder(tmp_path):
    folder, secret = tmp_path / "clips", tmp_path / "secret.txt"
    folder.mkdir()
    secret.write_text("secret")
    (folder / "good.txt").write_text("a cat")
    (folder / "out.txt").symlink_to(secret)
    (folder / "in.txt").symlink_to("good.txt")
    (folder / "self.txt").symlink_to("self.txt")
    assert read_small_text(folder / "in.txt", root=folder) == "a cat"
    for name in ("out.txt", "self.txt"):
        with pytest.raises(InputError, match="leads out"):
            read_small_text(folder / name, root=folder)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_texts_are_read_in_every_encoding_that_says_what_it_is(tmp_path, encoding):
    file = tmp_path / "a.txt"
    file.write_bytes("ein Kätzchen\r\nzwei\n".encode(encoding))
    assert read_small_text(file) == "ein Kätzchen\nzwei\n"


@pytest.mark.parametrize("content", [b"caf\xe9", b"a\x00b"])
def test_another_encoding_is_named(tmp_path, content):
    file = tmp_path / "a.txt"
    file.write_bytes(content)
    with pytest.raises(InputError, match="UTF-8"):
        read_small_text(file)


def test_a_bounded_repr_is_quick_for_values_that_unfold_without_end():
    value = "x"
    for _ in range(60):
        value = [value] * 9
    quick(lambda: short(value))
    assert len(short(value)) <= 120
    assert len(short("x" * 10**7)) <= 120


def test_a_file_of_yaml_is_named_in_its_errors(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("a: [1")
    with pytest.raises(ConfigError, match="recipe.yaml"):
        read_yaml(file)


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"k{i}: 1\n" for i in range(49_000)),
        "".join(f"- &a{i} 1\n" for i in range(49_000)),
        "[" * 60 + ",".join(["1"] * 90_000) + "]" * 60,
        "a: " + "x " * 500_000,
    ],
    ids=["keys", "anchors", "list", "text"],
)
def test_the_largest_yaml_that_is_read_takes_seconds_not_minutes(text):
    quick(lambda: parse_yaml(text, "t"), most=15.0)


def test_a_key_that_stands_twice_among_many_is_found_at_once():
    def work():
        with pytest.raises(ConfigError, match="'k89999' stands twice"):
            parse_json("{" + ",".join(f'"k{i}":1' for i in range(90_000)) + ',"k89999":2}', "t")

    quick(work, most=5.0)


@pytest.mark.parametrize("word", ["1e5", "1.e5", "1:30", "on", "0x1F", "010", "1_000", "<<", ""])
def test_yaml_that_is_written_is_read_back_and_by_readers_of_version_1_1_too(word):
    import yaml

    values = {"a": word, "b": [1e-5, 1e16, 3, None, True]}
    assert parse_yaml(dump_yaml(values), "t") == yaml.safe_load(dump_yaml(values)) == values
