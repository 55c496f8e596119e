"""Progress bar, preview and interruption: what happens after each step of a run."""

from __future__ import annotations

import comfy.model_management
import comfy.utils
from PIL import Image

from cogvideox.generation.turn import Progress
from cogvideox.generation.watch import Previewer

SIDE = 512
"""Longest side of a preview in pixels."""


class StepBar:
    """Pass it as ``on_step``: it moves ComfyUI's bar, shows the middle frame so far, and stops the run when asked.

    ``padding``: latent frames in front that belong to no picture. ``previewer`` None: no pictures.
    """

    def __init__(self, steps: int, padding: int = 0, previewer: Previewer | None = None) -> None:
        self.bar = comfy.utils.ProgressBar(steps)
        self.padding, self.previewer = padding, previewer

    def __call__(self, progress: Progress) -> None:
        """After a step. Raises ComfyUI's own exception when the user has cancelled."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        if progress.stage == "denoise" and progress.done:
            self.bar.update_absolute(progress.done, progress.total, self._picture(progress))

    def _picture(self, progress: Progress) -> tuple[str, Image.Image, int] | None:
        """The middle frame of the clean estimate, in the form of ComfyUI's bar."""
        if self.previewer is None or progress.estimate is None:
            return None
        frames = self.previewer(progress.estimate[:, :, self.padding :])
        return "JPEG", Image.fromarray(frames[len(frames) // 2]), SIDE
