"""The memory of a process that works on images: what one freed, the next one uses.

The C library gives large blocks back to the system when they are freed, and the system clears every page of them again
for the next image: 3 to 4 ms of CPU for a cover of 3000 x 3000, of 46 (docs/performance.md). Where there is no glibc,
nothing here does anything.
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

#: Bytes of a block from which on it is given back as soon as it is freed: the most that glibc takes. Pillow's blocks
#: have 16 MiB at the most, so all that it holds is kept.
LARGE_BLOCK: Final = 32 * 2**20

#: Bytes that are kept, at the end of the heap and in all. More than is freed after a cover of 3000 x 3000.
KEPT: Final = 128 * 2**20

#: Bytes from which on a process looks how much of it is free, which takes 1 ms. Ordinary covers leave it at half that.
LARGE_PROCESS: Final = 384 * 2**20


def keep_freed_blocks() -> None:
    """Keep what is freed for the next image, for the life of the process. All threads share it: else each would keep as
    much as one of them ever needed."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        options = {_M_ARENA_MAX: 1, _M_MMAP_THRESHOLD: LARGE_BLOCK, _M_TRIM_THRESHOLD: KEPT}
        if all(mallopt(option, value) for option, value in options.items()):
            _imaging.set_blocks_max(0)  # Pillow's own way to keep some (pipeline.images.codecs) would only take more


class _Mallinfo(ctypes.Structure):
    """What `mallinfo2` tells, https://man7.org/linux/man-pages/man3/mallinfo.3.html: the ninth is what is free."""

    _fields_ = [(f"field{number}", ctypes.c_size_t) for number in range(10)]


def give_back() -> None:
    """Give the system back what is free, if that is more than `KEPT`, as after large images.

    What lies below the end of the heap would stay for ever. https://man7.org/linux/man-pages/man3/malloc_trim.3.html
    """
    with suppress(OSError, AttributeError):
        with open("/proc/self/statm", encoding="ascii") as statm:  # its second number are the resident pages
            resident = int(statm.read().split()[1]) * resource.getpagesize()
        if resident < LARGE_PROCESS:
            return
        libc = ctypes.CDLL(None)
        libc.mallinfo2.restype = _Mallinfo
        if libc.mallinfo2().field8 > KEPT:
            libc.malloc_trim(0)
