"""What fits: count what work costs, plan a run, keep weights elsewhere, store them in fewer bits.

region.py   which memory a tensor touches
fuse.py     traffic of operators that run as one pass
count.py    calls, bytes, FLOPs and peak memory of any work, without a device
"""

from cogvideox.memory.count import Cost, count

__all__ = ["Cost", "count"]
