"""The transformer over several ranks equals one process: outputs, gradients, sharded weights, accumulation."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from cogvideox.errors import ConfigError
from cogvideox.parallel.mesh import MeshConfig, make_mesh
from cogvideox.parallel.sequence import TokenRange, split_sequence, split_sizes
from cogvideox.parallel.shard import checkpoint_blocks, full_tensor, shard
from cogvideox.transformer import Transformer, TransformerConfig
from cogvideox.transformer.layout import Layout, TokenGrid
from support.golden import fill, fill_model
from support.processes import together

TINY = TransformerConfig(
    num_attention_heads=3,
    attention_head_dim=16,
    in_channels=2,
    out_channels=2,
    time_embed_dim=8,
    text_embed_dim=6,
    num_layers=2,
    sample_height=6,
    sample_width=10,
    sample_frames=9,
    max_text_seq_length=5,
    use_rotary_positional_embeddings=True,
)
SPLIT = TINY.changed(attention="split")
CASES = [(ranks, way) for ranks in (2, 3) for way in ("ulysses", "ring", "packed", "packed ring", "split")]
CASES += [(4, "ring"), (4, "packed ring"), (4, "recompute")]


def far(found: torch.Tensor, expected: torch.Tensor, least: float = 1e-8) -> float:
    """Largest difference, relative to the largest value (or to ``least``: some gradients are zero but for rounding)."""
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(least))


def inputs(rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """3 latent frames of 3 x 5 patches and 5 words: 50 tokens, which neither 3 nor 4 ranks divide."""
    times = torch.tensor([10.0, 700.0, 500.0, 3.0])[:rows]
    return fill("latents", (rows, 2, 3, 6, 10)), fill("text", (rows, 5, 6)), times


def answer(model: Transformer, way: str, latents: torch.Tensor) -> torch.Tensor:
    _, text, t = inputs(2)
    if "packed" not in way:
        return model(latents, text, t)
    clips = [latents[0], latents[1, :, :2, :4, :6]]
    return torch.cat([v.flatten() for v in model.forward_packed(clips, [text[0], text[1, :3]], t)])


def network(way: str) -> Transformer:
    return fill_model(Transformer(SPLIT if way == "split" else TINY))


def compare(way: str, group: dist.ProcessGroup) -> dict[str, float]:
    alone, mine = network(way), network(way)
    kind = "ring" if "ring" in way else "auto" if way == "recompute" else "ulysses"
    undo = split_sequence(mine, group, kind)
    if way == "recompute":
        checkpoint_blocks(mine.transformer_blocks)
    latents = inputs(2)[0].clone().requires_grad_()
    given = inputs(2)[0].clone().requires_grad_()
    expected, found = answer(alone, way, latents), answer(mine, way, given)
    target = fill("target", tuple(expected.shape))
    (expected - target).square().mean().backward()
    (found - target).square().mean().backward()
    ranks = dist.get_world_size(group)
    for value in (given.grad, *(p.grad for p in mine.parameters())):
        dist.all_reduce(value, group=group)
        value /= ranks
    least = 0.1 * max(float(p.grad.abs().max()) for p in alone.parameters())
    grads = [far(p.grad, q.grad, least) for p, q in zip(mine.parameters(), alone.parameters(), strict=True)]
    with torch.no_grad():
        plain = far(answer(mine, way, latents), answer(alone, way, latents))
    undo()
    with torch.no_grad():
        undone = far(answer(mine, way, latents), answer(alone, way, latents))
    return {
        "outputs": far(found, expected),
        "without gradients": plain,
        "undone": undone,
        "input gradients": far(given.grad, latents.grad),
        "weight gradients": max(grads),
    }


def composed(sizes: dict[str, int]) -> dict[str, float]:
    """Sharded weights, sequences split, two clips accumulated on each rank, one step of AdamW; beside one process."""
    alone, mine = network(""), network("")
    mesh = make_mesh(MeshConfig(**sizes))
    data, shards, context = mesh.shape
    if context > 1:
        split_sequence(mine, mesh["context"].get_group())
    shard(mine, mine.transformer_blocks, mesh)
    one, many = (torch.optim.AdamW(m.parameters(), lr=1e-3) for m in (alone, mine))
    latents, text, t = inputs(4)
    target = fill("target", (4, 2, 3, 6, 10))
    (alone(latents, text, t) - target).square().mean().backward()
    groups = data * shards
    place = dist.get_rank() // context
    for row in range(place, 4, groups):
        error = mine(latents[row : row + 1], text[row : row + 1], t[row : row + 1]) - target[row]
        (error.square().mean() / (4 // groups)).backward()
    pairs = list(zip(mine.parameters(), alone.parameters(), strict=True))
    least = 0.1 * max(float(q.grad.abs().max()) for _, q in pairs)
    grads = max(far(full_tensor(p.grad), q.grad, least) for p, q in pairs)
    norms = [torch.nn.utils.clip_grad_norm_(m.parameters(), 1e-2) for m in (mine, alone)]
    many.step()
    one.step()
    pieces = sum(p.to_local().numel() for p in mine.parameters())
    return {
        "gradients": grads,
        "norms": far(full_tensor(norms[0]), norms[1]),
        "weights": max(far(full_tensor(p), q) for p, q in pairs),
        "share": pieces / sum(q.numel() for q in alone.parameters()),
    }


MESHES = {
    "shard 4": {"shard": 4},
    "shard 2 context 2": {"shard": 2, "context": 2},
    "data 2 context 2": {"data": 2, "context": 2},
    "data 2 shard 2": {"data": 2, "shard": 2},
}


def everything() -> dict:
    groups = {ranks: dist.new_group(list(range(ranks))) for ranks in (2, 3, 4)}
    found: dict = {}
    for ranks, way in CASES:
        if dist.get_rank() < ranks:
            found[ranks, way] = compare(way, groups[ranks])
    for name, sizes in MESHES.items():
        found[name] = composed(sizes)
    found["refused"] = []
    refusals = [
        lambda: split_sequence(network(""), groups[4], "ulysses"),
        lambda: split_sequence(network("split"), groups[4], "auto"),
        lambda: make_mesh(MeshConfig(shard=3)),
    ]
    for refused in refusals:
        try:
            refused()
        except ConfigError as error:
            found["refused"].append(str(error))
    return found


@pytest.fixture(scope="module")
def found() -> list[dict]:
    return together(4, everything)


@pytest.mark.parametrize(("ranks", "way"), CASES)
def test_ranks_together_equal_one_process(found, ranks, way):
    for rank in range(ranks):
        assert max(found[rank][ranks, way].values()) <= 1e-5, (rank, found[rank][ranks, way])


@pytest.mark.parametrize("name", MESHES)
def test_sharded_weights_and_accumulation_equal_one_process(found, name):
    for rank in found:
        differences = dict(rank[name])
        share = differences.pop("share")
        assert share < (0.6 if "2" in name else 0.35)
        assert max(differences.values()) <= 1e-5, differences


def test_what_does_not_fit_is_refused(found):
    heads, separated, mesh = found[0]["refused"]
    assert "4 ranks, 3 heads" in heads and "separated" in separated and "is 3 processes, started: 4" in mesh


@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 20])
def test_parts_make_up_the_row(ranks):
    layout = Layout.packed([3, 0, 2], [TokenGrid(1, 2, 2), TokenGrid(2, 1, 3), TokenGrid(1, 1, 1)])
    stops = torch.tensor(split_sizes(layout.tokens, ranks)).cumsum(0).tolist()
    parts = [TokenRange(layout.clips, a, b) for a, b in zip([0, *stops], stops, strict=False)]
    for i, segment in enumerate(layout.segments):
        assert sum(part.lengths[i] for part in parts) == segment.length
    assert [sum(part.lengths) for part in parts] == list(split_sizes(layout.tokens, ranks))
    assert max(split_sizes(layout.tokens, ranks)) - min(split_sizes(layout.tokens, ranks)) <= 1
