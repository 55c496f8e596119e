"""As much of ComfyUI as its nodes see: the V3 schema, an executor of workflows, progress, interruption, folders.

Written after the interface that ComfyUI 0.30 publishes (comfy_api/latest). ``test_comfyui_itself`` runs the same
workflows in ComfyUI, where that is installed, and compares what it lists with what stands here.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import types
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cogvideox import Video, read_image, read_video
from support.models import golden_frames

PACK = Path(__file__).resolve().parents[2] / "integrations" / "comfyui"
WORKFLOWS = sorted((PACK / "example_workflows").glob("*.json"))
PREFIX = "OpenCogVideoX"
WORDS = "a red circle moves to the right"
SHORT = {"steps": 2, "seed": 3}
"""What the example workflows say, and with how few steps tests run them."""
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
OPTIONS = ("default", "min", "max", "step", "multiline", "tooltip", "advanced", "control_after_generate")


class Interrupted(BaseException):
    """ComfyUI's InterruptProcessingException: not an Exception, so that no node swallows it."""


class InvalidWorkflow(Exception):
    """What ComfyUI answers instead of running a workflow: the node, the input, and what is wrong with it."""


class Input:
    """An input of a node: its name, its type, and what the page and the validation know of it."""

    def __init__(self, type_name: str, id: str, **settings: Any) -> None:
        self.type, self.id, self.settings = type_name, id, settings

    def listed(self) -> list[Any]:
        """As /object_info lists it."""
        shown = {name: self.settings[name] for name in OPTIONS if self.settings.get(name) is not None}
        if "options" in self.settings:
            return ["COMBO", {**shown, "options": list(self.settings["options"])}]
        return [self.type, shown]

    def check(self, value: Any) -> Any:
        """The value of a widget as the node gets it. Raises ValueError."""
        if self.type in ("INT", "FLOAT"):
            value = (int if self.type == "INT" else float)(value)
            least, most = self.settings.get("min"), self.settings.get("max")
            if (least is not None and value < least) or (most is not None and value > most):
                raise ValueError(f"{value} is not within {least} and {most}")
        elif self.type == "STRING":
            value = str(value)
        elif "options" in self.settings and value not in self.settings["options"]:
            raise ValueError(f"{value!r} is not in {self.settings['options']}")
        return value


@dataclass
class Output:
    """An output of a node: its type and its name."""

    type: str
    display_name: str | None = None
    tooltip: str | None = None


def comfy_type(name: str) -> Any:
    """A type of ComfyUI, with ``Input`` and ``Output``."""

    class ComfyType:
        io_type = name

        @staticmethod
        def Input(id: str, **settings: Any) -> Input:
            return Input(name, id, **settings)

        @staticmethod
        def Output(display_name: str | None = None, tooltip: str | None = None) -> Output:
            return Output(name, display_name, tooltip)

    return ComfyType


@dataclass(kw_only=True)
class Schema:
    """What a node is: its inputs, its outputs, and what it is told besides."""

    node_id: str
    display_name: str
    category: str
    inputs: list[Input]
    outputs: list[Output]
    description: str = ""
    hidden: list[Any] = field(default_factory=list)
    is_output_node: bool = False

    def __post_init__(self) -> None:
        names = [each.id for each in self.inputs]
        assert len(set(names)) == len(names), f"{self.node_id}: an input is there twice"

    def listed(self) -> dict[str, Any]:
        """As /object_info lists it, in the parts that a workflow depends on."""
        kinds: dict[str, dict[str, Any]] = {}
        for each in self.inputs:
            kinds.setdefault("optional" if each.settings.get("optional") else "required", {})[each.id] = (
                each.listed()
            )
        return {
            "input": kinds,
            "output": [each.type for each in self.outputs],
            "output_name": [each.display_name or each.type for each in self.outputs],
            "name": self.node_id,
            "display_name": self.display_name,
            "category": self.category,
            "output_node": self.is_output_node,
        }


class NodeOutput:
    """What a node gives: its outputs, and what the page shows of it."""

    def __init__(self, *args: Any, ui: dict[str, Any] | None = None) -> None:
        self.args, self.ui = args, ui


class Hidden(Enum):
    """What a node may be told besides its inputs."""

    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"


class ComfyNode(ABC):
    """The base of all nodes; ``hidden`` is set for one execution."""

    hidden: Any = None

    @classmethod
    @abstractmethod
    def define_schema(cls) -> Schema:
        """Says what it is."""

    @classmethod
    @abstractmethod
    def execute(cls, **inputs: Any) -> NodeOutput:
        """Does its work."""


class ComfyExtension(ABC):
    """The base of a pack."""

    @abstractmethod
    async def get_node_list(self) -> list[type[ComfyNode]]:
        """Its nodes."""


