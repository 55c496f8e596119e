"""Text: T5's tokenizer, its encoder, which gives the transformer a prompt as vectors, and its decoder.

Files, in reading order:

| `encoder` | `TextEncoder`: prompts to embeddings within a token budget |
| `tokenizer` | `Tokenizer`: text to token ids and back (SentencePiece) |
| `t5` | `T5Encoder` and `T5Config` |
| `decoder` | `T5Decoder`, and `T5`: text to text |
"""

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
