"""8-bit weights and products beside the plain model: seconds, bytes, and how alike the videos are.

    python benchmarks/lowbit.py [--device cuda] [--model MODEL] [--steps 20] [--prompts 4]

For each form the model makes the same videos from the same noise; PSNR and cosine compare them with those of the plain
form. One forward pass of a block of the 5B (random weights) is timed. Needs torchao (pip install 'cogvideox[lowp]');
forms that the device cannot compute are named, not measured.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

import cogvideox
from cogvideox.errors import CogVideoXError
from cogvideox.memory import lower
from cogvideox.memory.lowbit import quantise
from cogvideox.presets import get_preset
from cogvideox.transformer import Transformer
from cogvideox.transformer.layout import Layout, TokenGrid

FORMS = (("stored", "full"), ("int8", "full"), ("int8", "int8"), ("fp8", "full"), ("fp8", "fp8"))
PROMPTS = (
    "a red circle moves to the right",
    "a blue square grows",
    "a green triangle rotates",
    "a yellow cross moves up",
)
REPEATS = 5


def name_of(storage: str, products: str) -> str:
    """What a form is called in the table."""
    return "plain" if storage == "stored" else f"{storage} {'weights' if products == 'full' else 'products'}"


def videos(args: argparse.Namespace, storage: str, products: str) -> tuple[Tensor, float, int]:
    """All frames of the prompts as float32, seconds of one, and the bytes of the transformer's weights."""
    model = lower(cogvideox.load(args.model), storage, args.device, products).to(args.device)
    cogvideox.generate(model, PROMPTS[0], steps=1, seed=0)
    start = time.perf_counter()
    made = [
        cogvideox.generate(model, prompt, steps=args.steps, seed=seed)
        for seed, prompt in enumerate(PROMPTS[: args.prompts])
    ]
    seconds = (time.perf_counter() - start) / len(made)
    return (
        torch.stack([torch.tensor(each.frames).float() for each in made]),
        seconds,
        stored_bytes(model.transformer),
    )


def stored_bytes(network: nn.Module) -> int:
    """Memory of the weights as they are stored: of a rounded one that of its numbers and scales."""
    size = 0
    for weight in network.parameters():
        pieces = [weight]
        if is_traceable_wrapper_subclass(weight):
            pieces = [getattr(weight, name) for name in weight.__tensor_flatten__()[0]]
        size += sum(each.nbytes for each in pieces)
    return size


def likeness(video: Tensor, plain: Tensor) -> str:
    """PSNR in dB over all pixels, and the cosine of what is not the mean colour."""
    error = float((video - plain).pow(2).mean())
    psnr = 10 * math.log10(255**2 / error) if error else math.inf
    cosine = torch.nn.functional.cosine_similarity(
        (video - video.mean()).flatten(), (plain - plain.mean()).flatten(), 0
    )
    return f"{psnr:.1f} | {float(cosine):.4f}"


@torch.no_grad()
def block_seconds(args: argparse.Namespace, storage: str, products: str) -> float:
    """The shortest pass of a block of the 5B: 1,216 tokens in float32 on a CPU, 17,776 in bfloat16 on a GPU."""
    config = get_preset("5b").transformer.changed(num_layers=1)
    dtype = torch.float32 if args.device == "cpu" else torch.bfloat16
    torch.manual_seed(0)
    network = Transformer(config).eval().to(args.device, dtype)
    block = network.transformer_blocks[0]
    if storage != "stored":
        quantise(block, storage, products)
    grid = TokenGrid(1, 22, 45) if args.device == "cpu" else TokenGrid(13, 30, 45)
    layout = Layout.plain(config.max_text_seq_length, grid)
    assert network.rotary is not None
    table = network.rotary.table(layout, torch.device(args.device))
    x = torch.randn(1, layout.tokens, config.width, device=args.device, dtype=dtype)
    temb = torch.randn(1, 1, config.time_embed_dim, device=args.device, dtype=dtype)
    return shortest(lambda: block(x, temb, table, layout), args.device)


def shortest(run: Callable[[], object], device: str) -> float:
    """The shortest of some runs, the first left out."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def main() -> None:
    """Print one row for each form."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    args = parser.parse_args()
    print("| form | PSNR dB | cosine | s a video | weights MB | block of 5B ms |")
    print("|---|---|---|---|---|---|")
    plain: Tensor | None = None
    for storage, products in FORMS:
        name = name_of(storage, products)
        try:
            made, seconds, size = videos(args, storage, products)
        except CogVideoXError as error:
            print(f"| {name} | not here: {error} | | | | |")
            continue
        alike = likeness(made, plain) if plain is not None else "inf | 1"
        plain = made if plain is None else plain
        block = block_seconds(args, storage, products)
        print(f"| {name} | {alike} | {seconds:.2f} | {size / 1e6:.1f} | {1e3 * block:.1f} |", flush=True)


if __name__ == "__main__":
    main()
