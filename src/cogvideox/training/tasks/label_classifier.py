"""Training the classifier of the six negative labels: faults made on purpose in, a small network and its report out.

The paper trains six filters on 20,000 clips that people labelled (section 3, Table 14). Nobody's labels ship with this
project, so faults are made: cuts, overlays, slide shows, writing, windows, blur, people who are drawn. Videos are
never in both the training and the test part. What people labelled (``labels``) joins in as what a video has by itself.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, ClassVar, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from cogvideox.curation.labels import LABELS, read_labels
from cogvideox.files.atomic import atomic_file, write_text
from cogvideox.files.digest import sha256_of_file
from cogvideox.noise import generator
from cogvideox.perception.handcrafted import CARD, WEIGHTS, handcrafted_features
from cogvideox.training.task import MayChange, Task, TaskConfig
from cogvideox.training.tasks.faults.samples import sample
from cogvideox.training.tasks.faults.take_library import TakeLibrary, read_stock
from cogvideox.training.tasks.label_report import LabelScore, best_threshold, calibrate, report, score_label

PER_FILE = 100  # samples in one file of the cache
Data = dict[str, np.ndarray]  # frames [n, 8, f], clip [n, g], labels [n, 6] with NaN where nothing is known


class ClassifierTraining(TaskConfig):
    """Settings of the task ``classifier``: train the classifier of the six negative labels on clean videos with faults
    added to them."""

    kind: Literal["classifier"] = Field("classifier", description="the task: train the label classifier")
    renamed_settings: ClassVar[dict[str, str]] = {"films": "videos"}

    videos: str = Field(description="folder of clean videos")
    labels: str | None = Field(
        None, description="labels.jsonl of `data label`: defects the videos have before any is added"
    )
    held_out: tuple[str, ...] = Field(
        (), description="videos whose names begin with one of these are only tested on"
    )
    left_out: tuple[str, ...] = Field(
        (), description="videos whose names begin with one of these are not used"
    )
    samples: int = Field(
        12_000, gt=0, description="clips made for training, and as many again that look like other videos"
    )
    checks: int = Field(
        600, gt=0, description="clips made from the training videos, for calibration and thresholds"
    )
    tests: int = Field(640, gt=0, description="clips made from held-out videos, for the report")
    width: int = Field(64, gt=0, description="units of each hidden layer")
    batch: int = Field(256, gt=0, description="samples of a micro-step")
    dropout: float = Field(0.4, ge=0, lt=1, description="share of activations that are dropped")
    jitter: float = Field(0.3, ge=0, description="noise on the features, in their standard deviations")
    cache: Annotated[str, MayChange] = Field(
        "runs/traits", description="folder where features of the made clips are kept"
    )

    def build(self, seed: int, steps: int | None = None) -> ClassifierTask:
        return ClassifierTask(self, seed)


class ClassifierNetwork(nn.Module):
    """The network of perception.classifier, as it trains."""

    frame_mean: Tensor
    frame_std: Tensor
    clip_mean: Tensor
    clip_std: Tensor
    temperature: Tensor

    def __init__(self, data: Data, width: int, dropout: float) -> None:
        super().__init__()
        for name, axes in (("frame", (0, 1)), ("clip", (0,))):
            values = torch.from_numpy(data["frames" if name == "frame" else "clip"])
            self.register_buffer(f"{name}_mean", values.mean(axes))
            self.register_buffer(f"{name}_std", values.std(axes).clamp_min(1e-3))
        self.first = nn.Linear(len(self.frame_mean), width)
        self.second = nn.Linear(width, width)
        self.third = nn.Linear(3 * width + len(self.clip_mean), width)
        self.heads = nn.Linear(width, len(LABELS))
        self.register_buffer("temperature", torch.ones(len(LABELS)))
        self.dropout = dropout

    def forward(self, frames: Tensor, clip: Tensor, jitter: float = 0.0) -> Tensor:
        """Features of 8 moments [b, 8, f] and of the clip [b, g] -> logits [b, 6]."""
        frames = ((frames - self.frame_mean) / self.frame_std).clamp(-6, 6)
        clip = ((clip - self.clip_mean) / self.clip_std).clamp(-6, 6)
        if self.training and jitter:
            frames, clip = frames + jitter * torch.randn_like(frames), clip + jitter * torch.randn_like(clip)
        hidden = _gelu(self.second(_gelu(self.first(frames))))
        pooled = torch.cat([hidden.mean(1), hidden.amax(1), hidden.std(1, correction=0), clip], 1)
        pooled = F.dropout(pooled, self.dropout, self.training)
        hidden = F.dropout(_gelu(self.third(pooled)), self.dropout, self.training)
        return self.heads(hidden) / self.temperature


class ClassifierTask(Task):
    """Train a network to say which of the six negative labels a clip has, from handcrafted features."""

    config: ClassifierTraining
    module: ClassifierNetwork

    def __init__(self, config: ClassifierTraining, seed: int) -> None:
        self.config, self.seed = config, seed
        known = read_labels(config.labels) if config.labels else {}
        stock = read_stock(Path(config.videos), known)
        names = {name for name in stock.takes if not name.startswith(config.left_out or "\0")}
        held = {name for name in names if config.held_out and name.startswith(config.held_out)}
        self.trained, self.tested = sorted(names - held), sorted(held)
        self.digests = {name: sha256_of_file(Path(config.videos) / name) for name in sorted(names)}
        cache = Path(config.cache)
        own = stock.only(names - held)
        train, varied = (samples(own, seed, split, config.samples, cache) for split in ("train", "varied"))
        self.data = {"train": {key: np.concatenate([train[key], varied[key]]) for key in train}}
        self.data["check"] = samples(own, seed, "check", config.checks, cache)
        test = stock.only(held)
        self.data["test"] = samples(test, seed, "test", config.tests, cache)
        self.data["new"] = samples(test, seed, "new", config.tests // 2, cache)
        torch.manual_seed(generator(seed, "weights").initial_seed())
        self.module = ClassifierNetwork(self.data["train"], config.width, config.dropout)

    def losses(self, step: int) -> dict[str, Tensor]:
        """Binary cross-entropy over the labels that are known."""
        data = self.data["train"]
        draw = generator(self.seed, "rows", step)
        chosen = torch.randint(len(data["labels"]), (self.config.batch,), generator=draw)
        truth = torch.from_numpy(data["labels"])[chosen]
        self.module.train()
        with torch.random.fork_rng(devices=[]):  # dropout and jitter are functions of the step too
            torch.manual_seed(generator(self.seed, "dropout", step).initial_seed())
            frames, clip = (torch.from_numpy(data[name])[chosen] for name in ("frames", "clip"))
            logits = self.module(frames, clip, self.config.jitter)
        known = ~truth.isnan()
        smooth = truth[known] * 0.96 + 0.02
        return {"loss": F.binary_cross_entropy_with_logits(logits[known], smooth)}

    @torch.no_grad()
    def measure(self, module: nn.Module) -> dict[str, float]:
        """Mean accuracy over labels on held-out videos, on equally many positives and negatives of each."""
        return {"held_out_accuracy": float(np.mean([score.accuracy for score in self.judge(module)]))}

    def export(self, module: nn.Module, folder: Path) -> None:
        """``classifier.safetensors``, ``classifier.json`` and the report (``report.json``, ``report.md``)."""
        folder.mkdir(parents=True, exist_ok=True)
        logits = self.logits(module, "check")
        truth = self.data["check"]["labels"]
        temperature = np.array([calibrate(logits[:, n], truth[:, n]) for n in range(len(LABELS))], np.float32)
        cast(ClassifierNetwork, module).temperature.copy_(torch.from_numpy(temperature))
        thresholds = self.thresholds(module)
        weights = {name: value.detach().float().numpy().copy() for name, value in module.state_dict().items()}
        save_file(weights, folder / WEIGHTS)
        name = "labels-" + sha256_of_file(folder / WEIGHTS)[:12]
        card = {
            "name": name,
            "labels": list(LABELS),
            "thresholds": dict(zip(LABELS, map(float, thresholds), strict=True)),
            "trained_on": {video: self.digests[video] for video in self.trained},
            "tested_on": {video: self.digests[video] for video in self.tested},
        }
        scores = {split: self.judge(module, split) for split in ("test", "new")}
        plain = {split: [score.to_json() for score in some] for split, some in scores.items()}
        write_text(folder / CARD, json.dumps(card, indent=1) + "\n")
        write_text(folder / "report.json", json.dumps(plain, indent=1) + "\n")
        write_text(folder / "report.md", report(scores["test"], scores["new"], name) + "\n")

    def logits(self, module: nn.Module, split: str) -> np.ndarray:
        """Logits [n, 6] of the samples of a split: train, check, test or new."""
        module.eval()
        with torch.no_grad():
            data = self.data[split]
            return module(torch.from_numpy(data["frames"]), torch.from_numpy(data["clip"])).numpy()

    def thresholds(self, module: nn.Module) -> list[float]:
        """One threshold of the probability per label: the best on the split ``check``."""
        probability = 1 / (1 + np.exp(-self.logits(module, "check")))
        truth = self.data["check"]["labels"]
        return [best_threshold(probability[:, n], truth[:, n]) for n in range(len(LABELS))]

    def judge(self, module: nn.Module, split: str = "test") -> list[LabelScore]:
        """The score of each label on the samples of a split."""
        probability = 1 / (1 + np.exp(-self.logits(module, split)))
        truth, limits = self.data[split]["labels"], self.thresholds(module)
        return [score_label(name, probability[:, n], truth[:, n], limits[n]) for n, name in enumerate(LABELS)]


def samples(stock: TakeLibrary, seed: int, split: str, count: int, cache: Path) -> Data:
    """Features and labels of ``count`` samples; each hundred is kept in a file, so an interrupted run continues."""
    lot = {"train": 0, "varied": 0, "check": 1, "test": 2, "new": 3}[split]
    facts = f"{sorted(stock.takes)} {sorted(stock.known.items())} {seed} {split}"
    folder = cache / f"{split}-{hashlib.sha256(facts.encode()).hexdigest()[:12]}"
    hundreds = []
    for start in range(0, count, PER_FILE):
        file = folder / f"{start:06d}.safetensors"
        if not file.exists():
            some = [_arrays(stock, seed * 4 + lot, n, split) for n in range(start, start + PER_FILE)]
            with atomic_file(file, overwrite=True) as temporary:
                save_file({name: np.stack([one[name] for one in some]) for name in some[0]}, temporary)
        hundreds.append(load_file(file))
    return {name: np.concatenate([one[name] for one in hundreds])[:count] for name in hundreds[0]}


def _arrays(stock: TakeLibrary, seed: int, index: int, split: str) -> Data:
    one = sample(stock, seed, index, new_effects=split == "new", varied=split == "varied")
    traits = handcrafted_features(one.frames)
    truth = (one.labels[name] for name in LABELS)
    labels = [float("nan") if value is None else float(value) for value in truth]
    return {"frames": traits.frames, "clip": traits.clip, "labels": np.array(labels, np.float32)}


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")
