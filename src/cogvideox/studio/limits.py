"""Every limit of the server in one place: bodies, uploads, requests, queue, time."""

from __future__ import annotations

from pydantic import Field

from cogvideox.config import Config


class StudioLimits(Config):
    """What one request, one user and the whole server may take; anything beyond is refused by name."""

    body_bytes: int = Field(
        1 << 20, ge=1 << 10, description="most bytes of a JSON body or of a form without files"
    )
    prompt_characters: int = Field(8192, ge=1, description="most characters of a prompt")
    image_bytes: int = Field(20 << 20, ge=1 << 10, description="most bytes of an uploaded image")
    image_pixels: int = Field(33_000_000, ge=1, description="most pixels of an uploaded image")
    video_bytes: int = Field(64 << 20, ge=1 << 10, description="most bytes of an uploaded video")
    video_pixels: int = Field(1920 * 1088, ge=1, description="most pixels of a frame of an uploaded video")
    video_frames: int = Field(400, ge=1, description="most frames of an uploaded video")
    video_seconds: float = Field(60.0, gt=0, description="longest uploaded video in seconds")
    decode_seconds: float = Field(60.0, gt=0, description="most seconds that decoding one upload may take")
    decode_memory: int = Field(3072, ge=64, description="most MiB of memory for decoding one upload")
    decoders: int = Field(2, ge=1, description="uploads that are decoded at the same time")
    form_parts: int = Field(100, ge=1, description="most fields of a form")
    frames: int = Field(400, ge=1, description="most frames of a video that is asked for")
    pixels: int = Field(1360 * 768, ge=1, description="most pixels of a frame that is asked for")
    steps: int = Field(200, ge=1, description="most denoising steps that are asked for")
    queued_for_one: int = Field(64, ge=1, description="most waiting videos of one user")
    queued: int = Field(1024, ge=1, description="most waiting videos in all")
    inputs_for_one: int = Field(500, ge=1, description="most kept uploads of one user")
    input_hours: float = Field(24.0, gt=0, description="hours that an upload is kept which no video uses")
    deaths: int = Field(3, ge=1, description="workers that may die of a video before it is given up")
    interruptions: int = Field(
        50, ge=1, description="times that a video is begun again because the server was killed"
    )
    cancel_seconds: float = Field(
        30.0, gt=0, description="seconds until a worker that does not cancel is killed"
    )
    stall_seconds: float = Field(
        1800.0, gt=0, description="seconds without progress until a worker is killed"
    )
    stop_seconds: float = Field(20.0, ge=0, description="seconds that a clean stop waits for running videos")
    plan_seconds: float = Field(
        20.0, gt=0, description="most seconds that a plan may take before a video is queued"
    )
    enhance_seconds: float = Field(60.0, gt=0, description="most seconds that writing a prompt out may take")
    undo_seconds: float = Field(
        600.0, ge=0, description="seconds for which a deleted video can be brought back"
    )
    disk_bytes: int = Field(50 << 30, ge=1 << 20, description="most bytes of videos and uploads on disk")
    free_bytes: int = Field(1 << 30, ge=0, description="bytes of the disk that stay free")
    connections: int = Field(2048, ge=8, description="most connections at a time")
