"""The verb preview: what a model will be shown of images, videos and masks, before anything is made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cogvideox.cli.flags import Debug, Json, Kind, Overwrite, TransformerFile, VaeFile, flag, with_flags
from cogvideox.cli.terminal import result, result_json, verb
from cogvideox.errors import InputError
from cogvideox.generation.options import GenerateOptions

GIVEN = {
    "Inputs": "image last_image keyframe video video_use mask remove control control_net "
    "control_preprocessor context_frames fit",
    "Size and length": "frames seconds height width fps",
}
MODEL = "folder, hub id or preset; default: the shipped one that reads what is given"


@verb
@with_flags(GenerateOptions, GIVEN)
def preview(
    options: dict[str, Any],
    out: Annotated[str, typer.Argument(help="file to write (.mp4, .mkv, .gif, .png)")] = "preview.mp4",
    model: Annotated[str | None, flag(MODEL, "Model")] = None,
    kind: Kind = None,
    transformer: TransformerFile = None,
    vae: VaeFile = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write what generate would show the model of your images, videos and masks; loads no weights."""
    from cogvideox.checkpoints.kinds import check_kind
    from cogvideox.checkpoints.specs import find_spec
    from cogvideox.files.atomic import atomic_file
    from cogvideox.generation.conditions import shown
    from cogvideox.generation.given import read_given
    from cogvideox.generation.job import Job, parse_options
    from cogvideox.generation.plan import plan_run
    from cogvideox.video import check_output

    check_output(out, overwrite)
    settings = parse_options(options)
    job = Job(model=model or "", kind=check_kind(kind) if kind else None, transformer=transformer, vae=vae)
    spec = find_spec(job.model_for(vars(settings)), job.kind, job.components(download=False))
    given = read_given(settings)
    plan = plan_run(spec, settings, given)
    see = shown(spec, plan, given)
    if see.use == "nothing" and not see.controls:
        raise InputError(
            "preview: nothing was given to show; pass --image, --last-image, --keyframe, --video or --control"
        )
    if Path(out).suffix.lower() == ".png":
        with atomic_file(path := Path(out), overwrite) as temporary:
            see.sheet(plan).save(temporary, format="PNG")
    else:
        path = see.video(plan).save(out, overwrite)
    if as_json:
        sizes = {"frames": plan.frames.generated, "height": plan.height, "width": plan.width}
        use = "control_net" if see.use == "nothing" else see.use
        result_json({"path": str(path), "use": use, "kind": spec.kind, **sizes, "why": plan.frames.why})
    else:
        result(str(path))