class ComfyUI:
    """A ComfyUI without a page: ``run`` executes a workflow; ``interrupt_after`` steps of a bar it is cancelled."""

    def __init__(self, root: Path, device: str = "cpu") -> None:
        self.root, self.device = root, device
        self.progress: list[tuple[int, int, Any]] = []
        self.interrupt_after: int | None = None
        self.executed: list[str] = []
        self.cache: dict[Any, NodeOutput] = {}
        for name in ("input", "output", "models/loras", "models/diffusers", "models/vae_approx"):
            (root / name).mkdir(parents=True)
        self.nodes: dict[str, type[ComfyNode]] = {}

    def modules(self) -> dict[str, types.ModuleType]:
        """What ``import`` finds in ComfyUI's process."""
        io = types.SimpleNamespace(Schema=Schema, NodeOutput=NodeOutput, Hidden=Hidden, ComfyNode=ComfyNode)
        for name in ("String", "Combo", "Float", "Int", "Boolean", "Image", "Mask"):
            setattr(io, name, comfy_type(name.upper()))
        io.Custom = comfy_type
        utils = _module("comfy.utils", ProgressBar=lambda total, node_id=None: _Bar(self, total))
        management = _module(
            "comfy.model_management",
            get_torch_device=lambda: torch.device(self.device),
            unload_all_models=lambda: None,
            soft_empty_cache=lambda force=False: None,
            throw_exception_if_processing_interrupted=self._throw,
            InterruptProcessingException=Interrupted,
        )
        args = _module("comfy.cli_args", args=types.SimpleNamespace(disable_metadata=False))
        paths = _module(
            "folder_paths",
            get_folder_paths=lambda kind: [str(self.root / "models" / kind)],
            get_output_directory=lambda: str(self.root / "output"),
            get_save_image_path=self._free_name,
        )
        comfy = _module("comfy", utils=utils, model_management=management, cli_args=args)
        latest = _module("comfy_api.latest", io=io, ComfyExtension=ComfyExtension)
        found = [utils, management, args, paths, comfy, latest, _module("comfy_api", latest=latest)]
        return {each.__name__: each for each in found}

    def load(self, folder: Path) -> None:
        """Load a pack the way ComfyUI does: its folder as a module of its own, then its entry point."""
        name = str(folder).replace(".", "_x_")
        spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        extension = asyncio.run(module.comfy_entrypoint())
        assert isinstance(extension, ComfyExtension)
        self.nodes |= {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}
        self.nodes |= {node.define_schema().node_id: node for node in core_nodes(self.root / "input")}

    def schema(self, name: str) -> Schema:
        """The schema of a node. Raises InvalidWorkflow for one that is not there."""
        if name not in self.nodes:
            raise InvalidWorkflow(f"{name}: no such node")
        return self.nodes[name].define_schema()

    def run(self, prompt: Mapping[str, Any], workflow: Any = None) -> dict[str, NodeOutput]:
        """Validate a workflow in the form of the API and execute what its output nodes need; nothing twice."""
        self.executed, results = [], {}
        hidden = types.SimpleNamespace(
            prompt=prompt, extra_pnginfo={"workflow": workflow} if workflow else None
        )
        outputs = [name for name, node in prompt.items() if self.schema(node["class_type"]).is_output_node]
        for name in outputs:
            self._validate(prompt, name)
        for name in outputs:
            self._result(prompt, name, hidden, results)
        return results

    def _validate(self, prompt: Mapping[str, Any], name: str) -> None:
        node = prompt[name]
        known = {each.id: each for each in self.schema(node["class_type"]).inputs}
        for each in known.values():
            if each.id not in node["inputs"]:
                if not each.settings.get("optional"):
                    raise InvalidWorkflow(f"{node['class_type']}: {each.id}: missing")
                continue
            value = node["inputs"][each.id]
            if isinstance(value, list):
                source, slot = value
                given = self.schema(prompt[source]["class_type"]).outputs[slot].type
                if given != each.type:
                    raise InvalidWorkflow(f"{node['class_type']}: {each.id}: {given} is not {each.type}")
                self._validate(prompt, source)
                continue
            try:
                each.check(value)
            except ValueError as error:
                raise InvalidWorkflow(f"{node['class_type']}: {each.id}: {error}") from error

    def _result(
        self, prompt: Mapping[str, Any], name: str, hidden: Any, results: dict[str, NodeOutput]
    ) -> NodeOutput:
        if name in results:
            return results[name]
        node, values = prompt[name], {}
        known = {each.id: each for each in self.schema(node["class_type"]).inputs}
        for each, value in node["inputs"].items():
            if isinstance(value, list):
                values[each] = self._result(prompt, value[0], hidden, results).args[value[1]]
            else:
                values[each] = known[each].check(value)
        key = self._key(prompt, name)
        if key not in self.cache or self.schema(node["class_type"]).is_output_node:
            clone = type(node["class_type"], (self.nodes[node["class_type"]],), {"hidden": hidden})
            with torch.inference_mode():
                self.cache[key] = clone.execute(**values)
            self.executed.append(node["class_type"])
        results[name] = self.cache[key]
        return results[name]

    def _key(self, prompt: Mapping[str, Any], name: str) -> Any:
        """What decides the outputs of a node: its inputs and those of all before it."""
        node = prompt[name]
        fingerprint = getattr(self.nodes[node["class_type"]], "fingerprint_inputs", None)
        plain = {each: value for each, value in node["inputs"].items() if not isinstance(value, list)}
        before = [
            (each, self._key(prompt, value[0]), value[1])
            for each, value in sorted(node["inputs"].items())
            if isinstance(value, list)
        ]
        changed = fingerprint(**plain) if fingerprint is not None else None
        return node["class_type"], tuple(sorted(plain.items())), tuple(before), changed

    def _throw(self) -> None:
        if self.interrupt_after is not None and len(self.progress) >= self.interrupt_after:
            self.interrupt_after = None
            raise Interrupted

    def _free_name(self, prefix: str, folder: str, width: int = 0, height: int = 0) -> tuple[Any, ...]:
        place = Path(folder, prefix)
        if not place.resolve().is_relative_to(Path(folder).resolve()):
            raise ValueError("outside the output folder")
        place.parent.mkdir(parents=True, exist_ok=True)
        numbers = [
            int(each.name[len(place.name) + 1 :].split("_")[0])
            for each in place.parent.glob(place.name + "_*")
        ]
        return str(place.parent), place.name, max(numbers, default=0) + 1, str(Path(prefix).parent), prefix


