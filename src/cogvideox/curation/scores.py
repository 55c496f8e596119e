"""Steps that measure how a clip looks and moves. They drop nothing: thresholds.py does, by rules about these scores."""

from __future__ import annotations

from dataclasses import astuple
from functools import cache
from typing import Literal

import numpy as np
from pydantic import Field

from cogvideox.clip import Clip
from cogvideox.curation.step import CurationStep, View
from cogvideox.perception import Aesthetic, AestheticProxy, ClipAesthetic
from cogvideox.perception.flow import AnyFlow, Dis, opencv
from cogvideox.perception.motion import motion_of


class Light(CurationStep):
    """Step ``light``: brightness, contrast, saturation, and the share of overexposed or black pixels."""

    kind: Literal["light"] = "light"
    gives = ("luma", "contrast", "clipped", "saturation")

    def measure(self, clip: Clip, view: View) -> Clip:
        """``luma``, ``contrast``, ``saturation`` in grey levels, ``clipped`` share of pixels above 250 or below 5."""
        indices = np.unique(np.linspace(0, len(view.tiny) - 1, 32).astype(int))
        grey, tiny = view.tiny_grey[indices], view.tiny[indices]
        red, green, blue = (tiny[..., channel] for channel in range(3))
        highest = np.maximum(np.maximum(red, green), blue).astype(np.float32)
        colour = highest - np.minimum(np.minimum(red, green), blue)
        return clip.with_scores(
            luma=float(grey.mean()),
            contrast=float(grey.std(axis=(1, 2)).mean()),
            clipped=float(((grey > 250) | (grey < 5)).mean()),
            saturation=float(colour.mean()),
        )


class Sharpness(CurationStep):
    """Step ``sharpness``: detail, noise, and blocks of a codec."""

    kind: Literal["sharpness"] = "sharpness"
    gives = ("sharpness", "noise", "blocks")

    def measure(self, clip: Clip, view: View) -> Clip:
        """``sharpness`` (median variance of the Laplacian), ``noise`` (grey levels), ``blocks`` (1: none)."""
        cv2 = opencv()
        chosen = view.grey[view.spread(5)]
        laplace = [float(cv2.Laplacian(picture, cv2.CV_32F).var()) for picture in chosen]
        return clip.with_scores(
            sharpness=float(np.median(laplace)),
            noise=float(np.median([noise_of(picture) for picture in chosen])),
            blocks=float(np.median([blocks_of(picture) for picture in chosen])),
        )


class Flicker(CurationStep):
    """Step ``flicker``: jumps of the brightness of the whole picture, and frames that stand still."""

    kind: Literal["flicker"] = "flicker"
    gives = ("flicker", "frozen")

    def measure(self, clip: Clip, view: View) -> Clip:
        """``flicker``: mean absolute second difference of the brightness, halved, in grey levels; 0 for an even fade.

        ``frozen``: share of frames that equal the one before them.
        """
        means = view.tiny_grey.astype(np.float32).mean(axis=(1, 2))
        bend = np.abs(means[2:] - 2 * means[1:-1] + means[:-2]) / 2
        change = np.abs(np.diff(view.tiny_grey.astype(np.int16), axis=0)).mean(axis=(1, 2))
        return clip.with_scores(
            flicker=float(bend.mean()) if len(bend) else 0.0,
            frozen=float((change < 0.05).mean()) if len(change) else 1.0,
        )


class MotionScore(CurationStep):
    """Step ``motion``: how much the camera and the things move; units: ``perception.motion.Motion``."""

    kind: Literal["motion"] = "motion"
    gives = ("motion", "motion_top", "motion_camera", "motion_own", "shake", "still")  # as in Motion
    flow: AnyFlow = Field(Dis(), description="dis, or raft with weights that you have")

    def check(self) -> None:
        self.flow.check()

    def ready(self) -> None:
        self.flow.build()

    def digests(self) -> tuple[str, ...]:
        return tuple(filter(None, [self.flow.digest()]))

    def on_gpu(self) -> bool:
        return self.flow.on_gpu()

    def measure(self, clip: Clip, view: View) -> Clip:
        """``motion``, ``motion_top``, ``motion_camera``, ``motion_own``, ``shake``, ``still``.

        A flow network with weights from your file is noted in ``clip.networks``, with their digest.
        """
        flow = self.flow.build()
        motion = motion_of(view.pictures if flow.colour else view.grey, view.moments.tolist(), flow)
        if self.flow.digest():
            clip = clip.model_copy(update={"networks": {**clip.networks, self.kind: flow.name}})
        return clip.with_scores(**dict(zip(self.gives, astuple(motion), strict=True)))


class TextArea(CurationStep):
    """Step ``text``: how much of the picture looks like writing (many short strokes in lines); a heuristic, no OCR."""

    kind: Literal["text"] = "text"
    gives = ("text_area",)

    def measure(self, clip: Clip, view: View) -> Clip:
        """``text_area``: share of the picture that looks like writing, the largest of 5 frames."""
        return clip.with_scores(text_area=max(text_area(picture) for picture in view.grey[view.spread(5)]))


