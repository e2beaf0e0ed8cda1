"""Rendering in a sandbox: every image is decoded and encoded in a child process that has no rights.

A decoder that an image takes over, crashes or blocks must not cost more than that image. The child has no environment
and thus no credentials. The kernel refuses it files, sockets, processes and the memory of others (seccomp.py), and
limits its memory and its CPU time. The worker sends bytes and receives renditions, and trusts no answer.

The child lives long, because starting it takes 0.2 s of CPU. It is replaced after `IMAGES_PER_CHILD` images and
whenever it ends. An image that ends its child is tried once more in a new one, because an earlier image may have
damaged the first; then it is refused.

Each process renders one image at a time, while its other threads wait for S3 and SQS. Two images at once would compete
for the caches of one core and need the memory of two.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple, cast

from pipeline.errors import CODES, Code, Fault, PermanentError, PipelineError, RetryableError
from pipeline.images.child_process import KEPT, ChildProcess, Ended, Malformed, Overdue
from pipeline.images.details.facts import SourceFacts, facts_from
from pipeline.images.identify import format_of
from pipeline.images.limits import CPU_SECONDS, MAX_DECODER_BYTES
from pipeline.recipe import Recipe
from pipeline.text import signal_name

logger = logging.getLogger(__name__)

#: Arguments of the interpreter: no module from the current folder, and no warnings of Pillow.
CHILD: tuple[str, ...] = ("-P", "-W", "ignore", "-m", "pipeline.images.sandbox_child")
#: Seconds for an image that may have to wait for a CPU.
TIMEOUT: Final = 30
#: Seconds for a child to start on a busy machine.
START_TIMEOUT: Final = 60
#: Images after which a child is replaced, so that nothing that one of them leaves behind lasts. At 2,000, starting
#: children costs 0.1 ms of CPU for each image.
IMAGES_PER_CHILD: Final = 2_000
#: Bytes of a rendition in addition to four for each pixel: the container of its format.
_CONTAINER_BYTES: Final = 65_536

#: Codes that a child may answer with.
_CODES: Final = {code for code, facts in CODES.items() if facts.fault is Fault.SOURCE and "resize" in facts.stages}


class _Crashed(PermanentError):
    """The image ended its child, or blocked it, or took it over. It is refused if this happens twice."""


def render(source: bytes, recipe: Recipe, *, max_pixels: int, max_decoded_pixels: int) -> dict[str, bytes]:
    """Render an image like `images.render`, but in the sandbox, and one at a time in each process.

    Args:
        source: the bytes of the image.
        recipe: the renditions to make.
        max_pixels: as in `images.render`.
        max_decoded_pixels: as in `images.render`.

    Returns:
        The encoded renditions by name.

    Raises:
        PermanentError: as in `images.render`; `broken_image` or `too_large` if the image ends its decoder.
        RetryableError: `out_of_memory` if this host has too little.
    """
    return _render(source, recipe, {"max_pixels": max_pixels, "max_decoded_pixels": max_decoded_pixels}).renditions


def render_with_facts(
    source: bytes, recipe: Recipe, *, max_pixels: int, max_decoded_pixels: int
) -> tuple[dict[str, bytes], SourceFacts]:
    """Render an image like `render`, and return its facts too. Arguments and errors are the same."""
    limits = {"max_pixels": max_pixels, "max_decoded_pixels": max_decoded_pixels}
    rendered = _render(source, recipe, limits, facts=True)
    assert rendered.facts  # noqa: S101 - they were asked for, and an answer without them is malformed
    return rendered.renditions, rendered.facts


class _Rendered(NamedTuple):
    """The usable part of an answer."""

    renditions: dict[str, bytes]
    facts: SourceFacts | None = None


def _render(source: bytes, recipe: Recipe, limits: Mapping[str, int], *, facts: bool = False) -> _Rendered:
    request = {"recipe": recipe.encode(), "limits": limits, "cpu_seconds": CPU_SECONDS}
    if facts:
        request["facts"] = True
    try:  # around the wait too, because a time limit may strike right after the lock was acquired
        while not _ONE_AT_A_TIME.acquire(timeout=1):
            pass  # so that a time limit interrupts the wait, and not the work after it
        try:
            return _SANDBOX.render(request, source, recipe)
        except _Crashed as error:
            logger.warning("A decoder ended: %s The image is tried once more.", error.message)
            return _SANDBOX.render(request, source, recipe)
    finally:
        with suppress(RuntimeError):  # this thread did not get the lock
            _ONE_AT_A_TIME.release()


def why_unfiltered() -> str:
    """Start a child and return why the kernel does not filter its system calls; an empty string if it does.

    Raises:
        RuntimeError: the child does not start.
    """
    sandbox = _Sandbox()
    try:
        return sandbox.start()
    finally:
        sandbox.close()


class _Sandbox:
    """The child of this process, started when it is first needed."""

    def __init__(self) -> None:
        self._child: ChildProcess | None = None
        self._memory = 0  # bytes of address space before the first image

    def start(self) -> str:
        """Start the child. The result and the error are those of `why_unfiltered`."""
        self._child = ChildProcess(CHILD)
        try:
            head, _ = self._child.receive(most=0, deadline=time.monotonic() + START_TIMEOUT)
        except (Ended, Overdue, Malformed) as error:
            self.close()
            raise RuntimeError(f"the sandbox did not start: {error!r}") from error
        answer = json.loads(head)  # no image has been near this child
        self._memory = answer["address_space"]
        return str(answer["unfiltered"])

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child:
            child.kill()

    def render(self, request: Mapping[str, Any], source: bytes, recipe: Recipe) -> _Rendered:
        """Render an image, or raise `_Crashed` or the errors of the module's `render`."""
        if self._child is None and (reason := self.start()):
            _warn_once(reason)
        try:
            rendered = self._exchange(request, source, recipe)
        except (Ended, Overdue, Malformed) as error:
            self.close()
            raise _judged(error, format_of(source) or "unknown") from error
        except PipelineError:
            raise
        except BaseException:  # the time limit of the actor: the child's answer would be read as the next one's
            self.close()
            raise
        return rendered

    def _exchange(self, request: Mapping[str, Any], source: bytes, recipe: Recipe) -> _Rendered:
        assert self._child  # noqa: S101 - it has been started
        child, sizes = self._child, recipe.renditions
        child.limit_memory(self._memory + KEPT + MAX_DECODER_BYTES + 3 * len(source))
        most = sum(4 * each.width * each.height + _CONTAINER_BYTES for each in sizes)
        head, body = child.exchange(json.dumps(request).encode(), source, most=most, seconds=TIMEOUT)
        if child.answered > IMAGES_PER_CHILD:  # its first answer was that it is ready
            self.close()
        answer = _parsed(head)
        renditions = _renditions(answer, body, [each.name for each in sizes])
        return _Rendered(renditions, _facts(answer, source) if "facts" in request else None)


