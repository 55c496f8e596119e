"""The tiny world's text encoder: what it is taught of two different things, and what it keeps of what it knew."""

from __future__ import annotations

import pytest
import torch

from cogvideox.errors import ConfigError
from cogvideox.training.tasks.text_encoder import TOKEN_LABELS, TextTraining
from cogvideox.world import caption, sample_scene

GOING_ON = {"start": "tiny", "pairs": 0.5, "keep": 5.0, "dropout": 0.1, "batch": 16}


def told_at(task, text: str, scene) -> list[tuple[str, set[str]]]:
    """(piece, what it is taught to say) for each token of a caption."""
    words = torch.zeros(32, len(TOKEN_LABELS))
    task._label_tokens(words, text, scene)
    pieces = [task.text.tokenizer.decode([piece]) for piece in task.text.tokenizer.encode(text)]
    return [
        (piece, {TOKEN_LABELS[at] for at in row.nonzero().flatten()})
        for piece, row in zip(pieces, words, strict=False)
    ]


def test_each_token_of_a_thing_is_taught_which_thing_it_is_part_of():
    task = TextTraining(**GOING_ON).build(0)
    for index in range(50):
        scene = sample_scene(3, index, tier="pair")
        taught = told_at(task, caption(scene, 3, index), scene)
        for place, thing in zip(("first", "second"), scene.things, strict=True):
            spelt = "".join(piece for piece, said in taught if place in said)
            assert spelt == "".join(thing), taught
            assert all(said == {place, *thing} for _, said in taught if place in said)


def test_going_on_learns_pairs_and_keeps_what_a_transformer_reads():
    task = TextTraining(**GOING_ON).build(0)
    moves = [p for p in task.module.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(moves, lr=2e-3)
    reports = []
    for step in range(12):
        report = task.losses(step)
        optimizer.zero_grad()
        report["loss"].backward()
        optimizer.step()
        reports.append({name: float(value.detach()) for name, value in report.items()})
    assert reports[-1]["loss"] < 0.9 * reports[0]["loss"] and reports[-1]["moved"] < 0.1
    assert set(task.measure(task.module)) == {"held_out_exact", "held_out_pairs", "held_out_moved"}


def test_a_step_is_a_function_of_its_number_where_nothing_is_kept():
    one, other = (TextTraining(batch=8, scenes=50).build(0) for _ in range(2))
    other.losses(0)
    assert torch.equal(one.losses(1)["loss"], other.losses(1)["loss"])


def test_a_batch_without_a_pair_or_of_pairs_only_has_a_loss():
    for pairs in (0.001, 0.999):
        task = TextTraining(**(GOING_ON | {"pairs": pairs})).build(0)
        assert torch.isfinite(task.losses(0)["loss"])


def test_what_cannot_go_on_is_refused():
    with pytest.raises(ConfigError, match="no features to keep"):
        TextTraining(keep=1.0)
    with pytest.raises(ConfigError, match="make width, layers and heads equal"):
        TextTraining(start="tiny", width=64).build(0)
    for layers in (1, 3):
        with pytest.raises(ConfigError, match="make width, layers and heads equal"):
            TextTraining(start="tiny", layers=layers).build(0)
