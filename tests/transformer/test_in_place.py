"""Without gradients tensors are written over: the same numbers, and nothing that the caller still holds."""

from __future__ import annotations

import pytest
import torch

from cogvideox.transformer import Transformer
from cogvideox.transformer.block import add_gated
from cogvideox.transformer.initialise import initialise
from cogvideox.transformer.layout import Layout, TokenGrid
from cogvideox.transformer.position import Rotary, apply_rotary_emb
from support.models import VARIANTS, small_preset


def network(name: str) -> Transformer:
    net = initialise(Transformer(small_preset(name).transformer), 0)
    for i, (_, weight) in enumerate(sorted(net.named_parameters())):
        weight.data += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(i))
    return net.eval()


@pytest.mark.parametrize("name", VARIANTS)
def test_the_network_gives_the_same_bits_with_and_without_gradients(name):
    net = network(name)
    config = net.config
    latents, text = torch.randn(2, config.in_channels, 4, 8, 12), torch.randn(2, 6, config.text_embed_dim)
    before = latents.clone(), text.clone()
    if config.patch_size_t is None:
        latents = latents[:, :, :3]
    with_graph = net(latents, text, torch.tensor([999, 3])).detach()
    with torch.inference_mode():
        without = net(latents, text, torch.tensor([999, 3]))
    assert torch.equal(with_graph, without)
    assert torch.equal(latents, before[0][:, :, : latents.shape[2]]) and torch.equal(text, before[1])


def test_the_residual_stream_is_one_memory_from_layer_to_layer():
    """A block adds to its input where nobody wants gradients, and leaves it alone where somebody does."""
    net = network("5b")
    layout = Layout.packed([3, 5], [TokenGrid(1, 2, 3), TokenGrid(2, 2, 2)])
    x = torch.randn(1, layout.tokens, net.config.width)
    kept, temb = x.clone(), torch.randn(1, 2, net.config.time_embed_dim)
    block, rotary_emb = net.transformer_blocks[0], net.rotary.table(layout, x.device)
    with_graph = block(x, temb, rotary_emb, layout)
    assert torch.equal(x, kept)
    with torch.no_grad():
        without = block(x, temb, rotary_emb, layout)
    assert without.data_ptr() == x.data_ptr() and torch.equal(without, with_graph)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_turning_equals_the_complex_product_in_float32(dtype):
    layout = Layout.plain(3, TokenGrid(2, 3, 4))
    rotary_emb = Rotary(16, "slice", (3, 4)).table(layout, torch.device("cpu"))
    x = torch.randn(2, layout.tokens, 5, 16).to(dtype)
    plain = torch.view_as_real(torch.view_as_complex(x.float().unflatten(-1, (-1, 2))) * rotary_emb)
    with torch.no_grad():
        ours = apply_rotary_emb(x.clone(), rotary_emb)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, plain.flatten(-2).to(dtype))


def test_an_affine_map_under_mixed_precision_keeps_the_wider_type():
    layout = Layout.plain(3, TokenGrid(1, 2, 2))
    base, x = torch.randn(1, 7, 8), torch.randn(1, 7, 8).bfloat16()
    rows = torch.randn(1, 1, 2, 8)
    scale = torch.cat([rows[:, 0, 1:2].expand(-1, 3, -1), rows[:, 0, 0:1].expand(-1, 4, -1)], 1)
    with torch.no_grad():
        torch.testing.assert_close(add_gated(base, x, rows, layout), base + x * scale)
