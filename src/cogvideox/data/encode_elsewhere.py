"""Latents made by several workers: processes of this machine, or actors on a Ray cluster, with one cache for all.

A job is some clips of a source, written down so that a worker needs neither the listing nor the other clips. Its result
is one piece of the cache, whole or not at all; what was there before is not asked for again. The largest jobs are
handed out first. Latents are those of one process: each clip's follow from its pixels and the autoencoder alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvideox.checkpoints.diffusers import load_vae
from cogvideox.clip_folders.archives import ByteRange
from cogvideox.clip_folders.listing import ListedClip, Listing
from cogvideox.data.cache import TensorCache
from cogvideox.data.clips import ChosenClips, ClipDataset, ClipSize, FolderClips, WorldClips
from cogvideox.data.conditions import ConditionClips, maker_from_plain
from cogvideox.data.latents import digest_of, encode_batch, read_batches
from cogvideox.engines import JobEngine, StopWorkError, WorkerSpec
from cogvideox.errors import CheckpointError, NumericsError
from cogvideox.worker_pool import CostedJob

PER_JOB = 20
"""Clips of a job, at most: what a worker that dies may lose."""


@dataclass(frozen=True)
class ClipEncoders:
    """Workers that encode clips by the autoencoder of the folder ``vae``, on ``device``, into the cache ``folder``.

    ``weights``: the digest of the autoencoder that the caller has; a worker that finds another one stops the run.
    """

    engine: JobEngine
    vae: Path
    weights: str
    folder: Path
    device: str = "cpu"

    def encode(
        self, source: ClipDataset, missing: Mapping[str, int], dropped: dict[str, str]
    ) -> Iterator[int]:
        """Encode the clips at ``missing`` (key to number); yields how many each job had. ``dropped`` gets the rest."""
        config = {
            "vae": str(self.vae.absolute()),
            "weights": self.weights,
            "device": self.device,
            "folder": str(self.folder.absolute()),
            "source": source.to_plain(),
        }
        device = None if self.device == "cuda" else self.device
        spec = WorkerSpec(target=WORKER, config=config, shared=self.folder, device=device)
        for outcome in self.engine.run(jobs_of(source, missing), spec):
            names = outcome.job["names"]
            if outcome.error:
                dropped.update(dict.fromkeys(names, f"was given up ({outcome.detail or outcome.error})"))
            dropped.update(outcome.answer.get("dropped", {}))
            yield len(names)


def jobs_of(source: ClipDataset, missing: Mapping[str, int]) -> list[CostedJob]:
    """Neighbours together, so that a worker encodes clips of one shape at once."""
    keys, jobs = list(missing), []
    for start in range(0, len(keys), PER_JOB):
        some = keys[start : start + PER_JOB]
        indices = [missing[key] for key in some]
        job = {"keys": some, "names": [source.name(each) for each in indices]}
        job["clips"] = [source.clip_to_plain(each) for each in indices]
        jobs.append(CostedJob(job, sum(source.cost(each) for each in indices)))
    return jobs


def clips_from_plain(values: Mapping[str, Any], clips: Sequence[Any]) -> ClipDataset:
    """The clips that ``to_plain`` and ``clip_to_plain`` wrote down, in another process; without captions."""
    own = {name: value for name, value in values.items() if name != "kind"}
    if values["kind"] == "world":
        return ChosenClips(WorldClips(**own, count=max(clips, default=0) + 1), clips)
    if values["kind"] == "condition":
        source = clips_from_plain(own["source"], [each["clip"] for each in clips])
        picks = [(index, each["variant"]) for index, each in enumerate(clips)]
        return ConditionClips(source, maker_from_plain(own["maker"]), picks)
    locations = [(each["name"], each["location"]) for each in clips]
    entries = [
        ListedClip(name, "", ByteRange(**where | {"file": Path(where["file"])})) for name, where in locations
    ]
    return FolderClips(Listing(Path(), "", entries), ClipSize.parse(own["size"]), colour=own["colour"])


class ClipEncoder:
    """Encodes clips in a process of its own; the autoencoder is loaded once."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.vae = load_vae(config["vae"], dtype="float32").eval().requires_grad_(False)
        self.weights = digest_of(self.vae.encoder, self.vae.config)
        if self.weights != config["weights"]:
            raise CheckpointError(
                f"{config['vae']}: holds another autoencoder here (digest {self.weights}, not {config['weights']}); "
                "every node needs the same files"
            )
        self.vae.to(config["device"])
        self.cache = TensorCache(config["folder"])

    def do(self, job: dict[str, Any]) -> dict[str, Any]:
        """Encode the clips of a job into one piece of the cache: how many, and why others could not be read."""
        source, dropped = clips_from_plain(self.config["source"], job["clips"]), dict[str, str]()
        items = {}
        try:
            for batch in read_batches(source, range(len(source)), dropped):
                items.update(
                    {job["keys"][index]: item for index, item in encode_batch(self.vae, batch, source)}
                )
        except NumericsError as error:  # of the autoencoder, not of this job
            raise StopWorkError(error) from None
        self.cache.add(items)
        return {"encoded": len(items), "dropped": dropped}


WORKER = f"{__name__}:{ClipEncoder.__name__}"
