"""Rendering in a sandbox: risky formats are decoded in a child process with resource limits.

The memory and time for a JPEG, PNG, GIF or WebP follow from its header. An AVIF may contain a picture a thousand times
larger than its container claims, and a TIFF almost anything. A BMP may use run-length coding, which Pillow decodes in
Python for seconds. The child process may run out of memory or time, or crash, without harm to the worker. It gets none
of the worker's environment, so no credentials. Starting it takes 0.1 s of CPU, which is acceptable because few covers
have these formats.

Each process renders one image at a time, directly or in a child, while its other threads wait for S3 and SQS. Two
images at once would compete for the caches of one core and need the memory of two.

    python -m pipeline.images.sandbox    the child: reads a line of JSON and the source, writes JSON and the renditions
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO, Final

from pipeline.errors import PermanentError, PipelineError, RetryableError
from pipeline.images import render as images
from pipeline.images.opening import MAX_DECODER_BYTES, format_of
from pipeline.recipe import Recipe

#: Arguments of the interpreter. Nobody would read Pillow's warnings.
CHILD: Final = ("-W", "ignore", "-m", "pipeline.images.sandbox")
#: Formats that are rendered in a child process.
SANDBOXED: Final = {"AVIF", "TIFF", "BMP"}
#: Seconds of CPU for a child. The largest AVIF that is accepted takes 1.5, the slowest BMP 5.
CPU_SECONDS: Final = 15
#: Seconds for a child that may have to wait for a CPU. Eight images, two for each of four threads, then finish within
#: the stage's time limit.
TIMEOUT: Final = 30

_ONE_AT_A_TIME: Final = threading.Lock()


def render(source: bytes, recipe: Recipe, *, max_pixels: int, max_decoded_pixels: int) -> dict[str, bytes]:
    """Render an image safely: like `images.render`, but one at a time in each process, and in a child if necessary.

    Args:
        source: the bytes of the image.
        recipe: the renditions to make.
        max_pixels: as in `images.render`.
        max_decoded_pixels: as in `images.render`.

    Returns:
        The encoded renditions by name.

    Raises:
        PermanentError: as in `images.render`.
        RetryableError: `out_of_memory`, or `time_limit` for a child that takes too long.
    """
    limits = {"max_pixels": max_pixels, "max_decoded_pixels": max_decoded_pixels}
    while not _ONE_AT_A_TIME.acquire(timeout=1):
        pass  # so that a time limit interrupts the wait, and not the work after it
    try:
        if format_of(source) in SANDBOXED:
            return _render_in_child(source, recipe, limits)
        return images.render(source, recipe, **limits)
    finally:
        _ONE_AT_A_TIME.release()


def _render_in_child(source: bytes, recipe: Recipe, limits: dict[str, int]) -> dict[str, bytes]:
    rlimits = {"DATA": MAX_DECODER_BYTES, "CPU": CPU_SECONDS, "CORE": 0}
    request = {"rlimits": rlimits, "recipe": recipe.encode(), "limits": limits}
    try:
        child = subprocess.run(  # noqa: S603 - this interpreter and this module
            [sys.executable, *CHILD],
            input=json.dumps(request).encode() + b"\n" + source,
            capture_output=True,  # libtiff prints much about broken images
            env={"PYTHONPATH": str(Path(__file__).parents[2])},
            start_new_session=True,  # Ctrl-C stops the worker only, which finishes its images
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RetryableError("time_limit", f"Decoding the image took more than {TIMEOUT} seconds.") from error
    if child.returncode < 0:
        raise _ended_by(signal.Signals(-child.returncode), str(format_of(source)))
    if child.returncode > 0:
        raise RuntimeError(f"the child process failed: {child.stderr.decode(errors='replace')[-2000:]}")
    head, _, body = child.stdout.partition(b"\n")
    return _renditions(json.loads(head), body)


def _ended_by(cause: signal.Signals, name: str) -> PipelineError:
    if cause == signal.SIGXCPU:
        return PermanentError("too_large", f"Decoding the {name} image takes more than {CPU_SECONDS} seconds.")
    if cause in (signal.SIGKILL, signal.SIGTERM):  # most likely by the system, for lack of memory
        return RetryableError("out_of_memory", "There was not enough memory to process the image.")
    return PermanentError("broken_image", f"The {name} image is broken: its decoder crashed with {cause.name}.")


def _renditions(answer: dict[str, Any], body: bytes) -> dict[str, bytes]:
    if "error" in answer:
        code, message = answer["error"]
        if code == "out_of_memory":  # the child's limit, not the machine's, so a retry cannot help
            megabytes = MAX_DECODER_BYTES // 1_000_000
            raise PermanentError("too_large", f"Decoding the image takes more than {megabytes} MB of memory.")
        raise PermanentError(code, message)
    renditions, start = {}, 0
    for name, size in answer["sizes"].items():
        renditions[name] = body[start : start + size]
        start += size
    return renditions


def main(stdin: BinaryIO, stdout: BinaryIO) -> None:
    """Render one image: the work of the child process."""
    request = json.loads(stdin.readline())
    for name, limit in request["rlimits"].items():
        kind = getattr(resource, f"RLIMIT_{name}")  # DATA limits allocations, without the code of libraries
        with contextlib.suppress(ValueError, OSError):  # a lower limit is set already
            resource.setrlimit(kind, (limit, resource.getrlimit(kind)[1]))
    recipe, source = Recipe.decode(request["recipe"]), stdin.read()
    renditions: dict[str, bytes] = {}
    try:
        renditions = images.render(source, recipe, **request["limits"])
        answer: dict[str, Any] = {"sizes": {name: len(data) for name, data in renditions.items()}}
    except PipelineError as error:
        answer = {"error": [error.code, error.message]}
    stdout.write(json.dumps(answer).encode() + b"\n" + b"".join(renditions.values()))


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
