"""A child process that answers requests over two pipes, and that is not trusted.

Sources are handed over in a file in memory. In a pipe, the processes would take turns for each of its buffers, which
costs 0.7 ms of CPU for 2 MB.

Every wait has a deadline, every length in an answer is checked before memory is allocated for it, and nothing in an
answer is executed. The child ends with this process, and does not see its environment or its descriptors.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Final

#: The beginning of a request and of an answer: the lengths of its JSON and of its bytes. Those of an answer follow the
#: JSON, those of a request are in the file.
FRAME: Final = struct.Struct(">II")

#: Maximum bytes of an answer's JSON.
MAX_HEAD: Final = 65_536

#: Bytes in flight in each pipe. With the default of 64 KiB, an answer would switch between the processes several times.
_PIPE_BYTES: Final = 1_048_576

#: Free bytes of memory that a child keeps for its next image. A cover of 3000 x 3000 frees less than this.
KEPT: Final = 128 * 2**20

#: The environment of a child. numpy starts no threads. Freed blocks serve the next image: by default glibc returns
#: large ones to the system, which clears each page again, for 8 to 11 ms of CPU a cover.
#: https://man7.org/linux/man-pages/man3/mallopt.3.html
ENVIRONMENT: Final = {
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(KEPT),
}

#: Bytes of memory that the file keeps between requests, so that they need not be cleared again.
_KEPT_BYTES: Final = 8_388_608

#: Seconds until a child that has closed its pipe is ended.
_GRACE: Final = 5

#: Starts all children. They end with the thread that started them (seccomp.py), so this thread must last.
_STARTER: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sandbox")


class Ended(Exception):
    """The child ended without an answer.

    Attributes:
        status: its exit status, or the negative number of the signal that ended it.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Overdue(Exception):
    """The child gave no answer in time."""


class Malformed(Exception):
    """The child's answer is unusable."""


class ChildProcess:
    """A running child.

    Args:
        arguments: of the Python interpreter. The descriptor of the file and the number of this process are appended.
    """

    def __init__(self, arguments: tuple[str, ...]) -> None:
        self._file = _memory_file()
        self._process = _STARTER.submit(_start, arguments, self._file.fileno()).result()
        assert self._process.stdin  # noqa: S101 - it is a pipe
        assert self._process.stdout  # noqa: S101
        self._requests, self._answers = self._process.stdin.fileno(), self._process.stdout.fileno()
        for pipe in (self._requests, self._answers):
            os.set_blocking(pipe, False)
            with contextlib.suppress(OSError, AttributeError):  # the user may have reached a limit of the system
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self.answered = 0  #: requests so far

    @property
    def pid(self) -> int:
        return self._process.pid

    def limit_memory(self, limit: int) -> None:
        """Limit the address space in bytes. The child itself cannot change the limit."""
        with contextlib.suppress(OSError, AttributeError, ValueError):  # not Linux, or a lower limit is set already
            hard = resource.prlimit(self.pid, resource.RLIMIT_AS)[1]
            resource.prlimit(self.pid, resource.RLIMIT_AS, (limit, hard))

    def exchange(self, head: bytes, source: bytes, *, most: int, seconds: float) -> tuple[bytes, bytes]:
        """Send a request and return the two parts of the answer.

        Args:
            head: JSON.
            source: any bytes.
            most: maximum bytes of the answer's second part.
            seconds: until the answer must be complete.

        Raises:
            Ended: the child ended.
            Overdue: the time is over.
            Malformed: the answer is too long.
        """
        deadline = time.monotonic() + seconds
        self._hand_over(source)
        try:
            self._send(FRAME.pack(len(head), len(source)) + head, deadline)
            return self.receive(most=most, deadline=deadline)
        except BrokenPipeError:
            raise Ended(self._status()) from None
        finally:
            if len(source) > _KEPT_BYTES:
                self._file.truncate(0)

    def receive(self, *, most: int, deadline: float) -> tuple[bytes, bytes]:
        """Return the two parts of an answer. The arguments and errors are those of `exchange`."""
        lengths = FRAME.unpack(self._read(FRAME.size, deadline))
        if lengths[0] > MAX_HEAD or lengths[1] > most:
            raise Malformed(f"the answer has {lengths[0]} and {lengths[1]} bytes")
        head, body = (self._read(length, deadline) for length in lengths)
        self.answered += 1
        return head, body

    def kill(self) -> None:
        """End the child, and close the pipes and the file."""
        self._process.kill()
        self._process.wait()
        self._file.close()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]

    def _hand_over(self, source: bytes) -> None:
        written = 0
        while written < len(source):
            written += os.pwrite(self._file.fileno(), memoryview(source)[written:], written)

    def _send(self, data: bytes, deadline: float) -> None:
        rest = memoryview(data)
        while rest:
            _wait(self._requests, select.POLLOUT, deadline)
            with contextlib.suppress(BlockingIOError):
                rest = rest[os.write(self._requests, rest) :]

    def _read(self, length: int, deadline: float) -> bytes:
        data = bytearray(length)
        rest = memoryview(data)
        while rest:
            _wait(self._answers, select.POLLIN, deadline)
            with contextlib.suppress(BlockingIOError):
                count = os.readv(self._answers, [rest])
                if not count:
                    raise Ended(self._status())
                rest = rest[count:]
        return bytes(data)

    def _status(self) -> int:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(_GRACE)
        self._process.kill()  # it has closed its pipe, but runs
        self._process.wait()
        return 0


def _memory_file() -> FileIO:
    """Create a file without a name: in memory, or a temporary one where the system has none or refuses it."""
    with contextlib.suppress(AttributeError, OSError):
        return FileIO(os.memfd_create("source"), "w")
    with tempfile.TemporaryFile() as file:
        return FileIO(os.dup(file.fileno()), "w")


def _start(arguments: tuple[str, ...], file: int) -> subprocess.Popen[bytes]:
    # Signals to the whole process group stop the worker, which finishes its images. The child never gets them.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGINT, signal.SIGTERM})
    root = Path(__file__).parents[2]
    return subprocess.Popen(  # noqa: S603 - this interpreter and our module
        [sys.executable, *arguments, str(file), str(os.getpid())],
        bufsize=0,
        pass_fds=(file,),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**ENVIRONMENT, "PYTHONPATH": str(root)},
    )


def _wait(pipe: int, event: int, deadline: float) -> None:
    """Wait until a pipe can be used, in steps of a second, so that the time limit of an actor interrupts the wait.

    Raises:
        Overdue: the time is over.
    """
    poll = select.poll()
    poll.register(pipe, event)
    while not poll.poll(min(1.0, max(0.0, deadline - time.monotonic())) * 1000):
        if time.monotonic() >= deadline:
            raise Overdue
