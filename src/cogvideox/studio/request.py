"""What a client asks for, in OpenAI's shape, read and checked: no weight, no file and no torch is needed for it.

OpenAI's fields are ``prompt, model, seconds, size, input_reference``; everything else of ``GenerateOptions`` that a
stranger may choose stands under one key, ``cogvideox``. Files are named by ids of uploads and videos, never by paths.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideox.errors import ConfigError, InputError, PromptError, suggest
from cogvideox.files import parse_json, short
from cogvideox.generation.options import OUTSIDE, GenerateOptions
from cogvideox.strength import Strength
from cogvideox.studio.folder import INPUT_ID, VIDEO_ID, StudioFolder
from cogvideox.studio.limits import StudioLimits
from cogvideox.studio.queue import VideoQueue

if TYPE_CHECKING:
    from cogvideox.generation.plan import Plan

EXTENSION = "cogvideox"
FIELDS = ("prompt", "model", "seconds", "size", "input_reference", EXTENSION)
_NAMES = (
    "negative_prompt zero_negative video_use strength context_frames join fit sample_image image_scale frames seconds "
    "height width fps steps times sampler previous seed latents guidance guidance_schedule guidance_pair "
    "guidance_rule guidance_rescale guidance_start guidance_stop zero_steps apg_eta apg_norm apg_momentum stg_scale "
    "stg_layers modulation cache vae_coding tile_height tile_width window window_overlap window_schedule "
    "window_stride window_blend window_noise riflex"
)
SETTINGS = tuple(_NAMES.split())
"""Options that a client may set. Left out: paths of files, kernels that are downloaded, and what is the operator's."""
INPUTS = ("image", "last_image", "video", "mask", "remove", "first_pass", "control")
OTHERS = ("inputs", "keyframes", "adapters", "webhook")
SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
BOX = re.compile(r"\s*-?\d{1,6}\s*(,\s*-?\d{1,6}\s*){3}")
MOST_ADAPTERS = 8


@dataclass(frozen=True)
class Offer:
    """What the server offers: models (the first one is the default), adapters by name, hosts for webhooks."""

    models: Sequence[str]
    adapters: Sequence[str] = ()
    webhook_hosts: Sequence[str] = ()
    limits: StudioLimits = field(default_factory=StudioLimits)


@dataclass(frozen=True)
class VideoRequest:
    """One video as it was asked for, checked: plain values that the queue keeps.

    ``settings``: fields of GenerateOptions. ``inputs``: ids of uploads or videos by option, for a mask also a box or
    "outside". ``keyframes``: ids by frame number. ``remixed_from``: the id of the video that it starts from.
    """

    model: str
    settings: dict[str, Any]
    inputs: dict[str, str] = field(default_factory=dict)
    keyframes: dict[str, str] = field(default_factory=dict)
    adapters: dict[str, float | str] = field(default_factory=dict)
    webhook: str | None = None
    remixed_from: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """These values as the queue keeps them."""
        return asdict(self)


def read_request(fields: Mapping[str, Any], offer: Offer) -> VideoRequest:
    """Check the fields of a request. Raises InputError or ConfigError, which name the field and the bound."""
    unknown = [name for name in fields if name not in FIELDS]
    if unknown:
        raise ConfigError(
            f"{unknown[0][:80]}: unknown field{suggest(unknown[0], FIELDS)}; others stand under {EXTENSION}"
        )
    extension = _object(fields.get(EXTENSION))
    settings = {name: value for name, value in extension.items() if name not in OTHERS}
    for name in settings:
        if name not in SETTINGS:
            known = [*SETTINGS, *OTHERS]
            raise ConfigError(
                f"{EXTENSION}.{name[:80]}: not offered here{suggest(name, known)}; see the page /docs"
            )
    settings |= _native(fields, settings)
    settings["prompt"] = _prompt(fields.get("prompt", ""), "prompt", offer.limits)
    if "negative_prompt" in settings:
        settings["negative_prompt"] = _prompt(settings["negative_prompt"], "negative_prompt", offer.limits)
    options = GenerateOptions.parse(settings)
    _check_bounds(options, offer.limits)
    return VideoRequest(
        model=_model(fields.get("model"), offer),
        settings={name: value for name, value in options.model_dump(mode="json").items() if name in settings},
        inputs=_inputs(fields.get("input_reference"), _object(extension.get("inputs"))),
        keyframes=_keyframes(_object(extension.get("keyframes"))),
        adapters=_adapters(_object(extension.get("adapters")), offer.adapters),
        webhook=_webhook(extension.get("webhook"), offer.webhook_hosts),
    )


def check_text(value: Any) -> None:
    """Raise InputError for text with halves of characters (lone surrogates), which nothing can be done with."""
    todo = [value]
    while todo:
        each = todo.pop()
        if isinstance(each, dict):
            todo += [*each.keys(), *each.values()]
        elif isinstance(each, list):
            todo += each
        elif isinstance(each, str):
            try:
                each.encode("utf-8")
            except UnicodeEncodeError:
                raise InputError(
                    "body: holds half of a character (a lone surrogate); send whole ones"
                ) from None