_SANDBOX: Final = _Sandbox()
_ONE_AT_A_TIME: Final = threading.RLock()  # knows its thread, which alone may release it
_warned: Final = threading.Event()
atexit.register(_SANDBOX.close)  # the kernel does it too; this leaves no zombie


def _warn_once(reason: str) -> None:
    if not _warned.is_set():
        _warned.set()
        logger.warning("Images are decoded without a filter of system calls: %s. Limits of resources remain.", reason)


def _judged(error: Ended | Overdue | Malformed, name: str) -> PipelineError:
    """Return the error of an image whose child gave no usable answer."""
    if isinstance(error, Overdue):
        return _Crashed("too_large", f"Decoding the {name} image takes more than {TIMEOUT} seconds.")
    if isinstance(error, Malformed):
        return _Crashed("broken_image", f"The {name} image is broken: its decoder gave an unusable answer.")
    if error.status == -signal.SIGPROF:
        return PermanentError("too_large", f"Decoding the {name} image takes more than {CPU_SECONDS} seconds of CPU.")
    if error.status == -signal.SIGKILL:  # most likely by the system, for lack of memory
        return RetryableError("out_of_memory", "There was not enough memory to process the image.")
    cause = signal_name(-error.status) if error.status < 0 else f"exit status {error.status}"
    return _Crashed("broken_image", f"The {name} image is broken: its decoder crashed with {cause}.")


def _parsed(head: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(head)
    except (ValueError, RecursionError) as error:
        raise Malformed("the answer is not JSON") from error
    if not isinstance(answer, dict):
        raise Malformed("the answer is not an object")
    return answer


def _renditions(answer: dict[str, Any], body: bytes, names: list[str]) -> dict[str, bytes]:
    """Return the renditions of an answer, or raise its error.

    Raises:
        Malformed: the answer is neither.
    """
    if "error" in answer:
        raise _answered_error(answer["error"])
    lengths = answer.get("lengths")
    if not isinstance(lengths, list) or len(lengths) != len(names):
        raise Malformed("the answer has not one length for each rendition")
    if not all(type(length) is int and length >= 0 for length in lengths) or sum(lengths) != len(body):
        raise Malformed("the lengths are not those of the renditions")
    renditions, start = {}, 0
    for name, length in zip(names, lengths, strict=True):
        renditions[name] = body[start : start + length]
        start += length
    return renditions


def _facts(answer: dict[str, Any], source: bytes) -> SourceFacts:
    """Return the facts in an answer. The size and the hash of the source are not left to the child.

    Raises:
        Malformed: they have another form.
    """
    sha256 = hashlib.sha256(source).hexdigest()
    try:
        return facts_from(answer.get("facts"), size=len(source), sha256=sha256)
    except ValueError as error:
        raise Malformed("the answer has unusable facts") from error


def _answered_error(answer: Any) -> PermanentError:
    match answer:
        case ["out_of_memory", str()]:  # the child's limit, not the machine's, so a retry cannot help
            megabytes = MAX_DECODER_BYTES // 1_000_000
            return PermanentError("too_large", f"Decoding the image takes more than {megabytes} MB of memory.")
        case [str(code), str(message)] if code in _CODES:
            return PermanentError(cast("Code", code), "".join(filter(str.isprintable, message[:300])))
    raise Malformed("the answer has an unknown error")
