"""The first-block cache against the hook of diffusers: same weights, same inputs, the same v at every step."""

import pytest
import torch

diffusers = pytest.importorskip("diffusers")

from diffusers import FirstBlockCacheConfig  # noqa: E402

from cogvideox.transformer.calls import answering, at_step  # noqa: E402
from cogvideox.transformer.reuse import first_block_cached  # noqa: E402
from parity.test_transformer import ROTARY, pair, rotary_of  # noqa: E402


@pytest.mark.parametrize(("threshold", "most"), [(0.02, 0), (0.3, 4), (0.5, 5), (float("inf"), 5)])
def test_the_first_block_cache_skips_as_the_hook_of_diffusers_does(threshold, most):
    ours, theirs = pair(ROTARY | dict(attention_head_dim=32, num_layers=4))
    rotary = rotary_of(theirs, (3, 8, 12))
    theirs.enable_cache(FirstBlockCacheConfig(threshold=threshold))
    g = torch.Generator().manual_seed(1)
    start, drift = torch.randn(2, 2, 3, 4, 8, 12, generator=g)
    text, computed = torch.randn(2, 5, 24, generator=g), []
    theirs.transformer_blocks[1].attn1.register_forward_hook(lambda *_: computed.append(step))
    with torch.no_grad(), first_block_cached(ours, threshold) as skipped, answering(("negative", "prompt")):
        for step, (time, share) in enumerate(
            zip((999, 960, 900, 700, 690, 300), (0, 1, 2, 5, 5.1, 9), strict=True)
        ):
            latents, times = start + 0.05 * share * drift, torch.tensor([time, time])
            with theirs.cache_context("cond_uncond"):
                expected = theirs(latents, text, times, image_rotary_emb=rotary, return_dict=False)[0]
            with at_step(step):
                found = ours(latents.transpose(1, 2), text, times).transpose(1, 2)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        assert sorted({*range(6)} - {*computed}) == skipped
    assert (len(skipped) > 0) == (most > 0) and len(skipped) <= most
