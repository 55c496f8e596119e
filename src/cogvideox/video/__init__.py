"""Video: frames, frames per second and where they came from; reading, writing, fitting, showing.

| file | what it does |
|---|---|
| ``reading`` | untrusted video files in, within limits on pixels, frames, bytes and time |
| ``timing`` | when each frame is on the screen, and the frames at a rate |
| ``colour`` | which colours the numbers mean, and the guess where no tag says so |
| ``orientation`` | how a stored picture is turned and mirrored |
| ``decode`` | one pass over a video of any length, each frame at the size it is needed |
| ``image`` | still pictures in, within the same limits |
| ``mask`` | masks over a video: files, boxes, arrays |
| ``saving`` | mp4, mkv, gif and png out, never over somebody's work unless asked |
| ``spool`` | frames of a long video on disk while it is made |
| ``sheet`` | contact sheets: rows of frames with captions |
| ``video`` | ``Video`` itself |
| ``info`` | what a file is and what made it |
"""

from cogvideox.video.colour import Colour, Colours
from cogvideox.video.decode import Size, VideoDecoder, open_decoder
from cogvideox.video.image import read_image
from cogvideox.video.info import VideoInfo, file_info, video_info
from cogvideox.video.mask import read_mask
from cogvideox.video.orientation import Orientation
from cogvideox.video.reading import LIMITS, READER, DecodeLimits, Probe, probe, survey
from cogvideox.video.saving import check_output, is_ours, mp4_writer, previews_of, sidecar_of, watched_of
from cogvideox.video.sheet import contact_sheet
from cogvideox.video.timing import Timing
from cogvideox.video.video import Video, read_video

__all__ = [
    "VideoInfo",
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
    "VideoDecoder",
    "file_info",
    "video_info",
    "check_output",
    "contact_sheet",
    "is_ours",
    "mp4_writer",
    "previews_of",
    "probe",
    "read_image",
    "read_mask",
    "read_video",
    "sidecar_of",
    "watched_of",
    "open_decoder",
]
