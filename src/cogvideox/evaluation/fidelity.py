"""Videos beside their originals: PSNR, SSIM, LPIPS, flickering; and the round trip of an autoencoder to measure so.

Both sides are uint8 videos of the same size and length, as they come out of the same decoder, never through a
lossy file on one side only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch

from cogvideox.errors import CheckpointError, InputError
from cogvideox.evaluation.score import Score, mean_score, not_computed
from cogvideox.perception.lpips import LPIPS, STAND_IN, load_lpips
from cogvideox.video import Video

CAP = 100.0  # dB, for equal frames: as common video code does below a mean squared error of 1e-10
PAPER_FRAMES = 17  # Table 2
WINDOW, SIGMA = 11, 1.5  # Wang et al. 2004
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
Measure = Callable[[np.ndarray, np.ndarray], float]


def psnr(
    videos: Iterable[Video], references: Iterable[Video], average: Literal["frames", "clip"] = "frames"
) -> Score:
    """Peak signal-to-noise ratio in dB, 100 for equal pictures.

    average="frames": mean over frames of each frame's PSNR; "clip": PSNR of the squared error of a whole clip.
    The two differ by some tenths of a dB. Raises InputError for videos of different shapes.
    """
    measure = {"frames": lambda a, b: float(psnr_by_frame(a, b).mean()), "clip": psnr_of_clip}[average]
    name = {"frames": "psnr_frame_mean", "clip": "psnr_clip"}[average]
    return mean_score(
        name, list(paired(videos, references, measure)), unit="dB", protocol=f"mean over {average}"
    )


def psnr_by_frame(frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The PSNR in dB of each frame of uint8 ``[t, h, w, 3]``; shows the pattern a causal VAE leaves in time."""
    error = np.array([np.mean((a.astype(np.float64) - b) ** 2) for a, b in zip(frames, truth, strict=True)])
    return _decibels(error)


def psnr_of_clip(frames: np.ndarray, truth: np.ndarray) -> float:
    """The PSNR in dB of a whole clip, uint8."""
    return float(_decibels(np.mean((frames.astype(np.float64) - truth) ** 2)))


def _decibels(error: Any) -> np.ndarray:
    return np.minimum(CAP, 10 * np.log10(255.0**2 / np.maximum(error, 1e-12)))


def ssim(videos: Iterable[Video], references: Iterable[Video]) -> Score:
    """Structural similarity: 11x11 Gaussian window (sigma 1.5) where it lies whole in the frame, mean of R, G, B.

    Equal to scikit-image's with ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False``. Raises InputError.
    """
    each = list(paired(videos, references, ssim_of_clip))
    return mean_score("ssim_rgb", each, protocol="11x11 Gaussian, sigma 1.5, valid windows, mean of R, G, B")


def ssim_of_clip(frames: np.ndarray, truth: np.ndarray) -> float:
    """Mean SSIM of the frames of uint8 ``[t, h, w, 3]``, at least 11 pixels a side."""
    if min(frames.shape[1:3]) < WINDOW:
        raise InputError(
            f"frames of {frames.shape[1]}x{frames.shape[2]}: SSIM needs at least {WINDOW} pixels a side"
        )
    return float(np.mean([_ssim_of_frame(a, b) for a, b in zip(frames, truth, strict=True)]))


def _ssim_of_frame(a: np.ndarray, b: np.ndarray) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    mean_x, mean_y = _smooth(x), _smooth(y)
    var_x, var_y = _smooth(x * x) - mean_x**2, _smooth(y * y) - mean_y**2
    cov = _smooth(x * y) - mean_x * mean_y
    top = (2 * mean_x * mean_y + C1) * (2 * cov + C2)
    return float(np.mean(top / ((mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2))))


