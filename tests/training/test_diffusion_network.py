"""A text-to-video model becomes an image-to-video one without forgetting: at step zero both say the same."""

from pathlib import Path

import pytest
import torch

from cogvideox.checkpoints.diffusers import write_transformer
from cogvideox.errors import ConfigError
from cogvideox.training.tasks.diffusion_network import widen, with_more_channels
from cogvideox.transformer import Transformer, TransformerConfig, initialise

SMALL = dict(
    num_attention_heads=2, attention_head_dim=32, num_layers=2, time_embed_dim=16, text_embed_dim=8,
    max_text_seq_length=4, out_channels=4, sample_height=8, sample_width=8, sample_frames=9,
    use_rotary_positional_embeddings=True,
)  # fmt: skip


def test_the_widened_model_says_the_same_before_training(tmp_path: Path) -> None:
    narrow = initialise(Transformer(TransformerConfig(in_channels=4, **SMALL)), 0)
    torch.nn.init.normal_(narrow.transformer_blocks[0].norm1.linear.weight, std=0.1)
    write_transformer(tmp_path, narrow.config, narrow.state_dict(), "1GB")
    wide = initialise(Transformer(TransformerConfig(in_channels=8, **SMALL)), 1)
    widen(wide, tmp_path)
    noisy, image = torch.randn(1, 4, 3, 8, 8), torch.randn(1, 4, 3, 8, 8)
    text, t = torch.randn(1, 4, 8), torch.tensor([500])
    with torch.no_grad():
        same = wide(torch.cat([noisy, image], 1), text, t)
        assert torch.allclose(same, narrow(noisy, text, t), atol=1e-5)
        assert same.abs().max() > 0


def test_new_channels_alone_give_the_network_that_widening_gives(tmp_path: Path) -> None:
    narrow = initialise(Transformer(TransformerConfig(in_channels=4, **SMALL)), 0)
    write_transformer(tmp_path, narrow.config, narrow.state_dict(), "1GB")
    config = TransformerConfig(in_channels=9, **SMALL)
    wide = initialise(Transformer(config), 1)
    widen(wide, tmp_path)
    held_once = with_more_channels(tmp_path, config)
    assert held_once.config == config and all(p.requires_grad for p in held_once.parameters())
    assert all(torch.equal(value, held_once.state_dict()[name]) for name, value in wide.state_dict().items())


def test_smaller_patches_say_the_same_of_an_even_region(tmp_path: Path) -> None:
    coarse = initialise(Transformer(TransformerConfig(in_channels=4, **SMALL)), 0)
    coarse.transformer_blocks.requires_grad_(False).apply(
        lambda part: [torch.nn.init.zeros_(w) for w in part.parameters(recurse=False)] and None
    )  # tokens by themselves: attention sees four times as many of the smaller ones
    torch.nn.init.normal_(coarse.proj_out.weight)
    torch.nn.init.normal_(coarse.proj_out.bias)
    with torch.no_grad():  # an output that is even within a patch
        coarse.proj_out.weight.copy_(
            coarse.proj_out.weight.view(4, 4, -1)[:, :1].expand(4, 4, -1).flatten(0, 1)
        )
        coarse.proj_out.bias.copy_(coarse.proj_out.bias.view(4, 4)[:, :1].expand(4, 4).flatten())
    write_transformer(tmp_path, coarse.config, coarse.state_dict(), "1GB")
    fine = initialise(Transformer(TransformerConfig(in_channels=4, patch_size=1, **SMALL)), 1)
    widen(fine, tmp_path)
    even = torch.randn(1, 4, 3, 4, 4).repeat_interleave(2, 3).repeat_interleave(2, 4)
    text, t = torch.randn(1, 4, 8), torch.tensor([500])
    with torch.no_grad():
        same = coarse(even, text, t)
        assert torch.allclose(fine(even, text, t), same, atol=1e-5)
        assert same.std() > 0.1


def test_another_width_is_refused(tmp_path: Path) -> None:
    narrow = Transformer(TransformerConfig(in_channels=4, **SMALL))
    write_transformer(tmp_path, narrow.config, narrow.state_dict(), "1GB")
    other = Transformer(TransformerConfig(in_channels=4, **SMALL | dict(num_attention_heads=4)))
    with pytest.raises(ConfigError, match="sizes must agree"):
        widen(other, tmp_path)
