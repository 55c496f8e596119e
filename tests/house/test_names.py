"""One name for one thing, explained where it stands; each package says what its files are; no circle of imports."""

from __future__ import annotations

import pytest

from house.debts import BANNED_NAMES, CYCLES, UNDOCUMENTED, UNMAPPED, new, paid, table
from house.reading import BANNED, MEASURED, explains, public_classes, typing_cycles

DEBTS = {"BANNED_NAMES": BANNED_NAMES, "UNDOCUMENTED": UNDOCUMENTED, "UNMAPPED": UNMAPPED, "CYCLES": CYCLES}
CURE = {
    "BANNED_NAMES": f"each of these names stands for ten things ({', '.join(sorted(BANNED))}); call attributes, "
    "settings, parameters, modules and functions what they are (device, index, path, slot, micro-step, shard, span, "
    "created, ...)",
    "UNDOCUMENTED": "public classes, functions and methods need a docstring that can be read alone: four words at "
    "least, and not only 'See ...'",
    "UNMAPPED": "the docstring of a package's __init__ names each of its modules as ``name`` in a table, one line each",
    "CYCLES": "modules import each other, counting imports for type checking; move what both need below them",
}


@pytest.mark.parametrize("kind", DEBTS)
def test_the_house_rules_hold_and_no_new_debt_is_made(kind):
    added = new(table(DEBTS[kind]), MEASURED[kind]())
    shown = typing_cycles() if added and kind == "CYCLES" else added
    assert not added, (
        f"{CURE[kind]}. New here (was a file moved? move its line in tests/house/debts.py): {shown}"
    )


@pytest.mark.parametrize("kind", DEBTS)
def test_debts_that_are_paid_leave_the_list(kind):
    gone = paid(table(DEBTS[kind]), MEASURED[kind]())
    assert not gone, (
        f"well done, these are no longer needed in {kind}. Run 'python tests/house/debts.py' (it only removes lines), "
        f"commit, and go on: {gone}"
    )


def test_a_public_class_name_stands_for_one_class():
    twice = {name: files for name, files in public_classes().items() if len(files) > 1}
    assert not twice, f"rename all but one after what they are: {twice}"


def test_a_pointer_is_no_docstring():
    assert not explains(None) and not explains("How many.") and not explains("See the module's docstring.")
    assert explains("The number of frames after rounding up.")
