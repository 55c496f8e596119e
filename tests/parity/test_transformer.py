"""Our transformer against diffusers' CogVideoXTransformer3DModel: same weights, same v, same keys."""

import inspect

import pytest
import torch

diffusers = pytest.importorskip("diffusers")

from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel  # noqa: E402

from cogvideox.presets import PRESETS  # noqa: E402
from cogvideox.transformer import Transformer, TransformerConfig  # noqa: E402

SMALL = dict(
    num_attention_heads=2, num_layers=2, in_channels=4, out_channels=4, time_embed_dim=32, text_embed_dim=24,
    max_text_seq_length=5, sample_height=8, sample_width=12, sample_frames=9,
)  # fmt: skip
WIDE = dict(sample_height=40, sample_width=40)
ROTARY = dict(use_rotary_positional_embeddings=True)
VARIANTS = {
    "2b": {},
    "5b": ROTARY,
    "5b-i2v": ROTARY | dict(in_channels=8, use_learned_positional_embeddings=True),
    "1.5-5b": ROTARY | dict(patch_size_t=2, patch_bias=False) | WIDE,
    "1.5-5b-i2v": ROTARY | dict(in_channels=8, patch_size_t=2, ofs_embed_dim=32) | WIDE,
}
SIZES = [(4, 8, 12), (2, 8, 12), (6, 12, 8), (2, 14, 14), (4, 6, 20), (2, 20, 6)]
CASES = [(name, size) for name in VARIANTS for size in SIZES if name != "5b-i2v"] + [("5b-i2v", (3, 8, 12))]
# elements and tensors of the state dicts of the released checkpoints
RELEASED = {
    "2b": (736, 1_693_783_872),
    "5b": (1024, 5_570_283_072),
    "5b-i2v": (1025, 5_625_087_552),
    "1.5-5b": (1024, 5_570_676_352),
    "1.5-5b-i2v": (1028, 5_571_594_880),
}


class PipelineOf:
    """What the pipeline's own method for rotary tables reads of a pipeline."""

    vae_scale_factor_spatial = 8

    def __init__(self, transformer):
        self.transformer = transformer


def rotary_of(theirs, size):
    if not theirs.config.use_rotary_positional_embeddings:
        return None
    t, h, w = size
    make = CogVideoXPipeline._prepare_rotary_positional_embeddings
    return make(PipelineOf(theirs), 8 * h, 8 * w, t, torch.device("cpu"))


def pair(settings):
    torch.manual_seed(0)
    theirs = CogVideoXTransformer3DModel(**SMALL | settings).eval()
    ours = Transformer(TransformerConfig(**SMALL | settings)).eval()
    ours.load_state_dict({key: value.clone() for key, value in theirs.state_dict().items()})
    return ours, theirs


@pytest.mark.parametrize("head_dim", [64, 32])
@pytest.mark.parametrize(("name", "size"), CASES)
def test_v_is_equal(name, size, head_dim):
    ours, theirs = pair(VARIANTS[name] | dict(attention_head_dim=head_dim))
    latents = torch.randn(2, size[0], ours.config.in_channels, *size[1:])
    text, timestep = torch.randn(2, 5, 24), torch.tensor([999, 123])
    ofs = torch.tensor([2.0]) if ours.config.ofs_embed_dim else None
    with torch.no_grad():
        expected = theirs(latents, text, timestep, ofs=ofs, image_rotary_emb=rotary_of(theirs, size)).sample
        v = ours(latents.transpose(1, 2), text, timestep, ofs=ofs).transpose(1, 2)
    assert (v - expected).abs().max().item() <= 1e-4


def test_learned_positions_fall_back_as_theirs_for_another_number_of_frames():
    ours, theirs = pair(VARIANTS["5b-i2v"])
    size = (2, 8, 12)
    latents, text = torch.randn(1, 2, 8, 8, 12), torch.randn(1, 5, 24)
    with torch.no_grad(), pytest.warns(UserWarning, match="latent frames"):
        v = ours(latents.transpose(1, 2), text, torch.tensor([5])).transpose(1, 2)
    with torch.no_grad():
        expected = theirs(latents, text, torch.tensor([5]), image_rotary_emb=rotary_of(theirs, size)).sample
    assert (v - expected).abs().max().item() <= 1e-4


def shapes(state):
    return {key: tuple(value.shape) for key, value in state.items()}


@pytest.mark.parametrize("name", RELEASED)
def test_real_size_state_dicts_have_the_released_keys_and_shapes(name):
    config = PRESETS[name].transformer
    known = inspect.signature(CogVideoXTransformer3DModel).parameters
    settings = {key: value for key, value in config.model_dump().items() if key in known}
    with torch.device("meta"):
        ours, theirs = Transformer(config).state_dict(), CogVideoXTransformer3DModel(**settings).state_dict()
    assert shapes(ours) == shapes(theirs)
    assert (len(ours), sum(value.numel() for value in ours.values())) == RELEASED[name]


def test_gradients_are_equal():
    ours, theirs = pair(VARIANTS["5b"])
    latents, text, timestep = torch.randn(1, 2, 4, 8, 12), torch.randn(1, 5, 24), torch.tensor([400])
    ours(latents.transpose(1, 2), text, timestep).square().mean().backward()
    rotary = rotary_of(theirs, (2, 8, 12))
    theirs(latents, text, timestep, image_rotary_emb=rotary).sample.square().mean().backward()
    gradients = dict(theirs.named_parameters())
    for name, weight in ours.named_parameters():
        assert torch.allclose(weight.grad, gradients[name].grad, atol=1e-5), name


def test_riflex_is_diffusers_rotation_with_one_frequency_slowed():
    """All other columns of the 5B's table at 25 latent frames are diffusers'; the second in time turns by .226195."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    from cogvideox.transformer.layout import Layout, TokenGrid
    from cogvideox.transformer.position import Rotary

    grid = TokenGrid(25, 30, 45)
    cos, sin = get_3d_rotary_pos_embed(64, ((0, 0), (30, 45)), (30, 45), 25)
    table = Rotary(64, "resample", (30, 45), frames=13, riflex=25).table(
        Layout.plain(0, grid), torch.device("cpu")
    )[:, 0]
    others = [channel for channel in range(32) if channel != 1]
    assert torch.allclose(table.real[:, others], cos[:, ::2][:, others], atol=1e-5)
    assert torch.allclose(table.imag[:, others], sin[:, ::2][:, others], atol=1e-5)
    turned = torch.arange(25).repeat_interleave(30 * 45) * 0.226195
    assert torch.allclose(table.real[:, 1], turned.cos(), atol=1e-4)
    assert not torch.allclose(table.real[:, 1], cos[:, 2], atol=1e-2)
