"""A sandbox whose decoder runs the image as Python code: what an attacker has who took over a decoder.

The code answers by setting `result`, which becomes the message of a `broken_image`, or by assigning renditions to
`made`. With the argument `unfiltered` the kernel offers no filter of system calls.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from pipeline.errors import PermanentError
from pipeline.images import sandbox_child, seccomp
from pipeline.images.child_process import FRAME

MODULES = {
    "ctypes": ctypes,
    "mmap": mmap,
    "os": os,
    "signal": signal,
    "socket": socket,
    "subprocess": subprocess,
    "sys": sys,
    "time": time,
    "FRAME": FRAME,
}
kept: dict[str, Any] = {}  # what one image leaves to the next


def run(source: bytes, *_: object, **__: object) -> dict[str, bytes]:
    names: dict[str, Any] = {**MODULES, "kept": kept, "result": "", "made": {}}
    exec(source.decode(), names)
    if names["made"]:
        return dict(names["made"])
    raise PermanentError("broken_image", str(names["result"]))


if __name__ == "__main__":
    if "unfiltered" in sys.argv:
        seccomp._MACHINES.clear()
    real, sandbox_child.images.render = sandbox_child.images.render, run
    sandbox_child._tiny_images = lambda: iter(())
    sandbox_child.main()
