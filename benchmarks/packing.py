"""Training on clips of mixed durations, sizes and images: packed rows beside padded batches and buckets of one shape.

python benchmarks/packing.py                    minutes on a CPU; --device cuda --preset 2b where there is a card

Every way trains on the same clips, forward and backward, with the same weights and about the same tokens a step. Useful
tokens per second is what counts: text and patches of clips, without padding. Padding fills each clip of a batch to the
longest one's tokens and is spared the mask, which would cost more. Buckets are exact shapes: no clip is cut for them.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable

import torch
from torch import Tensor

from cogvideox.data.pack import Row, bucket_rows, pack_rows, shuffled, waste
from cogvideox.presets import get_preset
from cogvideox.transformer import Layout, TokenGrid, Transformer, initialise
from cogvideox.transformer.kernels import Fastest, random_heads, use_kernel

SHAPES = {1: 0.25} | {
    1 + 8 * seconds: 0.75 / 6 for seconds in range(1, 7)
}  # frames at 8 per second: share of clips
ASPECTS = ((8, 8), (8, 10), (8, 14))  # patches of 16 pixels: 128x128, 128x160, 128x224


def clips(count: int, text_len: int) -> tuple[list[TokenGrid], list[int]]:
    """Grids of ``count`` clips of the distribution above, and their tokens with the text."""
    draw = random.Random(0)
    frames = draw.choices(list(SHAPES), list(SHAPES.values()), k=count)
    grids = [TokenGrid((f - 1) // 4 + 1, *draw.choice(ASPECTS)) for f in frames]
    return grids, [text_len + grid.tokens for grid in grids]


class Trainer:
    """One model and the three ways to give it the same clips."""

    def __init__(self, preset: str, device: str, grids: list[TokenGrid], text_len: int) -> None:
        self.config = get_preset(preset).transformer
        self.network = initialise(Transformer(self.config), 0).to(device)
        self.device, self.grids, self.text_len = device, grids, text_len
        use_kernel(self.network, "torch")

    def choose_kernel(self, layout: Layout, many: int) -> None:
        """On a GPU, the fastest attention kernel for batches of this layout."""
        if self.device != "cpu":
            weight = self.network.proj_out.weight
            heads = random_heads(self.network, many, layout.tokens, weight.dtype, requires_grad=True)
            attn_fn = Fastest()
            use_kernel(self.network, attn_fn)
            attn_fn.fix(*heads, layout)

    def _latents(self, grid: TokenGrid, many: int = 0) -> Tensor:
        size = (self.config.in_channels, grid.t, 2 * grid.h, 2 * grid.w)
        return torch.randn((many, *size) if many else size, device=self.device)

    def _text(self, *lead: int) -> Tensor:
        return torch.randn(*lead, self.text_len, self.config.text_embed_dim, device=self.device)

    def packed(self, row: Row) -> None:
        """All clips of the row in one sequence."""
        times = torch.randint(1000, (len(row),), device=self.device)
        out = self.network.forward_packed(
            [self._latents(self.grids[one]) for one in row], [self._text() for _ in row], times
        )
        sum(v.square().mean() for v in out).backward()

    def stacked(self, row: Row) -> None:
        """A batch of clips of one shape."""
        self._batch(self.grids[row[0]], len(row))

    def padded(self, row: Row) -> None:
        """A batch in which every clip has the tokens of the longest."""
        longest = max(self.grids[one].tokens for one in row)
        self._batch(TokenGrid(1, 2, -(-longest // 2)), len(row))

    def _batch(self, grid: TokenGrid, many: int) -> None:
        times = torch.randint(1000, (many,), device=self.device)
        self.network(self._latents(grid, many), self._text(many), times).square().mean().backward()


def measure(step: Callable[[Row], None], rows: list[Row], tokens: list[int], device: str) -> float:
    """Useful tokens per second over the rows; on a CPU, seconds of the process, so that neighbours do not count."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    step(rows[0])
    _wait(device)
    start = clock()
    for row in rows:
        step(row)
    _wait(device)
    return sum(tokens[one] for row in rows for one in row) / (clock() - start)


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def main() -> None:
    """Measure the three ways and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny", help="whose transformer")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument("--budget", type=int, default=4096, help="tokens of a row")
    args = parser.parse_args()
    text_len = get_preset(args.preset).transformer.max_text_seq_length
    grids, tokens = clips(args.clips, text_len)
    trainer = Trainer(args.preset, args.device, grids, text_len)
    order = shuffled(args.clips, 0, 0)
    each = max(
        1, round(args.budget * args.clips / sum(tokens))
    )  # so that a padded step has as many useful tokens
    rows = {
        "padded": [tuple(order[at : at + each]) for at in range(0, args.clips, each)],
        "bucketed": bucket_rows(grids, tokens, args.budget),
        "packed": pack_rows(tokens, args.budget),
    }
    layouts = {
        "padded": Layout.plain(
            text_len, max((grids[one] for one in rows["padded"][0]), key=lambda g: g.tokens)
        ),
        "bucketed": Layout.plain(text_len, grids[rows["bucketed"][0][0]]),
        "packed": Layout.packed(
            [text_len] * len(rows["packed"][0]), [grids[one] for one in rows["packed"][0]]
        ),
    }
    ways = {"padded": trainer.padded, "bucketed": trainer.stacked, "packed": trainer.packed}
    speed = {}
    for name, way in ways.items():
        trainer.choose_kernel(layouts[name], 1 if name == "packed" else len(rows[name][0]))
        speed[name] = measure(way, rows[name], tokens, args.device)
    print(
        f"{args.clips} clips, {sum(tokens)} tokens, longest {max(tokens)}, rows of {args.budget}, {args.device}"
    )
    for name, value in speed.items():
        print(f"{name:9} {value:9.0f} tokens/s  {value / speed['padded']:.2f} x padded")
    print(f"waste of packed rows {waste(rows['packed'], tokens, args.budget):.1%}")


if __name__ == "__main__":
    main()
