"""Endings of files and names of columns that people use, each listed once."""

from __future__ import annotations

VIDEO_SUFFIXES = frozenset([
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".wmv", ".flv",
    ".gif", ".ogv", ".3gp",
])  # fmt: skip
"""Endings of moving pictures. A file is opened by what its first bytes say; the ending only makes it a candidate."""

IMAGE_SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"])
"""Endings of still pictures."""

FILE_COLUMNS = (
    "file_name", "file_path", "video", "path", "video_path", "videos", "file", "image", "filename",
)  # fmt: skip
"""Columns that name a clip's file, in order of preference: HF's videofolder, VideoX-Fun, Open-Sora, OpenVid."""

CAPTION_COLUMNS = ("caption", "text", "prompt", "prompt_en", "description")
"""Columns that hold a caption, in order of preference."""

SCORE_COLUMNS = ("score", "aesthetic", "aes", "aesthetic_score", "aesthetic score")
"""Columns that hold an aesthetic score."""
