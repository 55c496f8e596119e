"""Networks and measures that look at images and videos: a protocol each, and what works without downloaded weights.

| file | what it does |
|---|---|
| ``flow`` | ``Flow``: how far each pixel moves between two frames; OpenCV's DIS, or RAFT |
| ``canny`` | the edges of frames, by OpenCV |
| ``raft`` | RAFT, with a user's weights |
| ``motion`` | the motion score: one function for filtering data and for scoring results |
| ``embedding`` | images and texts as unit vectors: CLIP from a folder, or colours and edges |
| ``aesthetic`` | ``Aesthetic``: CLIP and a head from a user's files, or a plain proxy |
| ``handcrafted`` | cheap numbers about pictures and changes, and the label classifier that reads them |
| ``lpips`` | LPIPS: perceptual distance of two images; a self-trained stand-in ships |
| ``features`` | ``FeatureExtractor``: a clip as one vector, for FVD; I3D from a user's file |
| ``world_features`` | the shipped feature network of the tiny world |
| ``experts`` | VBench's experts, as answers recorded elsewhere |
| ``weight_files`` | weights from a user's file into a network, without running code |
"""

from cogvideox.perception.aesthetic import Aesthetic, AestheticProxy, ClipAesthetic
from cogvideox.perception.embedding import ClipEmbedder, Embedder, PlainEmbedder
from cogvideox.perception.flow import DisFlow, Flow
from cogvideox.perception.motion import Motion, motion_of

__all__ = [
    "Aesthetic", "AestheticProxy", "ClipAesthetic", "ClipEmbedder", "DisFlow", "Embedder", "Flow", "Motion",
    "PlainEmbedder", "motion_of",
]  # fmt: skip
