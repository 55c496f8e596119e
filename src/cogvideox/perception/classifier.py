"""A small network that reads traits and says how likely a clip has each defect. Trained here, from scratch.

Every moment goes through the same two layers; their mean, their largest and their spread over time, with the numbers
about the whole clip, go through two more. It runs in plain numpy: workers need no deep-learning library for this.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cogvideox.errors import CheckpointError
from cogvideox.files import read_json
from cogvideox.perception.handcrafted import HandcraftedFeatures

SHIPPED = Path(__file__).resolve().parents[1] / "shipped" / "labels"
WEIGHTS, CARD = "classifier.safetensors", "classifier.json"


@dataclass(frozen=True)
class LabelClassifier:
    """Weights by name, the labels in order, a threshold each, and a name for the record."""

    weights: dict[str, np.ndarray]
    labels: tuple[str, ...]
    thresholds: dict[str, float]
    name: str

    def __call__(self, traits: HandcraftedFeatures) -> dict[str, float]:
        """label -> calibrated probability that the clip has the defect."""
        w = self.weights
        frames = np.clip((traits.frames - w["frame_mean"]) / w["frame_std"], -6, 6)
        clip = np.clip((traits.clip - w["clip_mean"]) / w["clip_std"], -6, 6)
        hidden = _gelu(
            _gelu(frames @ w["first.weight"].T + w["first.bias"]) @ w["second.weight"].T + w["second.bias"]
        )
        pooled = np.concatenate([hidden.mean(0), hidden.max(0), hidden.std(0), clip])
        logits = _gelu(pooled @ w["third.weight"].T + w["third.bias"]) @ w["heads.weight"].T + w["heads.bias"]
        calibrated = logits / w["temperature"]
        return {
            name: float(1 / (1 + np.exp(-value))) for name, value in zip(self.labels, calibrated, strict=True)
        }

    @classmethod
    def load(cls, folder: Path | None = None) -> LabelClassifier:
        """From a folder of ``training.classifier``; the one that ships when None. Raises CheckpointError."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        folder = folder or SHIPPED
        try:
            card = read_json(folder / CARD)
            weights = load_file(folder / WEIGHTS)
            labels, thresholds = tuple(card["labels"]), {k: float(v) for k, v in card["thresholds"].items()}
            found = cls(
                {name: value.astype(np.float64) for name, value in weights.items()},
                labels,
                thresholds,
                card["name"],
            )
            if set(labels) != set(thresholds) or len(weights["heads.bias"]) != len(labels):
                raise ValueError("labels, thresholds and heads do not match")
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            why = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"{folder}: no label classifier can be read ({why}); train one, or name another"
            ) from None
        return found


def _gelu(x: np.ndarray) -> np.ndarray:
    """The tanh form, as the training uses."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
