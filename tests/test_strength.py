"""A strength is one number, or numbers over parts of the steps; what is neither is refused with the form."""

from __future__ import annotations

import pytest

from cogvideox.errors import ConfigError
from cogvideox.strength import Strength, split_strength


def values(text, count):
    strength = Strength.parse(text)
    at = [strength.span_at(step, count) for step in range(count)]
    return [None if index is None else strength.spans[index].value for index in at]


def test_one_number_holds_at_every_step():
    assert values("0.8", 3) == [0.8] * 3
    assert Strength.parse("0.8").constant == Strength.of(0.8).plain == 0.8
    assert Strength.of("-1e-3").constant == -0.001
    assert Strength.parse("0.8@0-1") == Strength.parse("0.8"), "the whole of the steps"


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("0.8@0-0.6", 5, [0.8, 0.8, 0.8, None, None]),
        ("0.8@0.0-0.6", 50, [0.8] * 30 + [None] * 20),
        ("0.2@0.5-1,0.8@0-0.5", 4, [0.8, 0.8, 0.2, 0.2]),
        ("1@0.25-0.75", 4, [None, 1, 1, None]),
        ("1@0-0.1", 50, [1] * 5 + [None] * 45),
        ("1@0-0.3,2@0.3-1", 1, [1]),
    ],
)
def test_parts_of_the_steps_begin_with_their_start_and_end_before_their_stop(text, count, expected):
    assert values(text, count) == expected
    assert Strength.parse(text).constant is None
    assert Strength.parse(str(Strength.parse(text))) == Strength.parse(text), "written and read again"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("much", "is none; write 0.8"),
        ("0.8@", "is none"),
        ("0.8@0.6", "is none"),
        ("0.8@0.6-0.2", "0.6-0.2 is no part of the steps"),
        ("0.8@0-1.5", "0-1.5 is no part"),
        ("1@0-0.6,2@0.5-1", "overlap"),
        ("1,2", "overlap"),
        ("100", "must lie between -100 and 100"),
        ("nan", "must lie between"),
        ("inf", "must lie between"),
        ("", "is none"),
    ],
)
def test_what_is_none_is_refused(text, told):
    with pytest.raises(ConfigError, match=told):
        Strength.parse(text)


@pytest.mark.parametrize(
    ("text", "name", "strength"),
    [
        ("a.safetensors", "a.safetensors", None),
        ("a.safetensors:0.8", "a.safetensors", "0.8"),
        ("a.safetensors:0.8@0-0.6,0.1@0.6-1", "a.safetensors", "0.8@0-0.6,0.1@0.6-1"),
        ("owner/name", "owner/name", None),
        ("owner/name:0.5", "owner/name", "0.5"),
        ("owner/name:10_lora.safetensors", "owner/name:10_lora.safetensors", None),
        ("owner/name:a.safetensors@main", "owner/name:a.safetensors@main", None),
        ("owner/name:a.safetensors@main:1", "owner/name:a.safetensors@main", "1"),
        ("C:\\models\\a.safetensors", "C:\\models\\a.safetensors", None),
    ],
)
def test_it_ends_the_name_of_what_it_is_for(text, name, strength):
    found = split_strength(text)
    assert found == (name, None if strength is None else Strength.parse(strength))


def test_a_wrong_one_behind_a_name_is_told():
    with pytest.raises(ConfigError, match="0.9-0.1 is no part of the steps"):
        split_strength("a.safetensors:0.8@0.9-0.1")


@pytest.mark.parametrize(("share", "steps", "first"), [("0.28", 25, 7), ("0.07", 100, 7), ("0.56", 50, 28)])
def test_a_share_that_is_a_whole_step_ends_before_it(share, steps, first):
    strength = Strength.parse(f"0.8@0-{share},0.2@{share}-1")
    assert [strength.span_at(step, steps) for step in range(steps)] == [0] * first + [1] * (steps - first)


def test_a_number_without_end_is_refused_by_name():
    with pytest.raises(ConfigError, match="must be above"):
        Strength.of(10**390)


def test_a_text_without_end_is_refused_at_once():
    with pytest.raises(ConfigError, match="the most is 4096"):
        Strength.parse("1@0-0.1," * 10_000)
