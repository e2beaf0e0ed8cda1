"""The memory of a worker: what one image freed, the next one uses.

The C library gives large blocks back to the system when they are freed, and the system clears every page of them again
for the next image. That took a tenth of the CPU of rendering a cover, and a quarter of that of fetching it
(docs/performance.md).
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Any, Final

import dramatiq
from PIL import _imaging

# <malloc.h> of glibc. https://man7.org/linux/man-pages/man3/mallopt.3.html
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

#: Bytes of a block from which on it is given back as soon as it is freed: the most that glibc takes. A cover of
#: 3000 x 3000 takes blocks of 9 MB.
LARGE_BLOCK: Final = 32 * 2**20

#: Bytes at the end of the heap that are kept for what comes next.
KEPT: Final = 64 * 2**20


class KeptMemory(dramatiq.Middleware):
    """Has a worker process keep blocks below `LARGE_BLOCK` for its next image, from its start on.

    Not done by importing anything: it concerns the whole process, which may be a customer's own that only sends jobs.
    Where there is no glibc, nothing changes.
    """

    def before_worker_boot(self, broker: Any, worker: Any) -> None:
        """Set it."""
        with suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            if mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK) and mallopt(_M_TRIM_THRESHOLD, KEPT):
                _imaging.set_blocks_max(0)  # Pillow's own way to keep some (pipeline.codecs) would only take more
