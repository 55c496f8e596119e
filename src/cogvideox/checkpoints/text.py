"""``text_encoder/`` and ``tokenizer/`` of a model folder, in the layout of transformers."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from cogvideox.checkpoints.fill import assign, check_finite, to_dtype
from cogvideox.checkpoints.tensors import read_folder, read_json, to_bytes, write_folder
from cogvideox.errors import CheckpointError
from cogvideox.text import T5Config, T5Encoder, TextEncoder, Tokenizer

STEM = "model"
TIED = "encoder.embed_tokens.weight"  # some files hold the embedding under this name too
LONGEST = 226  # tokens; the released models
CONFIG = {"architectures": ["T5EncoderModel"], "model_type": "t5", "is_encoder_decoder": False, "use_cache": False,
          "pad_token_id": 0, "eos_token_id": 1, "is_gated_act": True, "dense_act_fn": "gelu_new"}  # fmt: skip


def load_text(
    path: str | Path,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    *,
    max_tokens: int | None = None,
    variant: str | None = None,
    check: bool = False,
) -> TextEncoder:
    """The text encoder and tokenizer of a model folder; ``dtype`` None keeps what is stored.

    Raises CheckpointError when a part is missing or cannot be read.
    """
    folder = Path(path)
    for part in ("text_encoder/config.json", "tokenizer"):
        if not (folder / part).exists():
            raise CheckpointError(
                f"{folder}: {part} is missing; copy it from the model's repository, "
                "or pass ready-made text embeddings"
            )
    tokenizer = Tokenizer.read(folder / "tokenizer")
    config = read_t5_config(folder / "text_encoder" / "config.json")
    tensors = read_folder(folder / "text_encoder", STEM, variant)
    tensors.entries.pop(TIED, None)
    if check:
        check_finite(tensors, str(folder / "text_encoder"))
    with torch.device("meta"):
        model = T5Encoder(config)
    wanted = to_dtype(dtype)
    assign(model, tensors, str(folder / "text_encoder"), None, device)
    for name, weight in model.named_parameters():
        keep = wanted == torch.float16 and name.endswith("wo.weight")  # overflows in float16
        weight.data = weight.data.to(torch.float32 if keep else wanted)
    return TextEncoder(model, tokenizer, max_tokens or min(tokenizer.longest or LONGEST, LONGEST))


def write_text(folder: Path, text: TextEncoder, shard_size: int | str = "5GB") -> None:
    """``text_encoder/`` and ``tokenizer/``."""
    target = folder / "text_encoder"
    write_folder(target, STEM, dict(text.model.state_dict()), to_bytes(shard_size))
    dtype = str(text.model.shared.weight.dtype).removeprefix("torch.")
    values = CONFIG | text.model.config.model_dump(mode="json") | {"dtype": dtype, "torch_dtype": dtype}
    (target / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    text.tokenizer.write(folder / "tokenizer")


def read_t5_config(file: Path) -> T5Config:
    """The settings that decide the network; what else transformers writes into the file is not read."""
    values = read_json(file)
    return T5Config.parse({key: values[key] for key in T5Config.model_fields if key in values}, str(file))
