"""The expert transformer: text and video in one sequence, 3D full attention, expert adaptive LayerNorm.

Files, in reading order:

| file | what it does |
|---|---|
| `config` | `TransformerConfig`, under the names of diffusers' `config.json` |
| `layout` | `Layout`: of every token its clip, its modality and its position |
| `transformer` | `Transformer`: patches in, patches out, around the blocks |
| `block` | `Block`: modulate, attend, gate; modulate, feed forward, gate |
| `attention` | full and split attention of a clip, and of packed clips one by one |
| `position` | rotary, sinusoidal and learned positions |
| `modality` | `Experts`: what text and video have of their own |
| `initialise` | the weights that training starts from |
| `arms` | the paper's ablations, as configs made from a config |
| `fused` | blocks in fewer passes over memory, for inference on a GPU |
| `attention_kernels` | attention kernels: torch's own, FlashAttention, SageAttention |
| `hub_kernels` | attention kernels of the hub: fetched where named, of trusted publishers, compared first |
| `kernels` | the kernel of a run, chosen by time or by name, of a clip and of a packed sequence |
| `calls` | which step and which branches of guidance a call is for; blocks left out for one of them |
| `modulation` | the modulations of all timesteps of a run, as tables |
| `reuse` | steps at which an earlier residual stands for the blocks |
| `controlnet` | a network beside the blocks that reads a control video and adds to their video tokens |
| `compiled` | compiled blocks and CUDA graphs |
"""

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