def _object(value: Any) -> dict[str, Any]:
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        value = parse_json(value, EXTENSION)
        check_text(value)
    if not isinstance(value, dict):
        raise ConfigError(f'{EXTENSION}: {short(value)} is not an object; send one, such as {{"steps": 20}}')
    return value


def _native(fields: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """``seconds`` and ``size`` as options. Raises ConfigError for what is none, and what is given twice."""
    native: dict[str, Any] = {}
    if (size := fields.get("size")) is not None:
        found = SIZE.fullmatch(size) if isinstance(size, str) else None
        if found is None:
            raise ConfigError(f"size: {short(size)} is none; write WIDTHxHEIGHT, such as 720x480")
        native |= {"width": int(found[1]), "height": int(found[2])}
    if (seconds := fields.get("seconds")) is not None:
        try:
            native["seconds"] = plain_number(seconds)
        except (TypeError, ValueError):
            raise ConfigError(f"seconds: {short(seconds)} is not a number; send one, such as 4") from None
    twice = sorted(set(native) & set(settings))
    if twice:
        raise ConfigError(f"{twice[0]}: given twice, as OpenAI's field and under {EXTENSION}; give one")
    return native


def plain_number(value: Any) -> float:
    """A number, or the text of one. Raises TypeError or ValueError for true and false, and numbers without end."""
    if isinstance(value, bool):
        raise TypeError("true and false are no numbers")
    try:
        return float(value)
    except OverflowError:
        raise ValueError("has more digits than a number can have") from None


def _prompt(text: Any, what: str, limits: StudioLimits) -> str:
    if not isinstance(text, str):
        raise PromptError(f"{what}: {short(text)} is not text; send text")
    if len(text) > limits.prompt_characters:
        raise PromptError(
            f"{what}: {len(text)} characters; the most is {limits.prompt_characters}, shorten it"
        )
    if "\0" in text:
        raise PromptError(f"{what}: holds a NUL character; leave it out")
    return text


def _check_bounds(options: GenerateOptions, limits: StudioLimits) -> None:
    """What this server makes of what the options allow. Raises InputError with the bound."""
    if options.steps > limits.steps:
        raise InputError(f"steps {options.steps}: the most on this server is {limits.steps}; ask for fewer")
    if (options.frames or 0) > limits.frames:
        raise InputError(
            f"frames {options.frames}: the most on this server is {limits.frames}; ask for fewer"
        )
    if (options.seconds or 0) * (options.fps or 8) > limits.frames:
        raise InputError(
            f"seconds {options.seconds:g}: more than {limits.frames} frames, the most on this server; ask for less"
        )
    pixels = (options.height or 0) * (options.width or 0)
    if pixels > limits.pixels or max(options.height or 0, options.width or 0) > limits.pixels // 16:
        raise InputError(
            f"size {options.width}x{options.height}: the most on this server is {limits.pixels} pixels; ask for less"
        )
    if options.vae_coding == "tiny":
        raise InputError("vae_coding tiny: is for previews; choose chunked, whole or tiled")


def check_planned(plan: Plan, limits: StudioLimits) -> None:
    """The same of a plan, in which sizes and rates of models and of given videos have come to what was asked for.

    Raises InputError with the bound.
    """
    frames, pixels = plan.frames.asked, plan.height * plan.width
    if plan.steps > limits.steps:
        raise InputError(f"steps {plan.steps}: the most on this server is {limits.steps}; ask for fewer")
    if frames > limits.frames:
        raise InputError(f"frames {frames}: the most on this server is {limits.frames}; ask for fewer")
    if pixels > limits.pixels:
        raise InputError(
            f"size {plan.width}x{plan.height}: the most on this server is {limits.pixels} pixels; ask for less"
        )


def _model(name: Any, offer: Offer) -> str:
    if name is None or name == "":
        return offer.models[0] if offer.models else ""
    if isinstance(name, str) and name not in offer.models and Path(name).name in offer.models:
        name = Path(name).name  # of a video from before folders had names
    if not isinstance(name, str) or name not in offer.models:
        shown = suggest(name, offer.models) if isinstance(name, str) else ""
        raise UnknownModelError(
            f"model {short(name)}: not served here{shown}; choose one of {', '.join(offer.models)}"
        )
    return name


class UnknownModelError(ConfigError):
    """A model that the server does not offer, which clients expect to be 404."""


def _inputs(reference: Any, given: Mapping[str, Any]) -> dict[str, str]:
    inputs = {}
    if reference is not None:
        inputs["image"] = _id(_reference(reference), "input_reference")
    for name, value in given.items():
        if name not in INPUTS:
            raise ConfigError(
                f"{EXTENSION}.inputs.{name[:80]}: unknown{suggest(name, INPUTS)}; one of {', '.join(INPUTS)}"
            )
        if name in inputs:
            raise ConfigError(
                f"input_reference and {EXTENSION}.inputs.image: both are the first frame; give one"
            )
        is_region = isinstance(value, str) and name in ("mask", "remove") and BOX.fullmatch(value)
        if is_region or (name == "mask" and value == OUTSIDE):
            inputs[name] = value
        else:
            inputs[name] = _id(_reference(value), f"{EXTENSION}.inputs.{name}")
    return inputs


def _reference(value: Any) -> Any:
    """The id in ``"ID"``, ``{"id": "ID"}`` or OpenAI's ``{"file_id": "ID"}``."""
    if isinstance(value, dict):
        if "image_url" in value:
            raise InputError(
                "input_reference.image_url: nothing is fetched from other hosts; upload the file itself"
            )
        return value.get("file_id", value.get("id"))
    return value


def _id(value: Any, what: str) -> str:
    if not isinstance(value, str) or not (INPUT_ID.fullmatch(value) or VIDEO_ID.fullmatch(value)):
        raise InputError(
            f"{what}: {short(value)} is not the id of an upload or a video; upload the file to /v1/inputs"
        )
    return value


def _keyframes(given: Mapping[str, Any]) -> dict[str, str]:
    for number in given:
        if not re.fullmatch(r"\d{1,4}", number):
            raise InputError(
                f"{EXTENSION}.keyframes: {number[:40]!r} is not the number of a frame; the first is 0"
            )
    return {
        number: _id(_reference(value), f"{EXTENSION}.keyframes.{number}") for number, value in given.items()
    }


def _adapters(given: Mapping[str, Any], known: Sequence[str]) -> dict[str, float | str]:
    if len(given) > MOST_ADAPTERS:
        raise ConfigError(f"{EXTENSION}.adapters: {len(given)} of them; the most is {MOST_ADAPTERS}")
    adapters: dict[str, float | str] = {}
    for name, scale in given.items():
        if name not in known:
            shown = ", ".join(known) or "there is none; start the server with --lora NAME=PATH"
            raise ConfigError(
                f"{EXTENSION}.adapters.{name[:80]}: unknown{suggest(name, known)}; known: {shown}"
            )
        try:
            given_one = scale if isinstance(scale, str) else plain_number(scale)
            adapters[name] = Strength.of(given_one).plain
        except (TypeError, ValueError):  # ConfigError is one
            why = "is no strength; 1 is usual, 0.8@0-0.6 is 0.8 in the first 60 % of the steps"
            raise ConfigError(f"{EXTENSION}.adapters.{name}: {short(scale)} {why}") from None
    return adapters


def _webhook(url: Any, hosts: Sequence[str]) -> str | None:
    if url is None or url == "":
        return None
    found = (
        re.fullmatch(r"https?://([a-zA-Z0-9.-]{1,253})(:\d{1,5})?(/[!-~]{0,1000})?", url)
        if isinstance(url, str)
        else None
    )
    if found is None:
        raise ConfigError(f"{EXTENSION}.webhook: {short(url)} is no address; write https://HOST/PATH")
    if found[2] and not 1 <= int(found[2][1:]) <= 65535:
        raise ConfigError(f"{EXTENSION}.webhook: port {found[2][1:]} is not 1 to 65535; write another")
    if found[1].lower() not in {host.lower() for host in hosts}:
        raise ConfigError(
            f"{EXTENSION}.webhook: host {found[1]} is not listed; the server's --webhook-host names those that are"
        )
    return found[0]


def file_options(
    request: Mapping[str, Any], owner: str, queue: VideoQueue, folder: StudioFolder, *, queued: bool = False
) -> dict[str, Any]:
    """The files that a kept request names, as options of GenerateOptions. Raises InputError for one that is gone.

    queued: whether the request waits already; then a video may have been deleted meanwhile, its files are kept for it.
    """

    def file_of(name: str) -> Path:
        return _file_of(name, owner, queue, folder, queued)

    options: dict[str, Any] = {}
    for name, value in request.get("inputs", {}).items():
        options[name] = value if _is_region(value) else str(file_of(value))
    frames = request.get("keyframes", {})
    if frames:
        options["keyframe"] = [f"{number}={file_of(value)}" for number, value in frames.items()]
    return options


def _is_region(value: str) -> bool:
    return value == OUTSIDE or BOX.fullmatch(value) is not None


def _file_of(name: str, owner: str, queue: VideoQueue, folder: StudioFolder, queued: bool) -> Path:
    if VIDEO_ID.fullmatch(name):
        video = queue.get(name)
        path = folder.video(name) / "video.mp4"
        good = video is not None and video.owner == owner and video.state == "completed"
        if good and (queued or (video is not None and video.deleted is None)) and path.is_file():
            return path
    else:
        upload = queue.input(owner, name)
        if upload is not None:
            return folder.input(name, upload["ending"])
    raise InputError(f"{name}: no such upload or completed video; upload the file again")
