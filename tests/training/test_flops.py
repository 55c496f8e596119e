"""What a step costs: closed forms, and the real thing."""

import pytest
import torch

from cogvideox.memory.count import kept
from cogvideox.training.memory import FlopCounter
from cogvideox.training.metrics import Speed
from support.models import TEXT_LEN, TEXT_WIDTH, golden_model


@pytest.fixture(scope="module")
def network():
    return golden_model().transformer


def test_flops_of_a_clip_are_those_of_its_products(network):
    config = network.config
    work, sample = FlopCounter(config), ((4, 3, 16, 24), TEXT_LEN)
    n, d, layers = TEXT_LEN + 3 * 8 * 12, config.width, config.num_layers
    products = layers * (
        24 * n * d * d + 4 * n * n * d
    )  # a multiply-add is two; embedding and head are left out
    assert products < work.forward(sample) < 1.1 * products
    assert work.flops([sample, sample], frozen=False) == 6 * work.forward(sample)
    assert work.flops([sample], frozen=True) == 2 * work.forward(sample)


def test_what_is_kept_is_about_what_autograd_keeps(network):
    samples = [((4, 3, 8, 12), TEXT_LEN), ((4, 1, 4, 6), TEXT_LEN)]
    clips = [torch.randn(*shape) for shape, _ in samples]
    texts = [torch.randn(words, TEXT_WIDTH) for _, words in samples]
    real = kept(lambda: network.forward_packed(clips, texts, torch.tensor([10.0, 500.0])))
    work = FlopCounter(network.config)
    assert work.activations(samples, recompute=False) == pytest.approx(real, rel=0.15)
    assert work.activations(samples, recompute=True) < 0.7 * real


def test_speed_is_that_of_steps_since_it_was_asked():
    speed = Speed(peak=4e9)
    speed.add({"tokens": 100.0}, 1e9, 0.5)
    speed.add({"tokens": 300.0}, 3e9, 1.5)
    assert speed.since() == {"tokens_per_second": 200.0, "gflops_per_second": 2.0, "mfu": 0.5}
    speed.add({"tokens": 10.0}, 0.0, 1.0)
    assert speed.since() == {"tokens_per_second": 10.0}
