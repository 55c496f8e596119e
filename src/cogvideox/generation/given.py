"""What a run is given besides its prompt: pictures, a video, a mask, a control video; read, checked, made to fit."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cogvideox.brief import Brief
from cogvideox.errors import InputError, MediaError
from cogvideox.files.paths import IMAGE_SUFFIXES
from cogvideox.generation.control_net_entry import ControlNetEntry
from cogvideox.generation.options import OUTSIDE, GenerateOptions
from cogvideox.spec import ABOUT_KINDS, Kind, ModelSpec
from cogvideox.video import Video, read_image, read_mask, read_video

Picture = np.ndarray | str | Path
KEYFRAME = re.compile(r"\s*(\d+)\s*=\s*(\S.*)")

TAKES: dict[Kind, frozenset[str]] = {
    "t2v": frozenset({"image", "video", "control_net"}),
    "i2v": frozenset({"image", "last_image", "keyframe", "video", "control_net"}),
    "i2v-every-frame": frozenset({"image", "video", "control_net"}),
    "inpaint": frozenset({"image", "last_image", "keyframe", "video", "mask", "control_net"}),
    "control": frozenset({"control"}),
    "removal": frozenset({"video", "remove", "first_pass"}),
}
"""What each kind of model can be given."""
BETTER = {
    "last_image": "an image-to-video or an inpainting model",
    "keyframe": "an image-to-video or an inpainting model",
    "mask": "an inpainting model, such as alibaba-pai/CogVideoX-Fun-V1.1-5b-InP",
    "control": "a control model, such as alibaba-pai/CogVideoX-Fun-V1.1-5b-Control, or give a ControlNet with "
    "control_net",
    "control_net": "a text-to-video or an image-to-video model",
    "remove": "a model that removes, such as netflix/void-model",
    "first_pass": "a model that removes, such as netflix/void-model",
    "image": "an image-to-video model",
    "video": "a text-to-video model",
}


@dataclass(frozen=True)
class GivenSize:
    """Height and width of what a run starts from, and frames and rate where it is a video."""

    height: int
    width: int
    frames: int | None = None
    fps: float | None = None


@dataclass(frozen=True, repr=False)
class Given(Brief):
    """What a run starts from, as read.

    ``image`` and ``last_image``: the first and the last frame, uint8 [h, w, 3]. ``keyframes``: other frames by their
    number. ``video``: a video to change, to carry on from or to fill. ``mask``: uint8 [t, h, w] over it, white where it
    is made anew. ``remove``: the same, white where something is removed. ``control``: a control video that the model
    reads itself. ``control_nets``: the control video of each ControlNet. A picture, a video of one frame, is a control
    for all frames.
    """

    image: np.ndarray | None = None
    video: Video | None = None
    last_image: np.ndarray | None = None
    keyframes: Mapping[int, np.ndarray] = field(default_factory=dict)
    mask: np.ndarray | None = None
    remove: np.ndarray | None = None
    control: Video | None = None
    control_nets: tuple[Video, ...] = ()
    outside: bool = False
    """Whether the mask is what the fit leaves black."""
    first_pass: Video | None = None
    """What the first pass of a removal made: the run is the second pass."""
    quad: bool = False
    """Whether ``remove`` is a mask of four levels, as VOID's files are."""

    @property
    def names(self) -> frozenset[str]:
        """The options that were given."""
        values: dict[str, Any] = {
            "image": self.image,
            "video": self.video,
            "last_image": self.last_image,
            "mask": self.mask,
        }
        values |= {"remove": self.remove, "control": self.control, "keyframe": self.keyframes or None}
        values |= {"control_net": self.control_nets or None, "first_pass": self.first_pass}
        return frozenset(name for name, value in values.items() if value is not None)

    @property
    def for_model(self) -> frozenset[str]:
        """The options that were given for the model itself, not for ControlNets beside it."""
        return self.names - {"control_net"}

    @property
    def controls(self) -> tuple[Video, ...]:
        """Every control video, the model's first."""
        return (*([self.control] if self.control is not None else []), *self.control_nets)

    @property
    def motion(self) -> Video | None:
        """The video, or else the first control video: what has a length and a rate of its own."""
        if self.video is not None:
            return self.video
        return next((each for each in self.controls if len(each) > 1), None)

    @property
    def shape(self) -> tuple[int, int] | None:
        """Height and width of what was given."""
        if self.motion is not None:
            return self.motion.height, self.motion.width
        pictures = [self.image, *self.keyframes.values(), self.last_image]
        pictures += [each.frames[0] for each in self.controls]
        first = next((each for each in pictures if each is not None), None)
        return (first.shape[0], first.shape[1]) if first is not None else None

    @property
    def size(self) -> GivenSize | None:
        """What a plan depends on; None when nothing was given."""
        if self.shape is None:
            return None
        length = (len(self.motion), self.motion.fps) if self.motion is not None else (None, None)
        return GivenSize(*self.shape, *length)

    @property
    def has_pictures(self) -> bool:
        """Whether frames of the result are given as pictures."""
        return self.image is not None or self.last_image is not None or bool(self.keyframes)

    def pictures(self, frames: int) -> dict[int, np.ndarray]:
        """The given pictures by the number of their frame, of a video of so many. Raises InputError for one beyond."""
        found = {0: self.image} if self.image is not None else {}
        for number, picture in self.keyframes.items():
            if number >= frames:
                raise InputError(
                    f"keyframe {number}: the video has {frames} frames, 0 to {frames - 1}; choose one of them"
                )
            found[number] = picture
        if self.last_image is not None:
            if frames - 1 in found:
                other = "image" if frames == 1 and self.image is not None else f"keyframe {frames - 1}"
                raise InputError(
                    f"last_image and {other}: both are frame {frames - 1} of a video of {frames}; give one of them"
                )
            found[frames - 1] = self.last_image
        return found


