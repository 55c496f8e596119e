"""What bodies look like in the OpenAPI page: made from ``GenerateOptions``, so that each option is described once."""

from __future__ import annotations

from typing import Any

from cogvideox.generation.options import GenerateOptions
from cogvideox.studio.request import EXTENSION, INPUTS, SETTINGS

ID = "id of an upload (POST /v1/inputs) or of a completed video"


def extension_schema() -> dict[str, Any]:
    """The object under the key ``cogvideox``."""
    known = GenerateOptions.model_json_schema()["properties"]
    properties: dict[str, Any] = {name: known[name] for name in SETTINGS}
    named = {
        name: {"type": "string", "description": f"{ID}; {known[name]['description']}"} for name in INPUTS
    }
    properties["inputs"] = {"type": "object", "properties": named, "description": "what is given, by option"}
    properties["keyframes"] = {"type": "object", "description": f"frame number: {ID}"}
    properties["adapters"] = {
        "type": "object",
        "description": "name of an adapter of the server: its strength, 1 is usual",
    }
    properties["webhook"] = {
        "type": "string",
        "description": "address on a listed host that is told when it has ended",
    }
    return {
        "type": "object",
        "properties": properties,
        "description": "everything that OpenAI's API does not have",
    }


def _body(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": required}
    content = {"multipart/form-data": {"schema": schema}, "application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


PROMPT = {"type": "string", "description": "what the video shows"}
CREATE_BODY = _body(
    {
        "prompt": PROMPT,
        "model": {"type": "string", "description": "a model of /v1/models; default: the first"},
        "seconds": {"type": "string", "description": "length in seconds; default: the model's own"},
        "size": {"type": "string", "description": "WIDTHxHEIGHT; default: the model's own"},
        "input_reference": {
            "type": "string",
            "format": "binary",
            "description": f"the first frame: a file, or the {ID}",
        },
        EXTENSION: extension_schema(),
    },
    ["prompt"],
)
ENHANCE_BODY = _body(
    {
        "prompt": PROMPT,
        "model": {"type": "string", "description": "the model that it is for; default: the first"},
    },
    ["prompt"],
)
REMIX_BODY = _body({"prompt": PROMPT, EXTENSION: extension_schema()}, ["prompt"])
EDIT_BODY = _body(
    {
        "prompt": PROMPT,
        "video": {
            "type": "string",
            "format": "binary",
            "description": 'a file, or {"id": ...} of a completed video',
        },
        EXTENSION: extension_schema(),
    },
    ["prompt", "video"],
)
