"""Modulations from a table against modulations computed at every step."""

from __future__ import annotations

import pytest
import torch

from cogvideox.errors import ConfigError
from cogvideox.transformer import Transformer
from cogvideox.transformer.initialise import initialise
from cogvideox.transformer.modulation import ModulationTable, tabulated
from support.models import VARIANTS, small_preset

TIMES = (999, 640, 19)


def network(name: str) -> Transformer:
    net = initialise(Transformer(small_preset(name).transformer), 0)
    for i, (_, weight) in enumerate(sorted(net.named_parameters())):
        weight.data += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(i))
    return net.eval()


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_a_tabulated_network_equals_the_plain_one(name):
    net = network(name)
    frames = 4 if net.config.patch_size_t else 3
    x, text = (
        torch.randn(2, net.config.in_channels, frames, 8, 12),
        torch.randn(2, 6, net.config.text_embed_dim),
    )
    plain = [net(x, text, torch.tensor([t, t])) for t in TIMES]
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    with tabulated(net, TIMES):
        assert not [name for name, _ in net.named_parameters() if "norm1.linear" in name]
        for t, expected in zip(TIMES, plain, strict=True):
            torch.testing.assert_close(net(x, text, torch.tensor([t, t])), expected, atol=2e-6, rtol=1e-5)
    assert torch.equal(net(x, text, torch.tensor([999, 999])), plain[0])
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())


def test_a_failure_inside_leaves_the_network_whole():
    net = network("2b")
    names = list(net.state_dict())
    with pytest.raises(RuntimeError, match="stop"), tabulated(net, TIMES):
        raise RuntimeError("stop")
    assert list(net.state_dict()) == names


def test_the_table_is_smaller_than_the_layers_it_stands_for():
    net = network("2b")
    with tabulated(net, TIMES):
        table = sum(buffer.numel() for name, buffer in net.named_buffers() if name.endswith("table"))
        left = sum(p.numel() for p in net.parameters())
    assert left + table < sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("name", VARIANTS)
def test_tables_on_the_meta_device_are_as_large_as_real_ones(name):
    net = network(name)

    def sizes():
        with tabulated(net, TIMES):
            return [(m.table.shape, m.table.dtype) for m in net.modules() if isinstance(m, ModulationTable)]

    real = sizes()
    net.to("meta")
    assert sizes() == real != []


def test_no_timesteps_are_refused():
    with pytest.raises(ConfigError, match="timesteps"), tabulated(network("2b"), ()):
        pass
