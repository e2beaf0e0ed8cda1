"""A child process with a limit of memory and of time. Linux only: it reads /proc.

The limit is of resident memory, which is what a machine runs out of. The parent looks every 20 ms and kills the child
that is above it; a peak between two looks counts as well, for the kernel remembers it, and forgets when told to. The
kernel's own limit (RLIMIT_AS) would count addresses that nothing was ever written to, and would turn going over it
into some library's idea of an error. What the child starts in its turn counts as part of it.
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

#: A child that has kept more than this, in bytes, of what it once allocated is replaced: it would pass for the next
#: source's.
_GROWTH: Final = 32 * MIB

_CONTEXT: Final = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])

Work = Callable[[bytes], Mapping[str, bytes]]


class Kind(StrEnum):
    """How the rendering of a source ended."""

    OK = "ok"
    REFUSED = "refused"  #: with an error that has a code
    WRONG = "wrong rendition"
    UNTYPED = "untyped error"
    CRASH = "crash"
    HANG = "hang"
    MEMORY = "over memory"

    @property
    def is_good(self) -> bool:
        """Whether this may happen to a stranger's file."""
        return self in (Kind.OK, Kind.REFUSED)


class ChildResult(NamedTuple):
    """What came of a source."""

    kind: Kind
    detail: str  #: the renditions' format, the error's code, the signal, …
    seconds: float  #: of CPU; of a child that was killed or died, since it was given the source
    peak: int  #: bytes of resident memory, at most; of a child that died, what was seen last


@dataclass(frozen=True)
class Limits:
    """What a source may take: a resize worker's memory, and a time that only a hang takes."""

    memory: int = 1024 * MIB
    seconds: float = 60.0


@dataclass
class Child:
    """A process that renders source after source; a new one takes its place when it died or grew."""

    limits: Limits = field(default_factory=Limits)
    work: Work = examine.rendered
    _process: multiprocessing.process.BaseProcess | None = None
    _pipe: Connection | None = None

    def render(self, source: bytes) -> ChildResult:
        """What comes of a source; never raises for anything that happens in the child."""
        pipe, pid = self._begin()
        started = time.monotonic()
        peak = 0
        with suppress(BrokenPipeError, ConnectionResetError):
            pipe.send_bytes(source)
        while not pipe.poll(0.02):
            seconds = time.monotonic() - started
            peak = max(peak, sum(map(_resident, [pid, *_started_by(pid)])))
            if peak > self.limits.memory:
                self.close()
                return ChildResult(Kind.MEMORY, "killed", seconds, peak)
            if seconds > self.limits.seconds:
                self.close()
                return ChildResult(Kind.HANG, f"over {self.limits.seconds:g} s", seconds, peak)
        outcome: ChildResult
        try:
            outcome, is_used_up = pipe.recv()
        except (EOFError, ConnectionResetError):
            return ChildResult(Kind.CRASH, self._death(), time.monotonic() - started, peak)
        if is_used_up:
            self.close()
        return outcome._replace(kind=Kind.MEMORY) if outcome.peak > self.limits.memory else outcome

    def close(self) -> None:
        """End the process."""
        if self._process and self._pipe:
            for pid in _started_by(self._process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
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
        # The kernel forgets no peak of a process that has ended, so whoever started one is of no more use.
        is_used_up = _resident(os.getpid()) - before > _GROWTH or _started().ru_maxrss > 0
        pipe.send((outcome, is_used_up))


def _outcome(source: bytes, work: Work) -> ChildResult:
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak: proc(5)
    begun = time.process_time()
    made: Mapping[str, bytes] = {}
    try:
        made = work(source)
        kind, detail = Kind.OK, ""
    except PipelineError as error:
        kind, detail = (Kind.MEMORY if error.code == "out_of_memory" else Kind.REFUSED), error.code
    except BaseException as error:
        kind, detail = Kind.UNTYPED, f"{type(error).__name__}: {error}"[:200]
    seconds = time.process_time() - begun + _started().ru_utime + _started().ru_stime
    outcome = ChildResult(kind, detail, seconds, _peak() + _started().ru_maxrss * 1024)
    if kind is not Kind.OK:
        return outcome
    try:
        return outcome._replace(detail=examine.check(made))
    except Exception as error:
        return outcome._replace(kind=Kind.WRONG, detail=f"{type(error).__name__}: {error}"[:200])


def _started() -> resource.struct_rusage:
    """What the processes have taken that this one started."""
    return resource.getrusage(resource.RUSAGE_CHILDREN)


def _started_by(pid: int | None) -> list[int]:
    """The processes that this one has started, and that still run."""
    try:
        tasks = [children.read_text() for children in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [int(child) for child in " ".join(tasks).split()]


def _resident(pid: int) -> int:
    """Bytes of memory that a process holds now; 0 once it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def _peak() -> int:
    """Bytes of memory that this process has held at most, since it last forgot."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
