"""SIGKILL at random instants, many inside a save: the run ends with the same bits and no sample lost or doubled.

Each life of the run is a process of its own. A life dies by its own hand at an
operation of the file system that was drawn beforehand (so that deaths fall inside saves), or from outside after a
drawn time.
"""

import random
import signal
from pathlib import Path

import pytest
import torch

from cogvideox.training.checkpoint.state import latest_state
from cogvideox.training.loop import train
from support.dying import die_at_operation
from support.processes import exit_code
from support.training_line import run

STEPS, KILLS = 24, 50


def one_life(out: Path, die_at: int | None, mark: Path) -> None:
    die_at_operation(out, die_at, mark)
    train(run(out, steps=STEPS, save_every=2))


def live(out: Path, die_at: int | None, after: float | None, mark: Path) -> int:
    """Live once; the signal that ended it, or 0."""
    ended = exit_code(
        one_life, out, die_at, mark, kill=signal.SIGKILL if after is not None else None, after=after or 0.0
    )
    assert ended in (0, -signal.SIGKILL)
    return -ended


def bits(value) -> list:
    """Everything of a state, comparable."""
    if isinstance(value, torch.Tensor):
        return [str(value.dtype), tuple(value.stride()), value.numpy().tobytes()]
    if isinstance(value, dict):
        return [[key, bits(each)] for key, each in value.items()]
    if isinstance(value, list | tuple):
        return [bits(each) for each in value]
    return [value]


@pytest.mark.timeout(600)
def test_a_run_killed_fifty_times_ends_with_the_same_bits_and_ledger(tmp_path):
    draw, mark = random.Random(0), tmp_path / "inside"
    whole = tmp_path / "whole"
    assert live(whole, None, None, mark) == 0
    kills = inside = runs = 0
    while kills < KILLS or inside < 15:
        runs += 1
        out = tmp_path / f"run{runs}"
        while True:
            outside = draw.random() < 0.2
            mark.unlink(missing_ok=True)
            ended = live(
                out,
                None if outside else draw.randrange(1, 220),
                draw.uniform(0, 0.3) if outside else None,
                mark,
            )
            if not ended:
                break
            assert ended == signal.SIGKILL
            kills, inside = kills + 1, inside + (mark.exists() and mark.read_text() == "inside")
        assert bits(latest_state(out)) == bits(latest_state(whole))
        assert (out / "ledger.jsonl").read_bytes() == (whole / "ledger.jsonl").read_bytes()
        assert (out / "model" / "training.json").is_file()
        assert not list(out.glob(".*")), "nothing half-written is left"
    print(f"{kills} kills, {inside} of them inside a save, {runs} runs")


def test_the_ledger_names_each_sample_of_each_step_once(tmp_path):
    train(run(tmp_path, steps=5))
    lines = (tmp_path / "ledger.jsonl").read_text().splitlines()
    assert len(lines) == 5 * 8 and lines[9] == '{"step": 1, "slot": 1, "id": "line/9"}'
