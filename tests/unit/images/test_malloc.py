"""A worker keeps freed memory; a process that only sends does not."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

#: Renders nothing: takes and frees a block of an image's size, and counts the pages that the system had to clear.
PROGRAM = """
import gc, resource
frozen = gc.get_freeze_count()  # Python 3.12 has some from its start
from pipeline.actors import broker
from pipeline.worker.middleware import KeepMemory
if {boots}:
    next(each for each in broker.middleware if isinstance(each, KeepMemory)).before_worker_boot(broker, None)
def cleared():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = bytearray(9_000_000)
    block[:: 4096] = bytes(len(block[:: 4096]))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
cleared()
print(cleared(), gc.get_freeze_count() > frozen + 10_000)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.parametrize(("boots", "least", "most"), [(True, 0, 200), (False, 2000, 5000)])
def test_a_worker_keeps_the_memory_of_its_last_image(boots: bool, least: int, most: int, no_variables: None) -> None:
    # When a block of an image's size is allocated again by a worker, or by a process that only sends
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(boots=boots)], capture_output=True, check=True)
    # Then the worker reuses its memory, the other gets new pages, and only the worker freezes its modules.
    pages, is_frozen = done.stdout.split()
    assert least <= int(pages) <= most
    assert is_frozen == str(boots).encode()


LARGE = """
from pipeline.images.malloc import keep_freed_blocks, trim
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 // 10**6
keep_freed_blocks()
source = b"x" * 10_000_000
blocks = [bytearray(source) for _ in range(60)]
del blocks[::2]
before = resident()
trim()
print(before, resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_of_large_images_is_returned_to_the_system(no_variables: None) -> None:
    # Given a process that freed 300 MB between 300 MB that stay, when it trims
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, check=True)
    # Then none of it is kept.
    before, after = map(int, done.stdout.split())
    assert before > 600
    assert after < 400
