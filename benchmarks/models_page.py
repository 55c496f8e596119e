"""The page of public models: docs/models.md, made of ``checkpoints/published.yaml``; its memory is what ``plan`` says.

python benchmarks/models_page.py            plans each model again, then writes the file and the page; three minutes
python benchmarks/models_page.py --page     writes the page alone
"""

from __future__ import annotations

import argparse
import re
from functools import cache
from pathlib import Path

from cogvideox.checkpoints.published import FILE, Published, model_of, published
from cogvideox.generation.preflight import plan_memory
from cogvideox.presets import PRESETS
from cogvideox.spec import Kind

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"
HEADS = {
    "released": (
        "Released models",
        "Presets of this package: `--model 5b` is `--model zai-org/CogVideoX-5b`.",
    ),
    "pictures": ("From pictures", "See [images, videos, masks and controls](conditions.md)."),
    "fun": ("Inpainting, control, removal", "See [images, videos, masks and controls](conditions.md)."),
    "finetuned": ("Finetuned models", ""),
    "adapters": (
        "Adapters",
        "The memory is that of the model they are put on, without them. See [LoRA](checkpoints.md#lora).",
    ),
    "controlnets": (
        "ControlNets",
        "The memory is that of the model beside them; `plan 5b --control-net FOLDER` counts both. See "
        "[ControlNets](conditions.md#controlnets).",
    ),
    "files": ("Single files, quantised and pruned weights", ""),
    "decoders": ("Tiny decoders", "See [fast decoding](steps.md)."),
}
BEGIN = """# Public models and add-ons

What others have published for CogVideoX, what it does, and how to run it here.

```bash
cogvideox generate "a red fox in snow" --model OWNER/NAME                        # a model: it is downloaded once
cogvideox generate "a red fox in snow" --model 5b --lora OWNER/NAME:FILE:0.8     # an adapter, or one file of several
cogvideox plan 5b --device cuda --memory disk                                    # the least memory; or leave it open
```

**Memory** is the least that `plan --memory disk` predicts on a GPU, with weights as they are published, at the size and
length the model was made for; more memory is faster. **Licence** is what the page of the files says; *not given*: that
page says none; *not found*: the page was not seen. Nothing was downloaded to write this page: names and licences
are from the pages of the hub as of 2026. This page is made by `python benchmarks/models_page.py` from
`src/cogvideox/checkpoints/published.yaml`, which also tells the alpha of adapters whose files do not say it.
"""
END = """
## Not found

File name, rank and alpha of TDM; licence and listing of IPOC; how ExVideo spells its layers; real `.gguf` containers,
int8 bitsandbytes, torchao and quanto folders of CogVideoX; LCM, DMD and AnimateLCM weights; a DoRA for CogVideoX. More
LoRAs exist (of Zlikwid and sayakpaul, among others) than are listed here: `--lora OWNER/NAME:FILE` takes any of them.
"""


@cache
def least(base: str, kind: Kind | None, frames: int | None) -> int:
    """Bytes of the least way to run such a model on a GPU, by ``plan``: weights are read from disk as stored."""
    spec = model_of(base, kind, frames)
    return plan_memory(spec, device="cuda", memory_policy="disk", storage="stored").least.peak


def planned() -> None:
    """Write the least memory of each entry into the file."""
    text = FILE.read_text(encoding="utf-8")
    for entry in (entry for section in published().values() for entry in section if entry.base):
        value = least(entry.base, entry.kind or None, entry.frames)
        lines = re.compile(rf"(\{{hub: '?{re.escape(entry.hub)}'?,(?:[^{{}}])*?)(?:,\s*least: \d+)?\}}")
        text, count = lines.subn(rf"\1, least: {value}}}", text)
        assert count == 1, entry.hub
    FILE.write_text(text, encoding="utf-8")
    published.cache_clear()


def page() -> str:
    """The page as it should be."""
    sections = [BEGIN]
    for section, entries in published().items():
        head, about = HEADS[section]
        rows = [
            "| name on the hub | what it does | licence | memory | how to run it |",
            "|---|---|---|---|---|",
        ]
        rows += [_row(entry) for entry in entries]
        sections.append("\n".join([f"\n## {head}\n", *([about, ""] if about else []), *rows, ""]))
    return "".join([*sections, END])


def _row(entry: Published) -> str:
    memory = f"{entry.least / 1e9:.1f} GB" if entry.least is not None else ""
    name = next((f" ({name})" for name, spec in PRESETS.items() if spec.hub == entry.hub), "")
    use = "; ".join(
        [*([f"`cogvideox {entry.run}`"] if entry.run else []), *([entry.note] if entry.note else [])]
    )
    return f"| `{entry.hub}`{name} | {entry.does} | {entry.licence} | {memory} | {use} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true", help="write the page alone")
    if not parser.parse_args().page:
        planned()
    PAGE.write_text(page(), encoding="utf-8")
