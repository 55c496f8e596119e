"""Video = frames + frames per second + where it came from; reading, writing, fitting, showing.

about.py     what a file is and what made it
reading.py   untrusted files in, within limits on pixels, frames, bytes and time
pictures.py  the same for still pictures
timing.py    when each frame is on the screen, and the frames at a rate
colour.py    which colours the numbers mean, and the guess where no tag says so
orientation.py  how a stored picture is turned and mirrored
saving.py    files out: whole or absent, never over somebody's work
value.py     the Video itself
walking.py   one pass over a video of any length, each frame at the size it is needed
sheet.py     rows of frames with captions, to look at many videos at once
"""

from cogvideox.video.about import About, about
from cogvideox.video.colour import Colour, Colours
from cogvideox.video.orientation import Orientation
from cogvideox.video.pictures import read_image
from cogvideox.video.reading import LIMITS, READER, DecodeLimits, Probe, probe, survey
from cogvideox.video.saving import (
    check_output,
    is_ours,
    mp4_writer,
    previews_of,
    sidecar_of,
)
from cogvideox.video.sheet import contact_sheet
from cogvideox.video.timing import Timing
from cogvideox.video.value import Video, read_video
from cogvideox.video.walking import Size, Walk, walk

__all__ = [
    "About",
    "Colour",
    "Colours",
    "Orientation",
    "Timing",
    "survey",
    "LIMITS",
    "DecodeLimits",
    "Probe",
    "READER",
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
    "sidecar_of",
    "walk",
]
