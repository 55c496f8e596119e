"""The verb recommend: the settings that an adapter was made for, written beside its file."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cogvideox.cli.flags import Debug, Json, Overwrite, flag, with_flags
from cogvideox.cli.terminal import result, result_json, verb
from cogvideox.errors import ConfigError
from cogvideox.generation.options import GenerateOptions

OPTIONS = {"Sampling": "steps times sampler previous", "Guidance": "guidance guidance_schedule"}
SCALE = "how strongly the adapter is applied where --lora gives no scale"


@verb
@with_flags(GenerateOptions, OPTIONS)
def recommend(
    options: dict[str, Any],
    adapter: Annotated[str, typer.Argument(help="an adapter: its file or folder, or owner/name:file")],
    scale: Annotated[float | None, flag(SCALE)] = None,
    about: Annotated[str, flag("one line for people")] = "",
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the settings of an adapter beside it, where generate --lora finds them; without any, show them."""
    from cogvideox.checkpoints.adapter_reading import find_adapter
    from cogvideox.checkpoints.adapter_settings import recommended_file
    from cogvideox.checkpoints.hub import read_reference
    from cogvideox.generation.recommended import (
        Recommended,
        read_recommended,
        write_recommended,
    )

    file = find_adapter(adapter)
    if read_reference(adapter) is not None:
        adapter = str(file)
    given = {
        **options,
        **({"scale": scale} if scale is not None else {}),
        **({"about": about} if about else {}),
    }
    if given:
        result(str(write_recommended(adapter, Recommended.parse(given), overwrite)))
        return
    found = read_recommended(adapter)
    if found is None:
        raise ConfigError(
            f"{recommended_file(adapter)}: no settings stand there; write them with --steps, --guidance, ..."
        )
    values = found.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    result_json(values) if as_json else result(
        "\n".join(f"{name}: {value}" for name, value in values.items())
    )