class Watermark(CurationStep):
    """Step ``watermark``: marks that stay while the picture behind them moves (logos, captions, borders)."""

    kind: Literal["watermark"] = "watermark"
    gives = ("overlay",)
    least: float = Field(24.0, gt=0, description="least gradient of a mark, in grey levels")

    def measure(self, clip: Clip, view: View) -> Clip:
        """``overlay``: share of the picture in marks; None when the camera rests, because then everything stays."""
        return clip.with_scores(overlay=overlay_area(view.grey, self.least))


class AestheticScore(CurationStep):
    """Step ``aesthetic``: an aesthetic score by your CLIP model and head; without them a proxy under another name."""

    kind: Literal["aesthetic"] = "aesthetic"
    gives = ("aesthetic", "aesthetic_proxy")
    clip: str | None = Field(None, description="folder of a CLIP model; without it the proxy is used")
    head: str | None = Field(None, description="file of the head that was trained on ratings")
    pictures: int = Field(3, gt=0, description="pictures of a clip that are scored and averaged")

    def measure(self, clip: Clip, view: View) -> Clip:
        """``aesthetic`` (about 1 to 10) with CLIP model and head, ``aesthetic_proxy`` (0 to 1) without."""
        judge = aesthetic(self.clip, self.head)
        score = float(judge(view.pictures[view.spread(self.pictures)]).mean())
        return clip.with_scores(**{judge.score: score})


@cache
def aesthetic(folder: str | None, head: str | None) -> Aesthetic:
    """The aesthetic model of these files (both, else the proxy), loaded once a process."""
    return ClipAesthetic(folder, head) if folder and head else AestheticProxy()


def noise_of(grey: np.ndarray) -> float:
    """Standard deviation of noise in grey levels, by a filter that ignores edges (Immerkaer 1996)."""
    cv2 = opencv()
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    left = np.abs(cv2.filter2D(grey.astype(np.float32), -1, mask))
    return float(np.median(left) / (6 * 0.6745))  # the mask grows noise by 6; the median is 0.6745 deviations


def blocks_of(grey: np.ndarray) -> float:
    """Codec blocks: mean horizontal gradient on the strongest grid of period 8 / mean gradient; 1 without blocks."""
    across = np.abs(np.diff(grey.astype(np.float32), axis=1)).mean(axis=0)
    across = across[: len(across) // 8 * 8]
    if not len(across):
        return 1.0
    phases = across.reshape(-1, 8).mean(axis=0)
    return float((phases.max() + 0.1) / (phases.mean() + 0.1))


def text_area(grey: np.ndarray) -> float:
    """Share of ``uint8 [h, w]`` in boxes that look like lines of writing."""
    cv2 = opencv()
    height, width = grey.shape
    edges = cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    strong = (edges > max(40.0, min(90.0, float(edges.mean() + 2 * edges.std())))).astype(np.uint8)
    reach = max(3, width // 40)
    lines = cv2.morphologyEx(strong, cv2.MORPH_CLOSE, np.ones((1, reach), np.uint8))
    count, _, boxes, _ = cv2.connectedComponentsWithStats(lines)
    area = 0
    for label in range(1, count):
        left, top, wide, tall, filled = boxes[label]
        inside = strong[top : top + tall, left : left + wide]
        turns = np.abs(np.diff(inside.astype(np.int8), axis=1)).sum(axis=1).mean() if wide > 1 else 0
        long_line = wide >= 1.8 * tall and 3 <= tall <= height // 4 and wide >= width // 20
        if long_line and filled >= 0.45 * wide * tall and turns >= max(4.0, 0.5 * wide / max(tall, 1)):
            area += wide * tall
    return float(area / (height * width))


def overlay_area(grey: np.ndarray, least: float) -> float | None:
    """Share of the picture in marks whose gradient stays while the picture around them changes (Dekel et al. 2017);
    None when the camera rests."""
    cv2 = opencv()
    frames = grey[np.linspace(0, len(grey) - 1, min(16, len(grey))).astype(int)].astype(np.float32)
    moving = cv2.dilate(frames.std(axis=0), np.ones((15, 15), np.uint8)) > 12
    if len(frames) < 4 or moving.mean() < 0.3:
        return None
    across = [cv2.Sobel(frame, cv2.CV_32F, 1, 0) for frame in frames]
    down = [cv2.Sobel(frame, cv2.CV_32F, 0, 1) for frame in frames]
    usual = np.median([np.hypot(x, y) for x, y in zip(across, down, strict=True)], axis=0)
    stays = np.hypot(np.median(across, axis=0), np.median(down, axis=0))
    edges = usual > np.quantile(usual, 0.6)
    if edges.any() and (stays > 0.7 * usual)[edges].mean() > 0.5:
        return None  # most edges stay: the camera rests, so staying says nothing
    strong = (stays > least * 4) & (stays > 0.7 * usual) & moving  # Sobel sums 4 grey levels
    marks = cv2.morphologyEx(strong.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 9), np.uint8))
    count, _, boxes, _ = cv2.connectedComponentsWithStats(marks)
    sizes = [int(boxes[label][4]) for label in range(1, count)]
    return float(sum(size for size in sizes if size >= 0.0008 * marks.size) / marks.size)
