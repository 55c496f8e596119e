"""``text_encoder/`` and ``tokenizer/`` of a model folder, in the layout of transformers."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from cogvideox.checkpoints.components import TEXT_STEM as STEM
from cogvideox.checkpoints.components import NetworkFiles
from cogvideox.checkpoints.families import check_config, check_floats
from cogvideox.checkpoints.fill import assign, assign_later, check_finite, to_dtype
from cogvideox.checkpoints.gguf_text import read_gguf_text
from cogvideox.checkpoints.quantised import QuantisedTensors
from cogvideox.checkpoints.specs import warn_of_unknown
from cogvideox.checkpoints.tensors import read_json, shapes_of, to_bytes, write_folder
from cogvideox.errors import CheckpointError
from cogvideox.files import short
from cogvideox.text import T5Config, T5Encoder, TextEncoder, Tokenizer

TIED = "encoder.embed_tokens.weight"  # some files hold the embedding under this name too
LONGEST = 226  # tokens; the released models
CONFIG = {"architectures": ["T5EncoderModel"], "model_type": "t5", "is_encoder_decoder": False, "use_cache": False,
          "pad_token_id": 0, "eos_token_id": 1, "is_gated_act": True, "dense_act_fn": "gelu_new"}  # fmt: skip

ENCODERS = ("T5EncoderModel", "T5ForConditionalGeneration", "T5Model")
FIXED = {"model_type": "t5", "is_gated_act": True, "dense_act_fn": "gelu_new"}
_UNUSED = """
    architectures attn_implementation add_cross_attention bad_words_ids begin_suppress_tokens bos_token_id
    chunk_size_feed_forward classifier_dropout cross_attention_hidden_size decoder_start_token_id dense_act_fn
    diversity_penalty do_sample dtype early_stopping encoder_no_repeat_ngram_size eos_token_id
    exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id gradient_checkpointing
    id2label initializer_factor is_decoder is_encoder_decoder is_gated_act label2id length_penalty max_length
    min_length model_type n_positions no_repeat_ngram_size num_beam_groups num_beams num_decoder_layers
    num_return_sequences output_attentions output_hidden_states output_past output_scores pad_token_id prefix
    problem_type pruned_heads quantization_config remove_invalid_values repetition_penalty return_dict
    return_dict_in_generate
    scale_decoder_outputs sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss
    tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript
    transformers_version typical_p use_bfloat16 use_cache vocab_size
    """
UNUSED = frozenset(_UNUSED.split())
"""Written by some version of transformers, and without effect on what the encoder computes."""


def load_text(
    path: str | Path,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    *,
    max_tokens: int | None = None,
    check: bool = False,
    gguf: Path | None = None,
    files: NetworkFiles | None = None,
) -> TextEncoder:
    """The text encoder and tokenizer of a model folder; ``dtype`` None keeps what is stored. Device meta: the weights
    stay in their files. ``gguf``: a file of llama.cpp's converter to take the weights from instead of the folder's.
    ``files``: another encoder than the folder's own; one without settings has those of the folder's.

    Raises CheckpointError when a part is missing or cannot be read.
    """
    folder = Path(path)
    files = files or NetworkFiles("text_encoder", folder / "text_encoder")
    settings = files.config or folder / "text_encoder" / "config.json"
    for part in (settings, folder / "tokenizer"):
        if not part.exists():
            name = part.relative_to(folder) if part.is_relative_to(folder) else part
            raise CheckpointError(
                f"{folder}: {name} is missing; copy it from the model's repository, or pass ready-made text embeddings"
            )
    tokenizer = Tokenizer.read(folder / "tokenizer")
    config = read_t5_config(settings)
    where = gguf or files.where
    tensors = read_gguf_text(gguf) if gguf is not None else files.tensors()
    tensors.entries.pop(TIED, None)
    check_floats(tensors, where)
    if check:
        check_finite(tensors, str(where))
    with torch.device("meta"):
        model = T5Encoder(config)
    wanted = to_dtype(dtype) or (tensors.dtype if isinstance(tensors, QuantisedTensors) else None)

    def precision(name: str) -> torch.dtype | None:
        keep = wanted == torch.float16 and name.endswith("wo.weight")  # overflows in float16
        return torch.float32 if keep else wanted

    if torch.device(device).type == "meta":
        assign_later(model, tensors, str(where), precision)
    else:
        assign(model, tensors, str(where), precision, device)
    return TextEncoder(model, tokenizer, max_tokens or min(tokenizer.longest or LONGEST, LONGEST))


def write_text(folder: Path, text: TextEncoder, shard_size: int | str = "5GB") -> None:
    """Write a text encoder and its tokenizer as ``text_encoder/`` and ``tokenizer/`` of a model folder."""
    target = folder / "text_encoder"
    write_folder(target, STEM, dict(text.model.state_dict()), to_bytes(shard_size))
    dtype = str(text.model.shared.weight.dtype).removeprefix("torch.")
    values = CONFIG | text.model.config.model_dump(mode="json") | {"dtype": dtype, "torch_dtype": dtype}
    (target / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    text.tokenizer.write(folder / "tokenizer")


def text_names(config: T5Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of an encoder, computed without allocating any."""
    with torch.device("meta"):
        return shapes_of(T5Encoder(config).state_dict())


def read_t5_config(file: Path) -> T5Config:
    """The settings that decide the network. Raises CheckpointError for another kind of network, ConfigError for sizes
    out of bounds; warns of settings that no version of transformers writes."""
    values = read_json(file)
    check_config(values, file)
    given = values.get("architectures") or ["T5EncoderModel"]
    if not isinstance(given, list) or given[0] not in ENCODERS:
        raise CheckpointError(
            f"{file}: architectures is {short(given)}; one of {', '.join(ENCODERS)} can be read"
        )
    for key, only in FIXED.items():
        if values.get(key, only) != only:
            raise CheckpointError(
                f"{file}: {key} is {short(values[key])}; only {only!r}, T5 v1.1, can be read"
            )
    warn_of_unknown(values, T5Config, UNUSED, file)
    return T5Config.parse({key: values[key] for key in T5Config.model_fields if key in values}, str(file))
