"""The C library's memory: what one image frees stays in the process for the next one.

By default glibc returns large blocks to the system when they are freed, and the system clears every page again for the
next image. That takes 3 to 4 ms of the 46 ms of CPU for a cover of 3000 x 3000 (docs/performance.md). Without glibc,
these functions do nothing.
"""

from __future__ import annotations

import ctypes
import resource
from contextlib import suppress
from typing import Final

from PIL import _imaging

# <malloc.h> of glibc. https://man7.org/linux/man-pages/man3/mallopt.3.html
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

#: Blocks of this size or more, in bytes, are returned when they are freed. It is the maximum of glibc, and above all of
#: Pillow's blocks, which have up to 16 MiB.
LARGE_BLOCK: Final = 32 * 2**20

#: Free bytes that are kept at the end of the heap, and in total: more than a cover of 3000 x 3000 frees.
KEPT: Final = 128 * 2**20

#: Resident bytes above which a process checks how much is free, which takes 1 ms. Ordinary covers need half.
LARGE_PROCESS: Final = 384 * 2**20


def keep_freed_blocks() -> None:
    """Keep freed memory for the life of the process.

    All threads share one arena. Otherwise each thread would keep as much as its largest image needed.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        options = {_M_ARENA_MAX: 1, _M_MMAP_THRESHOLD: LARGE_BLOCK, _M_TRIM_THRESHOLD: KEPT}
        if all(mallopt(option, value) for option, value in options.items()):
            _imaging.set_blocks_max(0)  # Pillow's own cache (pipeline.images.codecs) would only take more


class _Mallinfo(ctypes.Structure):
    """The result of `mallinfo2`, in which `field8` is the number of free bytes.

    https://man7.org/linux/man-pages/man3/mallinfo.3.html
    """

    _fields_ = [(f"field{number}", ctypes.c_size_t) for number in range(10)]


def trim() -> None:
    """Return free memory to the system if it exceeds `KEPT`, as it does after large images.

    glibc alone never returns memory below the end of the heap.
    https://man7.org/linux/man-pages/man3/malloc_trim.3.html
    """
    with suppress(OSError, AttributeError):
        with open("/proc/self/statm", encoding="ascii") as statm:  # the second number counts resident pages
            resident = int(statm.read().split()[1]) * resource.getpagesize()
        if resident < LARGE_PROCESS:
            return
        libc = ctypes.CDLL(None)
        libc.mallinfo2.restype = _Mallinfo
        if libc.mallinfo2().field8 > KEPT:
            libc.malloc_trim(0)