class _Bar:
    def __init__(self, comfyui: ComfyUI, total: int) -> None:
        self.comfyui, self.total = comfyui, total

    def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
        self.comfyui.progress.append((value, total or self.total, preview))


def _module(name: str, **content: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(content)
    return module


def core_nodes(folder: Path) -> list[type[ComfyNode]]:
    """Nodes of ComfyUI itself that the example workflows use, reading from its input folder."""

    def node(name: str, inputs: list[Input], outputs: list[str], work: Any) -> type[ComfyNode]:
        schema = Schema(
            node_id=name, display_name=name, category="core", inputs=inputs,
            outputs=[Output(each) for each in outputs],
        )  # fmt: skip
        content = {
            "define_schema": classmethod(lambda cls: schema),
            "execute": classmethod(lambda cls, **values: NodeOutput(*work(**values))),
        }
        return type(name, (ComfyNode,), content)

    def images(frames: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(frames).float() / 255

    def load_image(image: str) -> tuple[Any, ...]:
        frame = images(read_image(folder / image))
        return frame[None], torch.zeros(1, *frame.shape[:2])

    def load_mask(image: str, channel: str) -> tuple[Any, ...]:
        return (images(read_image(folder / image))[None, ..., ["red", "green", "blue"].index(channel)],)

    def components(video: Any) -> tuple[Any, ...]:
        return images(video.frames), None, float(video.fps)

    channels = Input("COMBO", "channel", options=["alpha", "red", "green", "blue"])
    return [
        node("LoadImage", [Input("STRING", "image")], ["IMAGE", "MASK"], load_image),
        node("LoadImageMask", [Input("STRING", "image"), channels], ["MASK"], load_mask),
        node("LoadVideo", [Input("STRING", "file")], ["VIDEO"], lambda file: (read_video(folder / file),)),
        node("GetVideoComponents", [Input("VIDEO", "video")], ["IMAGE", "AUDIO", "FLOAT"], components),
    ]


def to_prompt(workflow: Mapping[str, Any], listed: Mapping[str, Any]) -> dict[str, Any]:
    """A workflow as the page saves it, in the form of the API; ``listed``: every node as /object_info lists it."""
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        kinds = listed[node["type"]]["input"]
        linked = {each["name"]: links[each["link"]] for each in node["inputs"] if each["link"] is not None}
        values, inputs = iter(node["widgets_values"]), {}
        for name, (type_name, *settings) in {
            **kinds.get("required", {}),
            **kinds.get("optional", {}),
        }.items():
            if not isinstance(type_name, list) and type_name not in WIDGETS:
                continue
            inputs[name] = next(values)
            if settings and settings[0].get("control_after_generate"):
                next(values)  # what the page does with it after a run
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs | linked}
    return prompt


def of_type(prompt: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The one node of a type: its inputs."""
    [found] = [node["inputs"] for node in prompt.values() if node["class_type"] == PREFIX + name]
    return found


def short(prompt: dict[str, Any], model: object = None, **settings: Any) -> dict[str, Any]:
    """The same workflow with few steps, and another model."""
    of_type(prompt, "Sample").update(SHORT | settings)
    if model is not None:
        of_type(prompt, "LoadModel")["model"] = str(model)
    return prompt


def put_inputs(root: Path, height: int = 32, width: int = 48) -> tuple[np.ndarray, Video, np.ndarray]:
    """What the example workflows read: first.png, video.mp4 and mask.png; returns the pixels of the first two."""
    folder = root / "input"
    picture = golden_frames(1, height, width)[0]
    Image.fromarray(picture).save(folder / "first.png")
    Video(golden_frames(9, height, width), 8.0).save(folder / "video.mp4", overwrite=True)
    hole = np.zeros((height, width), np.uint8)
    hole[height // 4 : height // 2, width // 4 : width // 2] = 255
    Image.fromarray(hole).convert("RGB").save(folder / "mask.png")
    return picture, read_video(folder / "video.mp4"), hole
