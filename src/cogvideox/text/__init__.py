"""A prompt becomes a sequence of vectors: T5's tokenizer and the encoder half of T5."""

from cogvideox.text.decoder import T5, T5Decoder
from cogvideox.text.encoder import TextEmbedding, TextEncoder, check_prompt
from cogvideox.text.t5 import T5Config, T5Encoder
from cogvideox.text.tokenizer import Tokenizer, train_tokenizer

__all__ = [
    "T5",
    "T5Config",
    "T5Decoder",
    "T5Encoder",
    "TextEmbedding",
    "TextEncoder",
    "Tokenizer",
    "check_prompt",
    "train_tokenizer",
]
