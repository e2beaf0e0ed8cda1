"""A child process with limits of memory and time. Linux only, because it reads /proc.

The limit applies to resident memory, of which a machine has a limited amount. The parent checks the child every 20 ms
and kills it above the limit. Shorter peaks count too, because the kernel records them until they are reset. The
kernel's own limit (RLIMIT_AS) would count addresses that were never written to, and libraries would turn a violation
into errors of their own.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.errors import PipelineError
from tests.corpus import examine

MIB: Final = 1 << 20

#: A child that keeps more memory than this, in bytes, is replaced. Otherwise the next source would be charged for it.
_GROWTH: Final = 32 * MIB

_CONTEXT: Final = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])

Work = Callable[[bytes], Mapping[str, bytes]]


class Kind(StrEnum):
    """How the rendering of a source ended."""

    OK = "ok"
    REFUSED = "refused"  #: an error with a code
    WRONG = "wrong rendition"
    UNTYPED = "untyped error"
    CRASH = "crash"
    HANG = "hang"
    MEMORY = "over memory"

    @property
    def is_good(self) -> bool:
        """Whether this is acceptable for an untrusted file."""
        return self in (Kind.OK, Kind.REFUSED)


class ChildResult(NamedTuple):
    """The result of rendering a source."""

    kind: Kind
    detail: str  #: the renditions' format, the error's code, the signal, …
    seconds: float  #: CPU time; if the child died, the wall-clock time since it got the source
    peak: int  #: maximum resident memory in bytes; if the child died, the last value seen


@dataclass(frozen=True)
class Limits:
    """The limits of a source: a resize worker's memory, and a time that only a hang exceeds."""

    memory: int = 1024 * MIB
    seconds: float = 60.0


@dataclass
class Child:
    """A process that renders sources one after another. It is replaced when it has died or grown."""

    limits: Limits = field(default_factory=Limits)
    work: Work = examine.rendered
    _process: multiprocessing.process.BaseProcess | None = None
    _pipe: Connection | None = None

    def render(self, source: bytes) -> ChildResult:
        """Render a source and return the result. Never raises because of the child."""
        pipe, pid = self._begin()
        started = time.monotonic()
        peak = 0
        with suppress(BrokenPipeError, ConnectionResetError):
            pipe.send_bytes(source)
        while not pipe.poll(0.02):
            seconds = time.monotonic() - started
            peak = max(peak, _resident(pid))
            if peak > self.limits.memory:
                self.close()
                return ChildResult(Kind.MEMORY, "killed", seconds, peak)
            if seconds > self.limits.seconds:
                self.close()
                return ChildResult(Kind.HANG, f"over {self.limits.seconds:g} s", seconds, peak)
        outcome: ChildResult
        try:
            outcome, is_used_up = pipe.recv()
            outcome = outcome._replace(peak=max(outcome.peak, peak))
        except (EOFError, ConnectionResetError):
            return ChildResult(Kind.CRASH, self._death(), time.monotonic() - started, peak)
        if is_used_up:
            self.close()
        return outcome._replace(kind=Kind.MEMORY) if outcome.peak > self.limits.memory else outcome

    def close(self) -> None:
        """End the process."""
        if self._process and self._pipe:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = self._pipe = None

    def _begin(self) -> tuple[Connection, int]:
        if not (self._process and self._pipe):
            self._pipe, other_end = _CONTEXT.Pipe()
            self._process = _CONTEXT.Process(target=_serve, args=(other_end, self.work), daemon=True)
            self._process.start()
            other_end.close()
        assert self._process.pid
        return self._pipe, self._process.pid

    def _death(self) -> str:
        assert self._process
        self._process.join()
        code = self._process.exitcode or 0
        self.close()
        return signal.Signals(-code).name if code < 0 else f"exit {code}"


def _serve(pipe: Connection, work: Work) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # C libraries write warnings there
    before = _resident(os.getpid())
    while True:
        try:
            source = pipe.recv_bytes()
        except EOFError:
            return
        outcome = _outcome(source, work)
        pipe.send((outcome, _resident(os.getpid()) - before > _GROWTH))


def _outcome(source: bytes, work: Work) -> ChildResult:
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak: proc(5)
    began = time.process_time()
    made: Mapping[str, bytes] = {}
    try:
        made = work(source)
        kind, detail = Kind.OK, ""
    except PipelineError as error:
        kind, detail = (Kind.MEMORY if error.code == "out_of_memory" else Kind.REFUSED), error.code
    except BaseException as error:
        kind, detail = Kind.UNTYPED, f"{type(error).__name__}: {error}"[:200]
    outcome = ChildResult(kind, detail, time.process_time() - began, _peak())
    if kind is not Kind.OK:
        return outcome
    try:
        return outcome._replace(detail=examine.check(made))
    except Exception as error:
        return outcome._replace(kind=Kind.WRONG, detail=f"{type(error).__name__}: {error}"[:200])


def _resident(pid: int) -> int:
    """Return a process's resident memory in bytes; 0 once it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def _peak() -> int:
    """Return this process's peak of resident memory in bytes, since the last reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
