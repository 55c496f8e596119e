"""What is given as a mask and is none is refused with how a mask is written."""

from __future__ import annotations

import numpy as np
import pytest

from cogvideox.errors import MediaError
from cogvideox.video import Video
from cogvideox.video.mask import read_mask


@pytest.mark.parametrize("source", ["8,8,16", "8,8,16,16,2", (8, 8, 16, 16)])
def test_what_is_no_box_says_how_a_box_is_written(source):
    with pytest.raises(MediaError, match="write a box as text, 'x,y,width,height'"):
        read_mask(source, Video(np.zeros((1, 32, 48, 3), np.uint8), 8.0))
