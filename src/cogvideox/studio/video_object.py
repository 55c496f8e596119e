"""A video of the queue as clients see it: OpenAI's fields, and ours under one key."""

from __future__ import annotations

import re
from typing import Any

from cogvideox.studio.progress_board import ProgressBoard
from cogvideox.studio.queue import QueuedVideo, VideoQueue
from cogvideox.studio.request import EXTENSION

STATUS = {
    "queued": "queued",
    "running": "in_progress",
    "completed": "completed",
    "failed": "failed",
    "cancelled": "failed",
}
"""OpenAI knows no cancelled videos; ours are failed with the code "cancelled", and ``cogvideox.state`` says it."""
WORD = re.compile(r"[^\W_]+")
CANCELLED = {"code": "cancelled", "message": "it was cancelled"}


def video_object(video: QueuedVideo, board: ProgressBoard, queue: VideoQueue) -> dict[str, Any]:
    """One video as JSON: OpenAI's ``video`` object; under ``cogvideox`` its state, progress, settings and facts."""
    live = board.get(video.id) if video.state == "running" else None
    error = CANCELLED if video.state == "cancelled" else video.error or None
    return {
        "id": video.id,
        "object": "video",
        "model": video.result.get("model") or video.request["model"] or video.plan.get("model", ""),
        "status": STATUS[video.state],
        "progress": 100 if video.state == "completed" else live.percent if live else 0,
        "created_at": int(video.created),
        "completed_at": int(video.ended) if video.ended and video.state == "completed" else None,
        "expires_at": None,
        "prompt": video.prompt,
        "seconds": f"{seconds_of(video):g}",
        "size": size_of(video),
        "remixed_from_video_id": video.request.get("remixed_from"),
        "error": error,
        EXTENSION: {
            "state": video.state,
            "ahead": queue.ahead_of(video) if video.state == "queued" else 0,
            "cancelling": video.cancelling and video.state == "running",
            "live": live.to_dict() if live else None,
            "settings": video.request["settings"],
            "inputs": video.request["inputs"],
            "keyframes": video.request["keyframes"],
            "adapters": video.request["adapters"],
            "plan": video.plan or None,
            "result": video.result or None,
            "favourite": video.favourite,
            "bytes": video.bytes,
            "started_at": video.started,
            "ended_at": video.ended,
        },
    }


def file_name(video: QueuedVideo) -> str:
    """What a download is called, without its ending: words of the prompt and the start of the id."""
    words = "-".join(WORD.findall(video.prompt))[:60].rstrip("-")
    return "-".join(each for each in (words, video.id.removeprefix("video_")[:8]) if each)


def seconds_of(video: QueuedVideo) -> float:
    """The length of a video in seconds: as it is, else as planned, else as asked for; 0 where nobody knows."""
    size = video.result.get("size")
    if size:
        return round(float(size["frames"]) / float(size["fps"]), 3)
    return round(float(video.plan.get("seconds") or video.request["settings"].get("seconds") or 0), 3)


def size_of(video: QueuedVideo) -> str:
    """``WIDTHxHEIGHT`` of a video: as it is, else as planned, else as asked for; "" where nobody knows."""
    for facts in (video.result.get("size"), video.plan, video.request["settings"]):
        if facts and facts.get("width") and facts.get("height"):
            return f"{int(facts['width'])}x{int(facts['height'])}"
    return ""
