"""What fits: count what work costs, plan a run, keep weights elsewhere, store them in fewer bits.

| file | what it does |
|---|---|
| ``request`` | what is asked to fit: a spec, a size, a device |
| ``count`` | FLOPs and peak memory of any work, without a device |
| ``weights`` | bytes of every network, in any precision |
| ``lowbit`` | weights in one byte, and products in 8 bits, by torchao |
| ``stages`` | bytes that each stage of a run works in |
| ``policy`` | ways to spend less memory, and what each costs |
| ``plan`` | every policy for a request: the cheapest that fits, or the nearest request that does |
| ``seconds`` | how long a run takes, from measured rates of the device |
| ``streaming`` | blocks that visit two buffers in turn, from host memory or from their files |
| ``offload`` | weights that visit the device: one stage at a time, or block by block |
"""

from cogvideox.memory.count import Cost, count
from cogvideox.memory.lowbit import has_torchao, lower
from cogvideox.memory.offload import offload
from cogvideox.memory.plan import MemoryPlan, Option, plan, require, settle
from cogvideox.memory.policy import RESIDENCES, Policy
from cogvideox.memory.request import Request

__all__ = [
    "RESIDENCES",
    "Cost",
    "MemoryPlan",
    "Option",
    "Policy",
    "Request",
    "count",
    "has_torchao",
    "lower",
    "offload",
    "plan",
    "require",
    "settle",
]
