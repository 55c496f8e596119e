"""Ways to spend less memory, and what each costs in time or in the picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from typing import Literal

from cogvideox.errors import ConfigError, suggest
from cogvideox.memory.lowbit import QUANTISED_ALREADY, Products, read_low_bits
from cogvideox.memory.stages import ActivationBytes, Pair, VaeWay
from cogvideox.memory.weights import Storage, Weights

Residence = Literal["resident", "phases", "stream", "disk"]
RESIDENCES: tuple[Residence, ...] = ("resident", "phases", "stream", "disk")
ON_CPU: tuple[Residence, ...] = ("resident", "phases", "disk")
"""What differs on a CPU, whose memory is where weights wait for a GPU: there they wait in their files."""


RESIDENCE_NAMES = {
    "resident": "all resident",
    "phases": "one stage at a time",
    "stream": "blocks streamed",
    "disk": "blocks read from disk",
}
RESIDENCE_PRICES = {
    "resident": "",
    "phases": "moves each part once",
    "stream": "up to 1.1x time",
    "disk": "reads the weights at every step",
}


@dataclass(frozen=True)
class Policy:
    """Where weights live, how the pair of guidance runs, how the autoencoder runs, how weights are stored.

    ``products`` in 8 bits multiply by weights that are stored so: ``storage`` is then of the same kind.
    """

    residence: Residence = "resident"
    pair: Pair = "batched"
    vae: VaeWay = "chunked"
    storage: Storage = "stored"
    products: Products = "full"

    @property
    def name(self) -> str:
        """What a person calls it."""
        names = [
            RESIDENCE_NAMES[self.residence],
            "guidance pair in sequence" if self.pair == "sequence" else "",
            "VAE tiled" if self.vae == "tiled" else "",
            f"{self.storage} {'weights' if self.products == 'full' else 'products'}"
            if self.storage != "stored"
            else "",
        ]
        return ", ".join(filter(None, names))

    @property
    def price(self) -> str:
        """What it costs beside the plain way."""
        prices = [
            RESIDENCE_PRICES[self.residence],
            "smaller products" if self.pair == "sequence" else "",
            "1.4x decoding, blended seams" if self.vae == "tiled" else "",
            "rounded weights" if self.storage != "stored" else "",
            "rounded activations" if self.products != "full" else "",
        ]
        return ", ".join(filter(None, prices)) or "nothing"

    @property
    def exact(self) -> bool:
        """Whether the video is that of the plain way, up to the order of additions."""
        return self.vae == "chunked" and self.storage == "stored"

    def record(self) -> dict[str, str]:
        """For the manifest; products are named where they are not computed in full."""
        facts = asdict(self)
        return facts if self.products != "full" else {k: v for k, v in facts.items() if k != "products"}

    def from_files(self, on_cpu: bool) -> bool:
        """Whether weights wait in their files: for a CPU always where they wait, for a GPU with ``disk`` only."""
        return self.residence == "disk" or (on_cpu and self.residence == "phases")


def policies(
    on_cpu: bool,
    guided: bool,
    tiles: bool,
    residence: str = "auto",
    storage: str = "auto",
    products: str = "full",
    quantised: bool = False,
) -> Iterator[Policy]:
    """Every way that has an effect, cheapest first: what is exact before what changes the picture.

    On a CPU the device's memory is the computer's own: there weights wait in their files, in the precision they are
    stored in, or nowhere.
    ``tiles``: whether the picture is larger than a tile of the autoencoder.
    ``storage`` auto: as stored, then in int8; products are rounded only where that is asked for.
    ``quantised``: whether the files hold quantised weights, which keep their format.
    Raises ConfigError for a ``residence`` that is not auto or one of RESIDENCES, and as ``read_low_bits``.
    """
    known = ("auto", *RESIDENCES)
    if residence not in known:
        raise ConfigError(
            f"memory {residence!r}: unknown{suggest(residence, known)}; choose one of {', '.join(known)}"
        )
    usual = ON_CPU if on_cpu else RESIDENCES
    residences = usual if residence == "auto" else tuple(each for each in RESIDENCES if each == residence)
    pairs: tuple[Pair, ...] = ("batched", "sequence") if guided else ("batched",)
    ways: tuple[VaeWay, ...] = ("chunked", "tiled") if tiles else ("chunked",)
    stored, multiplied = read_low_bits(storage, products)
    if quantised and stored not in ("auto", "stored"):
        raise ConfigError(f"storage {stored}: {QUANTISED_ALREADY}")
    rounded: tuple[Storage, ...] = ("stored",) if quantised else ("stored", "int8")
    storages: tuple[Storage, ...] = rounded if stored == "auto" else (stored,)
    some = False
    for kept, way, each, pair in product(storages, ways, residences, pairs):
        policy = Policy(each, pair, way, kept, multiplied)
        if kept == "stored" or not policy.from_files(on_cpu):
            some = True
            yield policy
    if not some:
        raise ConfigError(
            f"memory {residence!r}: weights that are read from files keep the precision that they are stored in, not "
            f"{stored}; choose resident, or leave storage and products out"
        )


@dataclass(frozen=True)
class StageMemory:
    """Memory of one stage in bytes: weights on the device, and ``work``, the activations beside them."""

    name: str
    weights: int
    work: int

    @property
    def peak(self) -> int:
        """Most bytes in use during the stage: weights and activations together."""
        return self.weights + self.work


def pinned(policy: Policy, weights: Weights, apart: bool = False) -> int:
    """Bytes of host memory that is page-locked under a policy: the blocks that are streamed, or one that is read."""
    if policy.residence == "disk":
        return max(network.block for network in (weights.text, weights.transformer))
    if policy.residence != "stream":
        return 0
    text = weights.text.block if apart else weights.text.total - weights.text.around
    return text + weights.transformer.total - weights.transformer.around


def stages(
    policy: Policy,
    weights: Weights,
    work: ActivationBytes,
    limit: int | None = None,
    *,
    on_cpu: bool = False,
    apart: bool = False,
) -> list[StageMemory]:
    """The stages of one generation under a policy, in their order.

    The tables of modulations are made with the whole transformer there, before anything else is. Resident weights that
    leave half of ``limit`` bytes free keep the layers that made the tables, as ``generation.fast_paths`` does. What
    waits in files is read layer by layer for the text, whose layers are needed once. ``apart``: the text encoder is
    always read so.
    """
    files = policy.from_files(on_cpu)
    if policy.residence == "resident":
        beside = weights.total - (weights.text.total if apart else 0)
        text, transformer, vae = (weights.text.streamed if apart else 0) + beside, beside, beside
        denoiser = beside - weights.transformer.total + weights.denoiser.total
        if limit is not None and beside < limit / 2:
            denoiser = beside + weights.tables
    elif policy.residence == "phases":
        text = weights.text.streamed if files or apart else weights.text.total
        transformer, vae = weights.transformer.total, weights.vae
        denoiser = (weights.visiting if files else weights.denoiser).total
    else:
        text, transformer, vae = weights.text.streamed, weights.transformer.streamed, weights.vae
        denoiser = (weights.visiting if files else weights.denoiser).streamed
    run = [
        StageMemory("text", text, work.text),
        StageMemory("encode", vae, work.encode),
        StageMemory("denoise", denoiser, max(work.denoise, transformer - denoiser)),
        StageMemory("decode", vae, work.decode),
    ]
    return [stage for stage in run if stage.work]
