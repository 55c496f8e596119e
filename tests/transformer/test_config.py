"""Arms as values, and illegal settings and inputs with both values in the message."""

import pytest
import torch
import yaml
from pydantic import ValidationError

from cogvideox.errors import ConfigError, FrameError, SizeError
from cogvideox.transformer import (
    Experts,
    Transformer,
    TransformerConfig,
    initialise,
    mmdit_of_same_depth,
    mmdit_of_same_size,
    parameter_count,
    split,
    without_experts,
)

SMALL = TransformerConfig(
    num_attention_heads=2, attention_head_dim=16, num_layers=8, in_channels=4, out_channels=4,
    time_embed_dim=16, text_embed_dim=12, max_text_seq_length=5, sample_height=8, sample_width=12,
    sample_frames=9, use_rotary_positional_embeddings=True,
)  # fmt: skip


def test_mmdit_of_the_same_depth_has_about_twice_the_parameters():
    other = mmdit_of_same_depth(SMALL.with_arm(num_attention_heads=8, attention_head_dim=32))
    ratio = parameter_count(other) / parameter_count(other.with_arm(experts=Experts()))
    assert other.num_layers == SMALL.num_layers and 1.8 < ratio < 2


def test_mmdit_of_the_same_size_has_about_as_many_parameters():
    one, two = (parameter_count(SMALL.with_arm(experts=Experts(weights=True), num_layers=n)) for n in (1, 2))
    other = mmdit_of_same_size(SMALL)
    assert other.experts.weights and other.num_layers < SMALL.num_layers
    assert abs(parameter_count(other) - parameter_count(SMALL)) <= (two - one) / 2


def test_without_experts_only_the_modulation_shrinks():
    one, other = (Transformer(config).state_dict() for config in (SMALL, without_experts(SMALL)))
    assert one.keys() == other.keys()
    changed = {name.split(".", 2)[2] for name in one if one[name].shape != other[name].shape}
    assert changed == {f"norm{i}.linear.{part}" for i in (1, 2) for part in ("weight", "bias")}


def test_arms_are_values():
    assert split(SMALL).attention == "split"
    assert [SMALL.with_positions(name).position for name in ("rotary", "sinusoidal", "none")] == [
        "rotary", "sinusoidal", "none",
    ]  # fmt: skip
    assert TransformerConfig.parse(yaml.safe_load(split(SMALL).to_yaml())) == split(SMALL)


def test_rotary_mode_is_the_released_one_unless_named():
    assert TransformerConfig().position_mode == "resample"
    assert TransformerConfig(patch_size_t=2).position_mode == "slice"
    assert TransformerConfig(patch_size_t=2, position_mode="resample").position_mode == "resample"


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        (dict(attention_head_dim=24, use_rotary_positional_embeddings=True), "24.*16"),
        (dict(num_attention_heads=1, attention_head_dim=8), "width 8.*16"),
        (dict(ofs_embed_dim=64), "64.*512"),
        (dict(use_learned_positional_embeddings=True), "rotary"),
        (dict(use_rotary_positional_embeddings=True, use_positional_embeddings=False), "contradict"),
    ],
)
def test_settings_that_contradict_are_refused(settings, values):
    with pytest.raises(ConfigError, match=values):
        TransformerConfig(**settings)


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        SMALL.num_layers = 3


def call(config, channels=4, t=2, h=8, w=12, text_width=12, **more):
    latents, text = torch.zeros(1, channels, t, h, w), torch.zeros(1, 5, text_width)
    return Transformer(config)(latents, text, torch.ones(1), **more)


def test_inputs_that_do_not_fit_are_refused_with_both_values():
    with pytest.raises(SizeError, match="7x12.*2x2"):
        call(SMALL, h=7)
    with pytest.raises(SizeError, match="8x11.*2x2"):
        call(SMALL, w=11)
    with pytest.raises(FrameError, match="3 latent frames.*4"):
        call(SMALL.with_arm(patch_size_t=2), t=3)
    with pytest.raises(ConfigError, match="8 channels.*in_channels 4"):
        call(SMALL, channels=8)
    with pytest.raises(ConfigError, match="width 13.*text_embed_dim 12"):
        call(SMALL, text_width=13)
    with pytest.raises(ConfigError, match="ofs"):
        call(SMALL, ofs=torch.tensor([2.0]))
    learned = SMALL.with_arm(use_learned_positional_embeddings=True)
    with pytest.raises(SizeError, match="2x6.*4x6"):
        call(learned, h=4)
    with pytest.raises(ConfigError, match="1 clips, 0 texts"):
        Transformer(SMALL).forward_packed([torch.zeros(4, 1, 4, 4)], [], torch.ones(1))


def test_ofs_is_two_unless_given():
    config = SMALL.with_arm(ofs_embed_dim=16, patch_size_t=2)
    model = Transformer(config)
    args = (torch.randn(1, 4, 2, 4, 4), torch.randn(1, 5, 12), torch.ones(1))
    assert torch.equal(model(*args), model(*args, ofs=torch.tensor([2.0])))
    assert not torch.equal(model(*args), model(*args, ofs=torch.tensor([3.0])))


def test_initial_layers_are_the_identity_and_the_seed_decides():
    one, again, other = (initialise(Transformer(SMALL), seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(one.proj_out.weight, other.proj_out.weight)
    adaptive = [weight for name, weight in one.named_parameters() if "norm" in name and "linear" in name]
    assert len(adaptive) == 2 * (2 * 8 + 1) and not any(weight.any() for weight in adaptive)
    narrow, wide = (one.transformer_blocks[0].ff.net[i] for i in (2, 0))
    assert narrow.weight.std().item() == pytest.approx(0.02 / 4, rel=0.1)
    assert wide.proj.weight.std().item() == pytest.approx(0.02, rel=0.1)
    x, layout_text = torch.randn(1, 4, 2, 8, 12), torch.randn(1, 5, 12)
    shallow = initialise(Transformer(SMALL.with_arm(num_layers=1)), 0)
    assert torch.equal(one(x, layout_text, torch.ones(1)), shallow(x, layout_text, torch.ones(1)))


def test_learned_positions_start_sinusoidal():
    model = initialise(Transformer(SMALL.with_arm(use_learned_positional_embeddings=True)), 0)
    table = model.patch_embed.pos_embedding[0]
    assert not table[:5].any()
    assert torch.equal(table[5:], model.patch_embed.sinusoidal.table(model.patch_embed.native_grid))
