"""Any number of frames and any image shape, made from what the network can make. Loads no torch.

The autoencoder turns its first frame into one latent and every 4 frames after it into one more, and only an
odd number of latents comes back as it went in: 8n + 1 frames (1, 9, 17, ...). The 1.5 models join latents in
pairs and were trained on 16n + 1 frames, whose odd number of latents gets one more in front, dropped again
before decoding. The planner makes the next such number and cuts the rest away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from cogvideox.errors import FrameError, SizeError

Anchor = Literal["middle", "start"]


@dataclass(frozen=True)
class FramePlan:
    """How ``asked`` frames are made: ``generated`` pixel frames from ``latents`` latent ones.

    ``padding`` latents in front are dropped before decoding; then ``front`` and ``back`` pixel frames are cut away.
    """

    asked: int
    generated: int
    latents: int
    padding: int
    front: int
    back: int
    why: str

    def to_dict(self) -> dict[str, Any]:
        """The plan for the manifest, in which ``generated`` is called "made"."""
        return {"made" if name == "generated" else name: value for name, value in vars(self).items()}


def plan_frames(
    asked: int,
    ratio: int = 4,
    patch: int = 1,
    anchor: Anchor = "middle",
    lead: int = 0,
    trained: int | None = None,
    first_alone: bool = False,
    riflex: bool = False,
) -> FramePlan:
    """Make exactly ``asked`` frames, after ``lead`` frames that are given and cut away. Raises FrameError below 1.

    ratio: pixel frames per latent. patch: latents per patch in time. anchor: cut at both ends ("middle"), or only at
    the end, so that the first frame stays the first ("start"). trained: the length the model knows, for the reason.
    first_alone: the autoencoder decodes an even number of latents too (``VAEConfig.first_latent_alone``), so that
    4n + 1 frames fill whole patches and none is padded. riflex: positions are slowed (RIFLEx), for the reason too.
    """
    if asked < 1:
        raise FrameError(f"frames {asked}: a video has at least one frame; ask for 1 or more")
    if lead < 0:
        raise FrameError(f"context of {lead} frames: cannot be negative; give 0 or more")
    if first_alone:
        unit = ratio * patch
        latents = -(-(asked + lead - 1) // ratio) + 1
        generated = (latents + -latents % patch - 1) * ratio + 1
    else:
        unit = patch if ratio == 1 else 2 * ratio * patch
        generated = -(-(asked + lead - 1) // unit) * unit + 1
    latents = (generated - 1) // ratio + 1
    padding = -latents % patch
    extra = generated - asked - lead
    front = lead if lead or anchor == "start" else extra // 2
    back = generated - asked - front
    made = f"{unit}n + {1 + ratio * (patch - 1)}" if first_alone else f"{unit}n + 1"
    why = _why(asked, generated, made, front - lead, back, lead, padding)
    if trained is not None and generated > trained:
        what = "so positions are slowed (RIFLEx)" if riflex else "so expect repetition"
        why += f"; longer than the {trained} frames the model was trained on, {what}"
    return FramePlan(asked, generated, latents + padding, padding, front, back, why)


def _why(asked: int, generated: int, counts: str, front: int, back: int, lead: int, padding: int) -> str:
    after = f" after {lead} given ones" if lead else ""
    if front == back == 0:
        why = f"{asked} frames{after}: as asked"
    else:
        cuts = ((front, "at the start"), (back, "at the end"))
        ends = ", ".join(f"{count} {where}" for count, where in cuts if count)
        why = f"{asked} frames{after}: the model makes {counts}, so {generated} are made and cut: {ends}"
    return why + (f"; {padding} latent in front completes the last patch" if padding else "")


def plan_size(
    height: int | None,
    width: int | None,
    usual: tuple[int, int],
    multiple: int = 16,
    shape: tuple[int, int] | None = None,
) -> tuple[int, int]:
    """Height and width in pixels. Raises SizeError, with the sizes nearby, unless both are multiples of ``multiple``.

    Without a size it is the ``usual`` one, or, with the ``shape`` (height, width) of an image given for a model that
    takes any aspect, the image's aspect with the usual short side, the long side at most the usual one.
    """
    if height is None and width is None and shape is not None:
        short, long = sorted(usual)
        aspect = max(shape) / min(shape)
        side = min(max(round(short * aspect / multiple) * multiple, short), long)
        height, width = (side, short) if shape[0] > shape[1] else (short, side)
    height = usual[0] if height is None else height
    width = usual[1] if width is None else width
    for name, size in (("height", height), ("width", width)):
        if size < multiple or size % multiple:
            below = max(size // multiple, 1) * multiple
            raise SizeError(
                f"{name} {size}: the model needs a multiple of {multiple}; try {below} or {below + multiple}"
            )
    return height, width
