"""Rendering with the risk taken out: what no header tells about is decoded in a child with limits of its own.

A JPEG, PNG, GIF or WebP takes what its header says. An AVIF may hold a picture a thousand times the size that its
container claims, and a TIFF almost anything; a BMP may be coded in runs, which Pillow decodes in Python for seconds. So
their decoders run in a process of their own: it may run out of memory or time, or crash, and takes no worker with it.
It has none of our environment, so no credentials. Starting it takes 0.1 s of CPU: too much for every cover, and next to
nothing on average, for hardly any cover is of these formats.

A process renders one image at a time, itself or in a child: the other threads wait for S3 and SQS meanwhile. Two at a
time on one core would only push each other out of its caches, and take the memory of two.

    python -m pipeline.images.sandbox    the child: a line of JSON and the source in, another and the renditions out
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

#: What the interpreter is told; Pillow's warnings are for nobody.
CHILD: Final = ("-W", "ignore", "-m", "pipeline.images.sandbox")
#: Formats that are rendered in a child.
SANDBOXED: Final = {"AVIF", "TIFF", "BMP"}
#: CPU time of a child, in seconds; the largest AVIF that is accepted takes 1.5, the slowest BMP 5.
CPU_SECONDS: Final = 15
#: For a child that waits for a CPU, in seconds; so that what four threads hold, two images each, takes less than the
#: stage's time limit, one after the other.
TIMEOUT: Final = 30

_ONE_AT_A_TIME: Final = threading.Lock()


def render(source: bytes, recipe: Recipe, *, max_pixels: int, max_decoded_pixels: int) -> dict[str, bytes]:
    """As `images.render`, and raises the same; also RetryableError `time_limit`. One at a time in each process."""
    how = {"max_pixels": max_pixels, "max_decoded_pixels": max_decoded_pixels}
    while not _ONE_AT_A_TIME.acquire(timeout=1):
        pass  # so that a time limit strikes here, and not as soon as the lock is held
    try:
        if format_of(source) in SANDBOXED:
            return _render_in_child(source, recipe, how)
        return images.render(source, recipe, **how)
    finally:
        _ONE_AT_A_TIME.release()


def _render_in_child(source: bytes, recipe: Recipe, how: dict[str, int]) -> dict[str, bytes]:
    limits = {"DATA": MAX_DECODER_BYTES, "CPU": CPU_SECONDS, "CORE": 0}
    order = {"limits": limits, "recipe": recipe.encode(), "how": how}
    try:
        child = subprocess.run(  # noqa: S603 - our own interpreter and module
            [sys.executable, *CHILD],
            input=json.dumps(order).encode() + b"\n" + source,
            capture_output=True,  # libtiff has much to say about what is broken
            env={"PYTHONPATH": str(Path(__file__).parents[2])},
            start_new_session=True,  # a Ctrl-C is for the worker, which finishes what it has
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RetryableError("time_limit", f"Decoding the image did not end within {TIMEOUT} seconds.") from error
    if child.returncode < 0:
        raise _ended_by(signal.Signals(-child.returncode), str(format_of(source)))
    if child.returncode > 0:
        raise RuntimeError(f"the child failed: {child.stderr.decode(errors='replace')[-2000:]}")
    head, _, body = child.stdout.partition(b"\n")
    return _renditions(json.loads(head), body)


def _ended_by(cause: signal.Signals, name: str) -> PipelineError:
    if cause == signal.SIGXCPU:
        return PermanentError("too_large", f"Decoding the {name} image takes more than {CPU_SECONDS} seconds.")
    if cause in (signal.SIGKILL, signal.SIGTERM):  # by the system, most likely: it is short of memory
        return RetryableError("out_of_memory", "There was not enough memory to process the image.")
    return PermanentError("broken_image", f"The {name} image is broken: its decoder ends with {cause.name}.")


def _renditions(answer: dict[str, Any], body: bytes) -> dict[str, bytes]:
    if "error" in answer:
        code, message = answer["error"]
        if code == "out_of_memory":  # the limit's, not the machine's: another attempt would end the same
            megabytes = MAX_DECODER_BYTES // 1_000_000
            raise PermanentError("too_large", f"Decoding the image takes more than {megabytes} MB of memory.")
        raise PermanentError(code, message)
    renditions, start = {}, 0
    for name, size in answer["sizes"].items():
        renditions[name] = body[start : start + size]
        start += size
    return renditions


def main(asked: BinaryIO, answered: BinaryIO) -> None:
    """What the child does."""
    order = json.loads(asked.readline())
    for name, limit in order["limits"].items():
        what = getattr(resource, f"RLIMIT_{name}")  # DATA is what is allocated, without the libraries' code
        with contextlib.suppress(ValueError, OSError):  # it is lower already
            resource.setrlimit(what, (limit, resource.getrlimit(what)[1]))
    recipe, source = Recipe.decode(order["recipe"]), asked.read()
    made: dict[str, bytes] = {}
    try:
        made = images.render(source, recipe, **order["how"])
        answer: dict[str, Any] = {"sizes": {name: len(data) for name, data in made.items()}}
    except PipelineError as error:
        answer = {"error": [error.code, error.message]}
    answered.write(json.dumps(answer).encode() + b"\n" + b"".join(made.values()))


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
