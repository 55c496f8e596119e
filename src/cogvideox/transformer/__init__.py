"""The expert transformer: text and video in one sequence, 3D full attention, expert adaptive LayerNorm."""

from cogvideox.transformer.arms import (
    mmdit_of_same_depth,
    mmdit_of_same_size,
    parameter_count,
    split,
    without_experts,
)
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.initialise import initialise
from cogvideox.transformer.layout import Layout, TokenGrid
from cogvideox.transformer.modality import Experts
from cogvideox.transformer.transformer import Transformer

__all__ = [
    "Experts",
    "TokenGrid",
    "Layout",
    "Transformer",
    "TransformerConfig",
    "initialise",
    "mmdit_of_same_depth",
    "mmdit_of_same_size",
    "parameter_count",
    "split",
    "without_experts",
]
