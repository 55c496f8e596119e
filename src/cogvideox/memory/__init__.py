"""What fits: count what work costs, plan a run, keep weights elsewhere, store them in fewer bits.

region.py      which memory a tensor touches
fuse.py        traffic of operators that run as one pass
count.py       calls, bytes, FLOPs and peak memory of any work, without a device
workspace.py   what convolutions take for themselves on a CPU
device.py      how much memory a device has left
request.py     what is asked to fit
weights.py     bytes of every part, in any precision
stages.py      bytes every stage works in
policy.py      ways to spend less, and their price
plan.py        every policy for a request, the cheapest that fits, or the nearest request that does
offload.py     weights that visit the device: one stage at a time, or block by block
lowbit.py      weights in one byte
"""

from cogvideox.memory.count import Cost, count
from cogvideox.memory.device import available
from cogvideox.memory.lowbit import has_torchao, lower
from cogvideox.memory.offload import move_in
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
    "available",
    "count",
    "has_torchao",
    "lower",
    "move_in",
    "plan",
    "require",
    "settle",
]
