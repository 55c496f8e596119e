"""Both passes of a removal in one request (Netflix VOID): a second transformer makes the first one's video again.

``room.mp4`` is the second pass's video, ``room.first-pass.mp4`` the first one's, written as soon as it is made.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from cogvideox.errors import ConfigError, FrameError, InputError
from cogvideox.generation.job import Prepared, make, prepare
from cogvideox.generation.moving_noise import MOST_LATENTS
from cogvideox.generation.plan import SECOND_GUIDANCE
from cogvideox.generation.record import Generation
from cogvideox.generation.video_files import save
from cogvideox.model import CogVideoX
from cogvideox.parallel.mesh import is_distributed
from cogvideox.progress import SILENT, Reporter


def first_pass_file(path: Path) -> Path:
    """Where the first pass's video of a request is written."""
    return path.with_name(f"{path.stem}.first-pass{path.suffix}")


def second_of(first: Prepared, *, download: bool = True, reporter: Reporter = SILENT) -> Prepared:
    """The second pass of a prepared first one, checked and planned before a weight of either is read.

    Its settings are those of the first, but for the guidance that it was trained with. Raises InputError for a model
    that removes nothing, FrameError for more frames than a second pass makes, ConfigError for several processes, and as
    ``prepare``.
    """
    if first.spec.kind != "removal":
        raise InputError(
            f"second_pass: the model {first.spec.name or first.name} ({first.spec.kind}) removes nothing; leave it out"
        )
    if is_distributed():
        raise ConfigError("second_pass: not for several processes; start one")
    if first.plan.frames.latents > MOST_LATENTS:
        most = first.spec.vae.pixel_frames(MOST_LATENTS)
        raise FrameError(
            f"second_pass: it makes {most} frames at most, not {first.plan.frames.asked}; ask for fewer, or leave it "
            "out"
        )
    job = replace(first.job, transformer=first.job.second_pass, second_pass=None, watch=0)
    options = first.plan.options.changed(guidance=SECOND_GUIDANCE)
    return prepare(job, options, download=download, ask=False, reporter=reporter)


def make_both(
    first: Prepared,
    second: Prepared,
    path: Path,
    loaded: Callable[[Prepared], AbstractContextManager[CogVideoX]],
    reporter: Reporter = SILENT,
) -> Generation:
    """The second pass's video of a request; the first one's is written beside ``path``. Raises OutputError.

    ``loaded``: the model of a pass, for as long as it is needed; one is there at a time.
    """
    with loaded(first) as model:
        made = make(model, first, f"first pass: {path.name}", reporter, path)
        save(made.video, first_pass_file(path), first.job, reporter=reporter)
    del model
    given = replace(second.given, first_pass=made.video)
    options = second.plan.options.changed(seed=made.record.seed, first_pass=str(first_pass_file(path)))
    second = replace(second, given=given, plan=replace(second.plan, options=options))
    with loaded(second) as model:
        return make(model, second, f"second pass: {path.name}", reporter, path)