def _smooth(image: np.ndarray) -> np.ndarray:
    """The Gaussian mean around each pixel of ``[h, w, c]`` that has a whole window."""
    weights = np.exp(-0.5 * ((np.arange(WINDOW) - WINDOW // 2) / SIGMA) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        length = image.shape[axis] - WINDOW + 1
        image = sum(w * image.take(range(i, i + length), axis) for i, w in enumerate(weights))
    return image


def flicker(videos: Iterable[Video]) -> Score:
    """Mean absolute difference of adjacent frames, 0-255: the paper's flickering (section 3.3) without its scale."""
    protocol = "mean over pairs of mean |x[t+1] - x[t]|, grey levels of 255"
    return _flicker_score("flicker_l1_pair_mean", [_pair_mean(v.frames) for v in videos], protocol)


def flicker_paper(videos: Iterable[Video]) -> Score:
    """Tables 1 and 2, as far as they can be read: the sum over the 16 pairs of the first 17 frames.

    The paper gives no unit; this reading has the tables' magnitude, which is plausible and not proven. NaN for
    videos of fewer than 17 frames.
    """
    each = [
        _pair_mean(v.frames[:PAPER_FRAMES]) * (PAPER_FRAMES - 1) if len(v) >= PAPER_FRAMES else np.nan
        for v in videos
    ]
    protocol = "sum over the 16 pairs of the first 17 frames; the paper's unit is assumed"
    return _flicker_score("flicker_paper_style_sum16", each, protocol)


def flicker_excess(videos: Iterable[Video], references: Iterable[Video]) -> Score:
    """Flicker of a reconstruction minus that of its original: below zero where it only blurs."""
    each = list(paired(videos, references, lambda a, b: _pair_mean(a) - _pair_mean(b)))
    protocol = "flicker(video) - flicker(original)"
    return _flicker_score("flicker_excess", each, protocol, better="neither")


def flicker_residual(videos: Iterable[Video], references: Iterable[Video]) -> Score:
    """Mean |change of the video - change of the original|: flicker that the codec adds, whatever moves."""
    protocol = "mean |(x[t+1] - x[t]) - (y[t+1] - y[t])|"
    return _flicker_score("flicker_residual", list(paired(videos, references, _residual)), protocol)


def vbench_flicker(videos: Iterable[Video]) -> Score:
    """VBench's temporal flickering, (255 - flicker) / 255, of every video given.

    VBench measures still scenes only; here every video counts.
    """
    each = [(255 - _pair_mean(v.frames)) / 255 for v in videos]
    protocol = "(255 - mean |x[t+1] - x[t]|) / 255, no filter for still scenes"
    return mean_score("vbench_temporal_flickering_raw", each, protocol=protocol)


def _flicker_score(name: str, each: list[float], protocol: str, better: Any = "lower") -> Score:
    return mean_score(name, each, unit="of 255", better=better, protocol=protocol)


def _pair_mean(frames: np.ndarray) -> float:
    """NaN for a single frame."""
    if len(frames) < 2:
        return float("nan")
    pairs = zip(frames[1:], frames[:-1], strict=True)
    return float(np.mean([np.abs(b.astype(np.int16) - a).mean() for b, a in pairs]))


def _residual(frames: np.ndarray, truth: np.ndarray) -> float:
    if len(frames) < 2:
        return float("nan")
    error = frames.astype(np.int16) - truth
    return float(np.abs(np.diff(error, axis=0)).mean())


def paired(videos: Iterable[Video], references: Iterable[Video], measure: Measure) -> Iterator[float]:
    """The measure of each pair of videos, read one pair at a time.

    Raises InputError where shapes differ or the two sides are not equally many.
    """
    try:
        for index, (video, reference) in enumerate(zip(videos, references, strict=True)):
            if video.frames.shape != reference.frames.shape:
                raise InputError(
                    f"video {index}: {list(video.frames.shape)} against a reference of "
                    f"{list(reference.frames.shape)}; compare equal sizes and lengths"
                )
            yield measure(video.frames, reference.frames)
    except ValueError as error:
        if "argument" not in str(error):
            raise
        raise InputError("videos and references: not equally many; give one reference per video") from None


class ImageDistance(Protocol):
    """A perceptual distance of images; ``name`` says by which weights."""

    name: str

    def __call__(self, frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """``uint8 [n, h, w, 3]`` twice -> one distance per image, float64 ``[n]``."""


def lpips(videos: Iterable[Video], references: Iterable[Video], distance: ImageDistance | None) -> Score:
    """Mean over frames of the distance to the original's frame (Zhang et al. 2018), whole frames, no resizing.

    The shipped stand-in's score has another name: it is no published LPIPS.
    """
    if distance is None:
        why = "needs VGG16 and LPIPS's heads (--lpips FOLDER)"
        return not_computed("lpips_vgg", why, better="lower")
    name = "lpips_vgg" if distance.name.startswith("vgg16") else "lpips_stand_in"
    each = list(paired(videos, references, lambda a, b: float(np.mean(distance(a, b)))))
    protocol = "mean over frames, whole frames"
    return mean_score(name, each, better="lower", protocol=protocol, settings={"network": distance.name})


class LPIPSDistance:
    """LPIPS by a network of ``perception.lpips``; the shipped stand-in's numbers are not published LPIPS."""

    def __init__(self, network: LPIPS, name: str) -> None:
        self.network, self.name = network, name

    @classmethod
    def load(cls, folder: str | Path | None = None) -> LPIPSDistance | None:
        """VGG16 from a folder with ``vgg16`` and ``vgg`` (.pth or .safetensors); without one the stand-in.

        None where no stand-in ships. Raises CheckpointError.
        """
        if folder is None and not STAND_IN.is_file():
            return None
        if folder is None:
            return cls(load_lpips(), "stand-in of the tiny world (not published LPIPS)")
        files = [_one_of(Path(folder), stem) for stem in ("vgg16", "vgg")]
        return cls(load_lpips(*files), "vgg16, version 0.1")

    def __call__(self, frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """See ``ImageDistance``; eight images at a time."""

        def pixels(images: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1

        distances = []
        with torch.inference_mode():
            for first in range(0, len(frames), 8):
                images = slice(first, first + 8)
                distances.append(self.network(pixels(frames[images]), pixels(truth[images])))
        return torch.cat(distances).double().numpy()


def _one_of(folder: Path, stem: str) -> Path:
    for suffix in (".safetensors", ".pth"):
        if (folder / f"{stem}{suffix}").is_file():
            return folder / f"{stem}{suffix}"
    raise CheckpointError(f"{folder}: holds no {stem}.pth or .safetensors; put VGG16 and LPIPS's heads there")


def round_trip(vae: Any) -> Callable[[np.ndarray], np.ndarray]:
    """A function that encodes frames ``uint8 [t, h, w, 3]`` to the mode of their latents and decodes them again."""

    @torch.inference_mode()
    def code(frames: np.ndarray) -> np.ndarray:
        weight = next(vae.parameters())
        pixels = Video(frames, 1.0).to_tensor().to(weight.device, weight.dtype)
        return Video.from_tensor(vae.decode(vae.encode(pixels).mode()), 1.0).frames[: len(frames)]

    return code
