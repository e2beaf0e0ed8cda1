"""The memory of a process that works on images: what one freed, the next one uses.

The C library gives large blocks back to the system when they are freed, and the system clears every page of them again
for the next image: 3 ms of CPU for a cover of 3000 x 3000, of 47 (docs/performance.md). Where there is no glibc,
nothing here does anything.
"""

from __future__ import annotations

import ctypes
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

#: Bytes at the end of the heap from which on they are given back. What is free below its end stays, so a process keeps
#: about as much as it once needed: `give_back` ends that after large images.
KEPT: Final = 64 * 2**20


def keep_freed_blocks() -> None:
    """Keep what is freed for the next image, for the life of the process. All threads share it: else each would keep as
    much as one of them ever needed."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        options = {_M_ARENA_MAX: 1, _M_MMAP_THRESHOLD: LARGE_BLOCK, _M_TRIM_THRESHOLD: KEPT}
        if all(mallopt(option, value) for option, value in options.items()):
            _imaging.set_blocks_max(0)  # Pillow's own way to keep some (pipeline.codecs) would only take more


def give_back() -> None:
    """Give the system back whatever is free now. https://man7.org/linux/man-pages/man3/malloc_trim.3.html"""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
