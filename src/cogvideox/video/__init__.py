"""Video = frames + frames per second + where it came from; reading, writing, fitting, showing.

about.py     what a file is and what made it, without decoding
reading.py   untrusted files in, within limits on pixels, frames, bytes and time
saving.py    files out: whole or absent, never over somebody's work
value.py     the Video itself
walking.py   one pass over a video of any length, each frame at the size it is needed
sheet.py     rows of frames with captions, to look at many videos at once
"""

from cogvideox.video.about import About, about
from cogvideox.video.reading import LIMITS, Limits, Probe, probe, read_image, sha256_of_file
from cogvideox.video.saving import (
    check_output,
    is_ours,
    mp4_writer,
    previews_of,
    replacing,
    sidecar_of,
    whole_file,
    write_json,
)
from cogvideox.video.sheet import contact_sheet
from cogvideox.video.value import Video, read_video
from cogvideox.video.walking import Size, Walk, walk

__all__ = [
    "About",
    "LIMITS",
    "Limits",
    "Probe",
    "Size",
    "Video",
    "Walk",
    "about",
    "check_output",
    "contact_sheet",
    "is_ours",
    "mp4_writer",
    "previews_of",
    "probe",
    "read_image",
    "read_video",
    "replacing",
    "sha256_of_file",
    "sidecar_of",
    "walk",
    "whole_file",
    "write_json",
]
