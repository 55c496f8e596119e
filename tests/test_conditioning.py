"""Conditions: one value, filled in four ways."""

from __future__ import annotations

import pytest
import torch

from cogvideox.conditioning import Coder, continuation, from_pictures, from_text, from_video
from cogvideox.errors import FrameError, InputError
from support.golden import fill
from support.models import golden_model


def coder(kind: str = "t2v", **settings) -> Coder:
    choices = {name: settings.pop(name) for name in ("sample", "image_scale") if name in settings}
    return Coder(golden_model(kind, **settings), torch.float32, torch.Generator().manual_seed(0), **choices)


def pixels(frames: int) -> torch.Tensor:
    return fill("pixels", (1, 3, frames, 32, 48))


def test_text_alone_is_the_empty_condition():
    condition = from_text(golden_model().spec)
    assert condition.channels is condition.known is condition.start is None
    assert condition.strength == 1.0


def test_an_image_model_without_an_image_is_refused():
    with pytest.raises(InputError, match="image: missing"):
        from_text(golden_model("i2v").spec)


def test_an_image_lies_at_index_zero_with_zeros_after_it():
    condition = from_pictures(coder("i2v"), {0: pixels(1)}, 3)
    assert condition.channels.shape == (1, 4, 3, 4, 6)
    assert condition.channels[:, :, 0].any() and not condition.channels[:, :, 1:].any()


@pytest.mark.parametrize(
    ("invert", "choice", "factor"),
    [
        (False, "released", 0.7),
        (True, "released", 1 / 0.7),
        (True, "multiply", 0.7),
        (False, "divide", 1 / 0.7),
        (True, "none", 1.0),
    ],
)
def test_image_latents_are_scaled_as_the_checkpoint_or_the_caller_says(invert, choice, factor):
    code = coder("i2v", invert_scale_latents=invert, sample=False, image_scale=choice)
    raw = code.model.vae.encode(pixels(1)).mode()
    torch.testing.assert_close(code.picture(pixels(1)), raw * factor)


def test_scaling_comes_off_again_before_decoding():
    model = golden_model()
    latents = model.encode_video(pixels(9), sample=False)
    torch.testing.assert_close(
        model.decode_latents(latents),
        model.vae.decode(model.vae.encode(pixels(9)).mode()),
        atol=5e-5,
        rtol=0,
    )


def test_an_image_for_a_text_model_is_a_known_first_frame():
    condition = from_pictures(coder(), {0: pixels(1)}, 3, padding=1)
    assert condition.channels is None
    assert condition.known.shape[2] == 2  # the padding is a copy, as in training
    assert torch.equal(condition.known[:, :, 0], condition.known[:, :, 1])


def test_a_video_to_change_is_padded_in_front_with_its_first_latent():
    plain = from_video(coder(), pixels(9), 0, 0.6)
    padded = from_video(coder(), pixels(9), 1, 0.6)
    assert plain.strength == 0.6
    assert torch.equal(padded.start[:, :, 1:], plain.start)
    assert torch.equal(padded.start[:, :, 0], plain.start[:, :, 0])


def test_an_image_model_that_changes_a_video_also_sees_its_first_frame():
    condition = from_video(coder("i2v"), pixels(9), 0, 0.6)
    assert condition.channels.shape == condition.start.shape
    assert condition.channels[:, :, 0].any() and not condition.channels[:, :, 1:].any()


def test_continuation_keeps_the_given_latents_as_the_known_beginning():
    code = coder(sample=False)
    condition = continuation(code, pixels(9), 5)
    assert torch.equal(condition.known, code.video(pixels(9)))
    assert condition.facts["context_frames"] == 9


def test_an_image_model_continues_from_the_last_frame():
    code = coder("i2v", sample=False)
    condition = continuation(code, pixels(9), 3)
    assert condition.known is None
    assert torch.equal(condition.channels[:, :, :1], code.picture(pixels(9)[:, :, -1:]))


def test_context_that_leaves_nothing_to_make_is_refused():
    with pytest.raises(FrameError, match="9 frames: it fills 3 of 3"):
        continuation(coder(), pixels(9), 3)


def test_draws_repeat_with_the_generator_and_vanish_without_sampling():
    one, two = coder().video(pixels(1)), coder().video(pixels(1))
    assert torch.equal(one, two)
    assert not torch.equal(one, coder(sample=False).video(pixels(1)))
