"""Networks of other people that look at videos, one protocol each, and what stands in for them without weights.

flow.py        Flow: how far each pixel moves between two frames; OpenCV's DIS, or raft.py with a user's weights
motion.py      the motion score: one function for filtering data and for scoring results
embedding.py   Embedder: what is seen, as a unit vector; CLIP from a folder, or a plain one without weights
lpips.py       LPIPS: how different two pictures look; a self-trained stand-in ships
aesthetic.py   Aesthetic: how pleasing a picture is; CLIP and a head from a user's files, or a plain proxy
tensors.py     weights from a user's file into a network
"""

from cogvideox.perception.aesthetic import Aesthetic, AestheticProxy, ClipAesthetic
from cogvideox.perception.embedding import ClipEmbedder, Embedder, PlainEmbedder
from cogvideox.perception.flow import DisFlow, Flow
from cogvideox.perception.motion import Motion, motion_of

__all__ = [
    "Aesthetic",
    "AestheticProxy",
    "ClipAesthetic",
    "ClipEmbedder",
    "DisFlow",
    "Embedder",
    "Flow",
    "Motion",
    "PlainEmbedder",
    "motion_of",
]
