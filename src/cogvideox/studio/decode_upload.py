"""A process that decodes uploads and writes them again, lossless: what a worker reads was written by us. It also makes
the variants of a finished video that are asked for, beside the server.

``python -m cogvideox.studio.decode_upload`` reads the limits, then lines of JSON, and answers each with a line. It has
few rights: no secrets, no network, bounds on memory, processor time, files and file size, and it dies with the server.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cogvideox.curation.confined import leave_network, limit, limit_processor, tidy
from cogvideox.errors import CogVideoXError, InputError, MediaError, describe
from cogvideox.files import parse_json
from cogvideox.files.atomic import atomic_file
from cogvideox.files.text import open_regular
from cogvideox.studio.limits import StudioLimits
from cogvideox.studio.request import check_text
from cogvideox.studio.variants import export
from cogvideox.video import DecodeLimits, Video, read_image, read_video, video_info
from cogvideox.video.reading import KNOWN, UnknownContainerError

WRITTEN = 2048  # MiB of a written file
OPEN_FILES = 64
KEPT = 768 << 20  # bytes of pixels in memory
MOST_SETTINGS = 64 << 10  # characters of the settings in a video's tags; ours are far shorter
HEIF = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif")  # what phones write
IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")


def decode(source: Path, target: Path, limits: StudioLimits) -> dict[str, Any]:
    """Read an image or a video within limits and write it as ``target`` with .png or .mkv; facts about it.

    Facts: ``ending``, ``width``, ``height``, of a video ``frames``, ``fps`` and the ``settings`` and ``model`` that it
    was made with, where its tags say them. Raises MediaError.
    """
    decoding = DecodeLimits(
        file_bytes=limits.video_bytes,
        image_bytes=limits.image_bytes,
        image_pixels=limits.image_pixels,
        video_pixels=limits.video_pixels,
        frames=limits.video_frames,
        seconds=limits.video_seconds,
        kept_bytes=KEPT,
        wall_seconds=limits.decode_seconds,
    )
    if _is_image(source):
        return _kept_image(target, read_image(source, decoding))
    try:
        video = read_video(source, limits=decoding)
    except UnknownContainerError:
        pictures = ".png, .jpg, .webp, .bmp or .tiff"
        raise MediaError(f"neither a picture nor a video; give {pictures}, {KNOWN}") from None
    if len(video) == 1 and _head(source).startswith(b"GIF8"):  # a picture: most of them are none that move
        return _kept_image(target, video.frames[0])
    Video(video.frames, video.fps).save(target.with_suffix(".mkv"))
    facts = {
        "ending": "mkv",
        "width": video.width,
        "height": video.height,
        "frames": len(video),
        "fps": video.fps,
    }
    return facts | made_with(video_info(source).manifest)


def made_with(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` and ``model`` of the tags of a video, where they are such that a client can be told them."""
    settings, model, facts = manifest.get("config"), manifest.get("model"), {}
    if isinstance(settings, dict) and len(json.dumps(settings)) <= MOST_SETTINGS:
        facts["settings"] = settings
    if isinstance(model, dict) and isinstance(model.get("name"), str):
        facts["model"] = model["name"][:200]
    try:
        check_text(facts)
    except InputError:  # halves of characters, which no answer can hold
        return {}
    return facts


def _head(source: Path) -> bytes:
    with open_regular(source, most=1 << 40) as stream:
        return stream.read(16)


def _is_image(source: Path) -> bool:
    head = _head(source)
    if head[4:8] == b"ftyp" and head[8:12] in HEIF:
        raise MediaError("a HEIC or AVIF picture, which is not read here; save it as JPEG or PNG")
    return head.startswith(IMAGES) or (head.startswith(b"RIFF") and head[8:12] == b"WEBP")


def _kept_image(target: Path, image: np.ndarray) -> dict[str, Any]:
    """Write a picture; facts about it."""
    from PIL import Image

    with atomic_file(target.with_suffix(".png")) as temporary:
        Image.fromarray(image).save(temporary, format="PNG", compress_level=3)
    return {"ending": "png", "width": image.shape[1], "height": image.shape[0]}


def main() -> None:
    """Serve jobs until there are no more lines."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints does not get between our lines
    limits = StudioLimits.parse(parse_json(sys.stdin.readline(), "the limits of uploads"))
    warnings.simplefilter("ignore")
    os.nice(10)  # answers of the server go before
    import av  # before the limits, which are for uploads

    assert av.time_base, "a library of FFmpeg is loaded"
    leave_network()
    limit(limits.decode_memory, WRITTEN, OPEN_FILES)
    answers.write("{}\n")  # ready
    for line in sys.stdin:
        limit_processor(int(limits.decode_seconds))
        answers.write(json.dumps(_answer(parse_json(line, "a job"), limits)) + "\n")
        tidy()


def _answer(job: dict[str, Any], limits: StudioLimits) -> dict[str, Any]:
    """The facts of one upload, or why it was refused, without the paths of this server."""
    source, target = Path(job["source"]), Path(job["target"])
    try:
        if "variant" in job:
            export(source, target, job["variant"], limits.decode_seconds)
            return {"answer": {}}
        return {"answer": decode(source, target, limits)}
    except CogVideoXError as error:
        return {"error": type(error).__name__, "detail": describe(error).replace(f"{job['source']}: ", "")}
    except MemoryError:
        return {"error": "MediaError", "detail": f"needs more than {limits.decode_memory} MiB; scale it down"}
    except Exception as error:  # one upload must not end the others
        return {"error": "MediaError", "detail": f"damaged ({type(error).__name__}); export it again"}


if __name__ == "__main__":
    main()