def read_given(
    options: GenerateOptions,
    image: Picture | None = None,
    video: Video | str | Path | None = None,
    *,
    last_image: Picture | None = None,
    keyframes: Mapping[int, Picture] | None = None,
    mask: Any = None,
    remove: Any = None,
    first_pass: Video | str | Path | None = None,
    control: Video | Picture | None = None,
) -> Given:
    """The arguments, or else what the options name; paths are read. Raises MediaError or InputError."""
    clip = _video("video", video if video is not None or image is not None else options.video)
    first = _picture("image", image if image is not None or video is not None else options.image)
    if first is not None and clip is not None:
        raise InputError("image and video: both say how the video begins; give one of them")
    if clip is None and options.video_use == "continue":
        raise InputError("video_use 'continue': there is no video to carry on from; pass one")
    if options.video_use == "continue" and clip is not None:
        for name, asked in (("mask", mask), ("remove", remove)):
            if asked is not None or getattr(options, name) is not None:
                raise InputError(
                    f"{name} and video_use 'continue': a mask changes the video itself; leave one of them out"
                )
        if options.control_net:
            raise InputError(
                "control_net and video_use 'continue': which frames the control video steers is not known; leave one "
                "of them out"
            )
    named = _numbered(keyframes) or _named(options.keyframe)
    mask = options.mask if mask is None else mask
    remove = options.remove if remove is None else remove
    outside = isinstance(mask, str) and mask.strip() == OUTSIDE
    if outside and options.fit != "contain":
        raise InputError(f"mask {OUTSIDE}: fit {options.fit} fills the frame; give fit contain too")
    steering = _control(options.control if control is None else control)
    return Given(
        image=first,
        video=clip,
        last_image=_picture("last_image", options.last_image if last_image is None else last_image),
        keyframes={number: _keyframe(number, each, first) for number, each in sorted(named.items())},
        mask=_mask("mask", mask, clip),
        remove=_mask("remove", remove, clip),
        first_pass=_video("first_pass", options.first_pass if first_pass is None else first_pass),
        quad=is_quad_mask(remove),
        control=steering if not options.control_net else None,
        control_nets=tuple(_control_of(each, steering) for each in options.control_nets),
        outside=outside,
    )


def _control(source: Any) -> Video | None:
    """A control video; a picture is one of a single frame."""
    if isinstance(source, np.ndarray) or (
        isinstance(source, str | Path) and Path(source).suffix.lower() in IMAGE_SUFFIXES
    ):
        picture = _picture("control", source)
        assert picture is not None
        return Video(picture[None], 1.0)
    return _video("control", source)


def _control_of(entry: ControlNetEntry, steering: Video | None) -> Video:
    """The control video of a ControlNet: its own, or the one that all others share. Raises InputError for none."""
    video = _control(entry.video) if entry.video is not None else steering
    if video is None:
        raise InputError(
            f"control_net {entry.path}: no control video; give one for all with control, or {entry.path}=VIDEO"
        )
    return video


def read_keyframe(text: str) -> tuple[int, str]:
    """``24=mid.png``: the number of a frame and its picture. Raises InputError."""
    found = KEYFRAME.fullmatch(text)
    if found is None:
        raise InputError(
            f"keyframe {text!r}: write the number of the frame and its picture, such as 24=mid.png"
        )
    return int(found[1]), found[2].strip()


def _named(texts: Sequence[str]) -> dict[int, str]:
    """The pictures of key frames by number. Raises InputError for a number that is there twice."""
    named: dict[int, str] = {}
    for number, picture in map(read_keyframe, texts):
        if number in named:
            raise InputError(f"keyframe {number}: both {named[number]} and {picture}; give one of them")
        named[number] = picture
    return named


