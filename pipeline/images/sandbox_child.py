"""The process that decodes and encodes images for `sandbox`: python -m pipeline.images.sandbox_child FILE PARENT.

It imports every library, gives up all other rights, and then renders one image after another. Requests come from
standard input, their sources are in the open file with the descriptor FILE, and answers go to standard output
(child_process.py).
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final

from PIL import Image

from pipeline.errors import PipelineError
from pipeline.images import render as images
from pipeline.images import seccomp
from pipeline.images.child_process import FRAME
from pipeline.recipe import Recipe

#: Renditions of tiny images, made before system calls are filtered, so that everything they need is imported.
_WARM_UP: Final = Recipe.decode({"renditions": ["16x16", "4x4"], "fit": "contain"})


def main() -> None:
    """Serve the parent until it closes the pipe."""
    file, parent = map(int, sys.argv[-2:])
    seccomp.die_with(parent)
    prepare()
    requests, answers = os.fdopen(0, "rb"), os.fdopen(1, "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff prints much about broken images
    memory = _address_space()
    _write(answers, {"unfiltered": seccomp.confine(), "address_space": memory})
    serve(requests, file, answers)


def prepare() -> None:
    """Import and initialize everything that rendering needs."""
    for source in _tiny_images():
        images.render(source, _WARM_UP, max_pixels=256, max_decoded_pixels=256, facts={})
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
        score.write("1000")  # if memory runs out, the system ends this process and not a worker
    gc.collect()
    gc.freeze()  # modules live forever, so full collections need not visit them


def _address_space() -> int:
    """Return the size of this process's address space in bytes, or 0 if there is no /proc."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    return 0


def _tiny_images() -> Iterator[bytes]:
    """Yield images of the formats, modes and colours that use different parts of the libraries."""
    grey = Image.linear_gradient("L").resize((16, 16))
    clear = Image.merge("RGBA", (grey, grey, grey, grey))
    sources = {
        "JPEG": (grey.convert("RGB"), grey.convert("CMYK")),
        "PNG": (grey, clear, clear.convert("RGB").quantize(4)),
        "GIF": (grey.quantize(4), clear),
        "WEBP": (grey.convert("RGB"), clear),
        "TIFF": (clear,),
        "BMP": (grey,),
        "ICO": (clear,),
    }
    for name, pictures in sources.items():
        for picture in pictures:
            buffer = BytesIO()
            picture.save(buffer, name)
            yield buffer.getvalue()


def serve(requests: BinaryIO, file: int, answers: BinaryIO) -> None:
    """Render images until the other end closes the pipe."""
    while len(frame := requests.read(FRAME.size)) == FRAME.size:
        length, size = FRAME.unpack(frame)
        request, source = json.loads(requests.read(length)), os.pread(file, size, 0)
        signal.setitimer(signal.ITIMER_PROF, request["cpu_seconds"])  # at its end SIGPROF ends the process
        answer, renditions = _rendered(source, request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write(answers, answer, renditions)
        del source, renditions


def _rendered(source: bytes, request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
    facts: dict[str, Any] | None = {} if request.get("facts") else None
    try:
        renditions = images.render(source, Recipe.decode(request["recipe"]), **request["limits"], facts=facts)
    except PipelineError as error:
        return {"error": [error.code, error.message]}, {}
    answer: dict[str, Any] = {"lengths": [len(data) for data in renditions.values()]}
    return answer if facts is None else answer | {"facts": facts}, renditions


def _write(answers: BinaryIO, answer: dict[str, Any], renditions: dict[str, bytes] | None = None) -> None:
    head, body = json.dumps(answer).encode(), b"".join((renditions or {}).values())
    answers.write(FRAME.pack(len(head), len(body)) + head)
    answers.write(body)
    answers.flush()


if __name__ == "__main__":
    main()
