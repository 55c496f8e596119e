"""Two names change places in one step, where the system can: at no moment is either missing."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # Linux: renameat2(2)
RENAME_SWAP = 2  # macOS: renamex_np(2)
CANNOT = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}


def exchange(a: Path, b: Path) -> bool:
    """Exchange what stands under two names of one file system; False where the system or the file system cannot.

    Raises OSError for any other failure.
    """
    names = os.fsencode(a), os.fsencode(b)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            failed = libc.renamex_np(*names, ctypes.c_uint(RENAME_SWAP))
        else:
            failed = libc.renameat2(
                ctypes.c_int(AT_FDCWD),
                names[0],
                ctypes.c_int(AT_FDCWD),
                names[1],
                ctypes.c_uint(RENAME_EXCHANGE),
            )
    except (AttributeError, OSError, TypeError):  # no such call, or no C library to ask (Windows)
        return False
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(b))