def check_takes(spec: ModelSpec, given: Given) -> None:
    """Refuse what a model of this kind cannot be given, and together. Raises InputError with what could be."""
    name = spec.name or "given"
    for each in sorted(given.names - TAKES[spec.kind]):
        takes = ", ".join(sorted(TAKES[spec.kind])) or "a prompt alone"
        raise InputError(
            f"{each}: the model {name} ({spec.kind}) makes a video from {ABOUT_KINDS[spec.kind]} and takes {takes}; "
            f"leave it out, or load {BETTER[each]}"
        )
    if given.video is not None and given.has_pictures:
        raise InputError("video beside pictures: each says what the frames show; give one or the other")
    if spec.kind == "removal" and given.video is not None and given.remove is None:
        raise InputError(
            "remove: missing; give a mask of what is removed from the video, white where it goes"
        )
    if given.first_pass is not None and given.video is None:
        raise InputError("first_pass: what it was made from is missing; give the video and remove too")


def fit_video(video: Video, height: int, width: int, fit: str) -> Video:
    """The given frames at the size of the run; ``fit`` as in GenerateOptions."""
    if fit == "cover":
        return video.cover(height, width)
    if fit == "contain":
        return video.contain(height, width)
    return video.resize(height, width)


def fit_mask(mask: np.ndarray, height: int, width: int, fit: str, outside: bool = False) -> np.ndarray:
    """A mask (uint8 [t, h, w]) at the size of the run, laid like its video; ``outside``: white in its bars."""

    def fitted(frames: np.ndarray) -> np.ndarray:
        return fit_video(Video(np.repeat(frames[..., None], 3, axis=3), 1.0), height, width, fit).frames[
            ..., 0
        ]

    laid = fitted(np.ascontiguousarray(mask))
    if outside:
        bars = 255 - fitted(np.full((1, *mask.shape[1:]), 255, np.uint8))
        laid = np.maximum(laid, bars)
    return laid


def _picture(what: str, source: Any) -> np.ndarray | None:
    image = read_image(source) if isinstance(source, (str, Path)) else source
    if image is None:
        return None
    if not isinstance(image, np.ndarray):
        raise InputError(
            f"{what} of {type(image).__name__}: give a path or an array uint8 [height, width, 3]"
        )
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise MediaError(f"{what} of {image.dtype} {list(image.shape)}: expected uint8 [height, width, 3]")
    return image


def _numbered(keyframes: Any) -> dict[int, Any]:
    """Key frames that came as an argument, checked: whole numbers from 0 to pictures."""
    if keyframes is None:
        return {}
    if not isinstance(keyframes, Mapping):
        raise InputError(
            f"keyframes of {type(keyframes).__name__}: give a mapping from numbers of frames to pictures, "
            'such as {24: "mid.png"}'
        )
    for number in keyframes:
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise InputError(f"keyframe {number!r}: not the number of a frame; the first is 0")
    return dict(keyframes)


def _video(what: str, source: Any) -> Video | None:
    video = read_video(source) if isinstance(source, (str, Path)) else source
    if video is not None and not isinstance(video, Video):
        raise InputError(f"{what} of {type(video).__name__}: give a path or a Video")
    return video


def _keyframe(number: int, source: Any, first: np.ndarray | None) -> np.ndarray:
    if number == 0 and first is not None:
        raise InputError("keyframe 0 and image: both are the first frame; give one of them")
    picture = _picture(f"keyframe {number}", source)
    assert picture is not None
    return picture


def is_quad_mask(source: Any) -> bool:
    """Whether a mask is a file of four levels, by the name that VOID gives such files: quadmask_0.mp4."""
    return isinstance(source, str | Path) and Path(source).name.startswith("quadmask")


def _mask(what: str, source: Any, video: Video | None) -> np.ndarray | None:
    if source is None:
        return None
    if video is None:
        raise InputError(f"{what}: says where in a video; give the video too")
    if isinstance(source, str) and source.strip() == OUTSIDE:
        if what != "mask":
            raise InputError(
                f"{what} {OUTSIDE}: is for a mask; give a picture, a video or a box x,y,width,height"
            )
        return np.zeros((1, video.height, video.width), np.uint8).repeat(len(video), axis=0)
    grey = read_mask(source, video, what)
    grey = 255 - grey if is_quad_mask(source) and what == "remove" else grey  # there 0 is what goes
    does, least = ("made anew", 128) if what == "mask" else ("removed", 64)
    if grey.max() < least:
        warnings.warn(f"{what}: nothing of it is white, so nothing is {does}", stacklevel=4)
    return grey
