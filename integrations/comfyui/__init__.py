"""ComfyUI nodes of the package ``cogvideox``: load, text, conditions, adapter, sample, decode, save.

| file | what it does |
|---|---|
| ``values`` | what goes from node to node, and pixels as ComfyUI and the package have them |
| ``steps`` | progress bar, preview and interruption |
| ``nodes`` | the nodes |
| ``example_workflows`` | workflows that ComfyUI lists among its templates |

Everything real is done by the package; it does not know of ComfyUI.
"""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .nodes import NODES


class CogVideoXExtension(ComfyExtension):
    """The node pack, as ComfyUI asks for it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node of the pack."""
        return list(NODES)


async def comfy_entrypoint() -> CogVideoXExtension:
    """What ComfyUI calls when it starts."""
    return CogVideoXExtension()
