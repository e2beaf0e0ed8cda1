"""Memory of a process that renders images: blocks that one image freed serve the next.

By default glibc returns large blocks to the system as soon as they are freed, and the system clears every page again
for the next image. For a cover of 3000 x 3000 that is 3 to 4 of 46 ms of CPU (docs/performance.md). Without glibc,
Pillow's own pool keeps some of its blocks instead.
"""

from __future__ import annotations

import ctypes
import os
import resource
from contextlib import suppress
from functools import cache
from typing import Final

from PIL import _imaging

# <malloc.h> of glibc. https://man7.org/linux/man-pages/man3/mallopt.3.html
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

#: Bytes from which a block returns to the system as soon as it is freed: the maximum of glibc. Pillow allocates at
#: most 16 MiB at a time, so all its blocks are kept.
LARGE_BLOCK: Final = 32 * 2**20

#: Free bytes that a process keeps, at the end of the heap and in all. A cover of 3000 x 3000 frees less than this.
KEPT: Final = 128 * 2**20

#: Resident bytes from which a process checks how much of its memory is free, which takes 1 ms. Ordinary covers need
#: half of this.
LARGE_PROCESS: Final = 384 * 2**20

#: Blocks of 16 MiB in Pillow's pool on systems without glibc. Without them, clearing pages took a fifth of the CPU.
#: https://pillow.readthedocs.io/en/stable/reference/block_allocator.html
POOLED_BLOCKS: Final = 2


def keep_freed_blocks() -> None:
    """Keep freed memory for the next image, for the life of the process."""
    with suppress(AttributeError):  # the function is not part of Pillow's public interface
        _imaging.set_blocks_max(0 if _tune_glibc() else POOLED_BLOCKS)


def _tune_glibc() -> bool:
    """Make glibc keep freed blocks, and return whether it does.

    All threads share one arena. With several, each arena would keep as much as its busiest thread ever needed.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        options = {_M_ARENA_MAX: 1, _M_MMAP_THRESHOLD: LARGE_BLOCK, _M_TRIM_THRESHOLD: KEPT}
        return all(mallopt(option, value) for option, value in options.items())
    return False


class _Mallinfo(ctypes.Structure):
    """The result of `mallinfo2`; its ninth field is the number of free bytes.

    https://man7.org/linux/man-pages/man3/mallinfo.3.html
    """

    _fields_ = [(f"field{number}", ctypes.c_size_t) for number in range(10)]


def trim() -> None:
    """Return free memory to the system if there is more than `KEPT`, as after large images.

    glibc alone never returns free memory that lies below a block in use.
    https://man7.org/linux/man-pages/man3/malloc_trim.3.html
    """
    with suppress(OSError, AttributeError):
        if resident() < LARGE_PROCESS:
            return
        libc = ctypes.CDLL(None)
        libc.mallinfo2.restype = _Mallinfo
        if libc.mallinfo2().field8 > KEPT:
            libc.malloc_trim(0)


def resident() -> int:
    """Return the resident memory of this process in bytes.

    Raises:
        OSError: there is no /proc.
    """
    return _statm(1)


def address_space() -> int:
    """Return the size of this process's address space in bytes, or 0 if there is no /proc."""
    with suppress(OSError):
        return _statm(0)
    return 0


def _statm(field: int) -> int:
    return int(os.pread(_statm_file(os.getpid()), 100, 0).split()[field]) * resource.getpagesize()


@cache
def _statm_file(pid: int) -> int:
    """Open a file that stays open, because a sandbox cannot open it."""
    return os.open(f"/proc/{pid}/statm", os.O_RDONLY)
