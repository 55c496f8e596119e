"""What a worker process is told when it starts."""

from __future__ import annotations

from cogvideox.config import Config
from cogvideox.studio.limits import StudioLimits


class WorkerSettings(Config):
    """What all videos of a worker have in common: how models are run, and the folder that videos go to."""

    root: str
    models: tuple[str, ...] = ()
    adapters: dict[str, str] = {}
    lora_alpha: float | None = None
    device: str | None = None
    dtype: str | None = None
    memory: str = "auto"
    memory_limit: str | None = None
    storage: str = "auto"
    products: str = "full"
    tiny_vae: str | None = None
    text_device: str | None = None
    text_cache: str = "off"
    enhance: str | None = None
    enhance_model: str | None = None
    c2pa_certificate: str | None = None
    c2pa_key: str | None = None
    threads: int | None = None
    limits: StudioLimits = StudioLimits()
