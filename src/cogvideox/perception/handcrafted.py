"""Handcrafted features: cheap numbers about pictures and about what changes between them; small networks read them.

Each picture gives where light, detail and colour are (a 4x4 grid), how its edges lie, and how flat, blurred, noisy and
blocky it is; each pair of neighbours gives where and how much it changes and how much of it a camera explains.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cogvideox.errors import CheckpointError
from cogvideox.files import read_json
from cogvideox.perception.flow import DisFlow, opencv
from cogvideox.perception.motion import affine

SIDE = 128  # pixels of the shorter side
MOMENTS = 8  # pictures of a clip that are described
GRID = 4


@dataclass(frozen=True)
class HandcraftedFeatures:
    """``frames`` float32 [8, f] about moments of the clip, ``clip`` float32 [g] about all of it."""

    frames: np.ndarray
    clip: np.ndarray


def handcrafted_features(pictures: np.ndarray) -> HandcraftedFeatures:
    """The traits of ``uint8 [n, h, w, 3]`` pictures, about eight a second; any n and size above zero."""
    cv2 = opencv()
    scale = SIDE / min(pictures.shape[1:3])
    size = (max(8, round(pictures.shape[2] * scale)), max(8, round(pictures.shape[1] * scale)))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = [cv2.resize(picture, size, interpolation=way) for picture in pictures]
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in small]
    changes = np.stack(
        [_change(a, b) for a, b in zip(grey[:-1], grey[1:], strict=True)] or [np.zeros(GRID * GRID)]
    )
    last = max(0, len(grey) - 2)
    places = np.linspace(0, last, MOMENTS).round().astype(int)
    known: dict[int, np.ndarray] = {}
    for place in places:
        if place not in known:
            pair = (grey[place], grey[min(place + 1, len(grey) - 1)])
            known[place] = np.concatenate([_picture(small[place], grey[place]), _pair(*pair, changes[place])])
    return HandcraftedFeatures(np.stack([known[place] for place in places]), _whole(changes, grey))


def _picture(colour: np.ndarray, grey: np.ndarray) -> np.ndarray:
    cv2 = opencv()
    real = grey.astype(np.float32)
    across, down = cv2.Sobel(real, cv2.CV_32F, 1, 0), cv2.Sobel(real, cv2.CV_32F, 0, 1)
    light, spread = _cells(real), _cells(real * real)
    grids = [
        light / 128 - 1,
        np.sqrt(np.maximum(spread - light * light, 0)) / 64,
        _cells(np.abs(across)) / 64,
        _cells(np.abs(down)) / 64,
        _cells(_vividness(colour)) / 64,
    ]
    laplace = cv2.Laplacian(real, cv2.CV_32F)
    edge = np.hypot(across, down) > 60
    angle = np.arctan2(down, across)[edge]
    turns = np.histogram(np.mod(angle, np.pi), 8, (0, np.pi))[0] / max(1, edge.sum())
    levels = np.histogram(grey, 8, (0, 256))[0] / grey.size
    codes = (colour >> 4).astype(np.int32) @ np.array([256, 16, 1], np.int32)
    common = np.sort(np.bincount(codes.ravel(), minlength=4096))[::-1] / grey.size
    flips = np.abs(np.diff((real > cv2.blur(real, (9, 9)) + 12).astype(np.int8), axis=1))
    alone = [
        np.log1p(laplace.var()) / 8,
        np.log1p(np.median(np.abs(laplace))) / 3,
        edge.mean(),
        _lines(np.abs(across) > 100, 0),
        _lines(np.abs(down) > 100, 1),
        common[0],
        common[:8].sum(),
        common[:64].sum(),
        flips.mean() * 8,
        np.sort(flips.mean(axis=1))[-len(flips) // 4 :].mean() * 8,
        _grid_of_blocks(real),
        _grid_of_blocks(real.T),
        _fine(real),
        (np.abs(across[:, ::2]) > 60).mean(),
        (grey < 12).mean(),
        (grey > 243).mean(),
        _mirror(real),
    ]
    return np.concatenate([*(grid.ravel() for grid in grids), turns, levels, alone]).astype(np.float32)


def _cells(values: np.ndarray) -> np.ndarray:
    """Means of ``float32 [h, w]`` over the cells of the grid."""
    cv2 = opencv()
    return cv2.resize(values, (GRID, GRID), interpolation=cv2.INTER_AREA)


def _vividness(colour: np.ndarray) -> np.ndarray:
    """Highest less lowest channel of each pixel, ``float32 [h, w]``."""
    cv2 = opencv()
    red, green, blue = cv2.split(colour)
    return (cv2.max(red, cv2.max(green, blue)) - cv2.min(red, cv2.min(green, blue))).astype(np.float32)


def _change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return _cells(opencv().absdiff(before, after).astype(np.float32)).ravel()


def _pair(before: np.ndarray, after: np.ndarray, change: np.ndarray) -> np.ndarray:
    half = [np.ascontiguousarray(picture[::2, ::2]) for picture in (before, after)]
    field = DisFlow()(*half) / (SIDE / 2)
    camera = affine(field[None])[0]
    speed, rest = np.linalg.norm(field, axis=2), np.linalg.norm(field - camera, axis=2)
    shared = np.median(field.reshape(-1, 2), axis=0)
    alone = [
        speed.mean() * 20,
        np.quantile(speed, 0.95) * 10,
        rest.mean() * 20,
        np.quantile(rest, 0.95) * 10,
        (speed < 0.002).mean(),
        *np.clip(shared * 10, -3, 3),
        rest.mean() / (speed.mean() + 1e-3),
        np.log1p(change.mean()),
        np.log1p(change.max()),
    ]
    return np.concatenate([np.log1p(change) / 3, alone]).astype(np.float32)


def _whole(changes: np.ndarray, grey: list[np.ndarray]) -> np.ndarray:
    """About all neighbours: cuts, stills, steadiness, what never changes."""
    mean = changes.mean(axis=1)
    ordered = np.sort(mean)[::-1]
    middle = float(np.median(mean))
    stack = np.stack(grey[:: max(1, len(grey) // 12)]).astype(np.float32)
    still = stack.std(axis=0)
    kept = [ordered[min(n, len(ordered) - 1)] for n in (0, 1, 2)]
    light = np.array([picture.mean() for picture in grey])
    bend = np.abs(np.diff(light, 2)).mean() if len(light) > 2 else 0.0
    cells = changes / (changes.max(axis=1, keepdims=True) + 1.0)
    values = [
        *np.log1p(kept),
        np.log1p(middle),
        kept[0] / (middle + 1.0) / 10,
        kept[1] / (middle + 1.0) / 10,
        (mean < 0.3).mean(),
        (mean > 4 * middle + 4).mean() * 5,
        np.log1p(mean.std()),
        *((still < limit).mean() for limit in (1.0, 3.0, 8.0)),
        still.mean() / 32,
        np.log1p(bend),
        cells.mean(),
        np.abs(np.diff(mean)).mean() / (mean.mean() + 0.5) if len(mean) > 1 else 0.0,
        *(np.quantile(changes.mean(axis=0), (0.0, 0.25, 0.5, 0.75, 1.0)) / 16),
    ]
    return np.array(values, np.float32)


def _lines(edges: np.ndarray, axis: int) -> float:
    """Share of rows or columns along which a straight edge runs for a quarter of the picture."""
    return float((edges.mean(axis=axis) > 0.25).mean() * 10)


def _grid_of_blocks(real: np.ndarray) -> float:
    step = np.abs(np.diff(real, axis=1)).mean(axis=0)
    spectrum = np.abs(np.fft.rfft(step - step.mean()))
    return float(np.log1p(spectrum[1:].max() / (spectrum[1:].mean() + 1e-3)) / 3)


def _fine(real: np.ndarray) -> float:
    """Share of detail that is as fine as pixels."""
    cv2 = opencv()
    half = cv2.resize(real, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    coarse = cv2.resize(half, real.shape[::-1])
    return float(np.abs(real - coarse).mean() / (np.abs(real - cv2.blur(real, (7, 7))).mean() + 0.5))


def _mirror(real: np.ndarray) -> float:
    """How alike the left and the right half are, mirrored: 1 for equal."""
    half = real.shape[1] // 2
    left, right = real[:, :half], real[:, ::-1][:, :half]
    return float(1 - np.abs(left - right).mean() / (real.std() + 4))


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

        def linear(name: str, x: np.ndarray) -> np.ndarray:
            return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

        hidden = _gelu(linear("second", _gelu(linear("first", frames))))
        pooled = np.concatenate([hidden.mean(0), hidden.max(0), hidden.std(0), clip])
        calibrated = linear("heads", _gelu(linear("third", pooled))) / w["temperature"]
        probabilities = (float(1 / (1 + np.exp(-value))) for value in calibrated)
        return dict(zip(self.labels, probabilities, strict=True))

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
            exact = {name: value.astype(np.float64) for name, value in weights.items()}
            found = cls(exact, labels, thresholds, card["name"])
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
