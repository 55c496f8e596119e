"""The tiny world's text encoder: what it is taught at each token, and that it can be learned."""

from __future__ import annotations

import pytest
import torch

from cogvideox.errors import ConfigError
from cogvideox.training.tasks.text_encoder import ROLES, TOKEN_LABELS, TextTraining, roles, token_labels
from cogvideox.world import caption, sample_scene

TWO = {"pair": 0.5, "transform": 0.5}
SMALL = {"scene_mix": TWO, "dropout": 0.1, "batch": 16, "scenes": 500}


def taught_at(task, text: str, scene) -> list[tuple[str, set[str]]]:
    """(piece, what it is taught to say) for each token of a caption."""
    truth = torch.zeros(32, len(TOKEN_LABELS))
    task._label_tokens(truth, text, scene)
    pieces = [task.text.tokenizer.decode([piece]) for piece in task.text.tokenizer.encode(text)]
    return [
        (piece, {TOKEN_LABELS[at] for at in line.nonzero().flatten()})
        for piece, line in zip(pieces, truth, strict=False)
    ]


def test_each_token_of_a_thing_is_taught_its_role_colour_and_shape():
    task = TextTraining(**SMALL).build(0)
    for index in range(50):
        scene = sample_scene(3, index, tier="pair")
        taught = taught_at(task, caption(scene, 3, index), scene)
        for role, thing in zip(("first", "second"), scene.things, strict=True):
            spelt = "".join(piece for piece, labels in taught if role in labels)
            assert spelt.rstrip(".") == "".join(thing), taught
            assert all(labels == {role, *thing} for _, labels in taught if role in labels)


@pytest.mark.parametrize("tier", ["motion", "size", "rotate", "transform", "count", "pan", "pair"])
def test_every_story_names_each_of_its_things_once_in_order(tier):
    for index in range(100):
        scene = sample_scene(5, index, tier=tier)
        text = caption(scene, 5, index)
        named = [
            (word.strip(".,").lower(), thing)
            for word, thing in zip(text.split(), roles(text, scene), strict=True)
        ]
        shapes = [(thing[0], thing[2]) for word, thing in named if thing and word.startswith(thing[2])]
        expected = [("first", scene.shape)]
        if scene.second:
            expected.append(("second", scene.second[1]))
        if scene.into:
            expected.append(("into", scene.into))
        assert shapes == expected, text
        assert all(
            word in (thing[1], thing[2], f"{thing[2]}s", f"{thing[2]}es") for word, thing in named if thing
        ), text


def test_tokens_of_the_rich_style_say_who_moves_where_who_is_in_front_and_what_an_accent_is():
    labels = token_labels("rich")
    assert labels[: len(ROLES)] == ROLES and {"star", "fish", "left", "front", "behind", "accent"} <= set(
        labels
    )
    for index in range(40):
        scene = sample_scene(7, index, tier="meet", style="rich")
        taught = [thing for thing in roles(caption(scene, 7, index), scene) if thing]
        first, second = (next(thing for thing in taught if thing[0] == role) for role in ("first", "second"))
        assert first[:4] == ("first", scene.colour, scene.shape, scene.direction)
        assert second[1:3] == scene.second
        assert (first[-1], second[-1]) == (
            ("front", "behind") if scene.front == "first" else ("behind", "front")
        )
    scene = next(
        scene for scene in (sample_scene(7, index, style="rich") for index in range(200)) if scene.accent
    )
    taught = [thing for thing in roles(caption(scene, 7, 0), scene) if thing]
    assert taught[0][1:] == (scene.colour, scene.shape)
    assert taught[-1] == ("first", scene.accent, scene.shape, "accent")


def test_the_text_encoder_learns_the_rich_style():
    task = TextTraining(scene_style="rich", batch=16, scenes=200, max_tokens=40).build(0)
    report = task.losses(0)
    assert report["loss"].isfinite() and task.module.tokens.out_features == len(token_labels("rich"))
    longest = max(len(task.text.tokenizer.encode(task.clips["train"].caption(n, 0))) for n in range(200))
    assert longest <= 40


def test_the_order_of_a_transformation_becomes_readable():
    task = TextTraining(**(SMALL | {"batch": 32})).build(0)
    optimizer = torch.optim.Adam(task.module.parameters(), lr=2e-3)
    losses = []
    for step in range(30):
        report = task.losses(step)
        optimizer.zero_grad()
        report["loss"].backward()
        optimizer.step()
        losses.append(float(report["tokens"].detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert set(task.measure(task.module)) == {"held_out_exact", "held_out_two", "swap_distance"}


def test_a_step_is_a_function_of_its_number():
    one, other = (TextTraining(batch=8, scenes=50).build(0) for _ in range(2))
    other.losses(0)
    assert torch.equal(one.losses(1)["loss"], other.losses(1)["loss"])


@pytest.mark.parametrize("mix", [None, {"pair": 1.0}, {"motion": 1.0}])
def test_a_batch_without_a_pair_or_of_pairs_only_has_a_loss(mix):
    task = TextTraining(**(SMALL | {"scene_mix": mix})).build(0)
    assert torch.isfinite(task.losses(0)["loss"])
    assert all(value >= 0 for value in task.measure(task.module).values())


def test_a_story_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="transfrom"):
        TextTraining(scene_mix={"transfrom": 1.0}).build(0)
