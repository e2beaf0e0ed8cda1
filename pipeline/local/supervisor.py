"""Child processes that never outlive this one, and a supervisor that runs a Procfile's.

Each child leads a session and a process group of its own. When this process ends, by `kill -9` even, a small *guardian*
ends what is left: it holds the reading end of a pipe whose writing end only this process keeps, so the end of the file
tells it. Groups are registered in that pipe by the children themselves, before they turn into their program, so that
no moment exists in which one runs unguarded.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, NamedTuple

from honcho.environ import expand_processes, parse_procfile

from pipeline.backoff import Backoff

#: How long a process may take to end by itself after SIGTERM, in seconds.
STOP_TIMEOUT = 10.0

#: Seconds before a died process is started again: doubled at each death, and the first again once it ran steadily.
#: The longest is short, for a message that kills its workers is given up only after five of them.
FIRST_DELAY, LONGEST_DELAY, STEADY = 0.5, 5.0, 30.0


class Child:
    """A program that runs as the leader of a process group of its own, and ends when this process does.

    Args:
        command: one command in shell syntax; assignments such as `LEVEL=INFO` may precede it.
        output: where its output and errors go: a file, or `subprocess.PIPE` to read them from the attribute `output`.
        pass_fds: file descriptors that it inherits.
    """

    def __init__(
        self,
        command: str,
        *,
        environ: Mapping[str, str],
        cwd: Path,
        output: int | IO[bytes],
        pass_fds: Iterable[int] = (),
    ) -> None:
        # `exec env` makes the program take the shell's place, assignments or not, so that signals reach it.
        self._popen = subprocess.Popen(  # noqa: S603
            ["/bin/sh", "-c", f'echo "$$" >&0; exec </dev/null env {command}'],
            stdin=_guardian().stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environ),
            cwd=cwd,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
            encoding="utf-8",
            errors="replace",
        )
        self.pid = self._popen.pid
        self.output: IO[str] | None = self._popen.stdout

    def ended(self) -> bool:
        """Whether it has ended."""
        return self._popen.poll() is not None

    def terminate(self) -> None:
        """Ask the program to end. Only the program: dramatiq hands the signal on to its workers itself."""
        self._popen.terminate()

    def kill(self) -> None:
        """End the whole group at once."""
        if not self.ended():
            _kill_group(self.pid)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, end what it left running in its group, and return its status as `Popen.wait` does.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        status = self._popen.wait(timeout)
        _kill_group(self.pid)
        with suppress(BrokenPipeError):
            os.write(_guardian_pipe(), f"-{self.pid}\n".encode())
        return status

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Ask it to end, and end it after `timeout` seconds."""
        self.terminate()
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            self.wait()


class _Program(NamedTuple):
    command: str
    environ: Mapping[str, str]
    cwd: Path


class _Process:
    """One process of the supervisor: a thread that runs the program again and again until it is told to stop."""

    def __init__(self, name: str, program: _Program, on_line: Callable[[str, str], None]) -> None:
        self._name = name
        self._program = program
        self._on_line = on_line
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._child: Child | None = None
        self._thread: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        child = self._child
        return child.pid if child and not child.ended() else None

    def start(self) -> None:
        if self._thread and self._thread.is_alive():
            return
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name=f"supervise {self._name}", daemon=True)
        self._thread.start()

    def ask_to_stop(self) -> None:
        with self._lock:
            self._stopping.set()
            if self._child:
                self._child.terminate()

    def finish(self, timeout: float) -> None:
        """After `ask_to_stop`: wait for the end, and bring it about after `timeout` seconds."""
        if self._thread:
            self._thread.join(timeout)
            if self._thread.is_alive() and self._child:
                self._child.kill()
            self._thread.join()

    def _run(self) -> None:
        backoff = Backoff(FIRST_DELAY, LONGEST_DELAY)
        while True:
            started = time.monotonic()
            with self._lock:
                if self._stopping.is_set():
                    return
                child = self._child = Child(**self._program._asdict(), output=subprocess.PIPE)
            reader = threading.Thread(target=self._read, args=[child.output], daemon=True)
            reader.start()
            status = child.wait()
            reader.join(1)  # a process that left the group may hold the pipe open
            if time.monotonic() - started >= STEADY:
                backoff.reset()
            delay = backoff.next()
            if not self._stopping.is_set():
                self._on_line(self._name, f"{_ending(status)}; it starts again in {delay:g} s")
            if self._stopping.wait(delay):
                return

    def _read(self, output: IO[str]) -> None:
        with output:
            for line in output:
                self._on_line(self._name, line.rstrip("\n"))


class Supervisor:
    """Runs the processes of a Procfile, and starts again those that die.

    Processes are named as honcho names them: `fetch.1`, `resize.1`, `resize.2`.

    Args:
        procfile: each of its lines is one command, which assignments may precede. It runs in the Procfile's folder,
            with the commands that were installed beside this Python first in its PATH.
        on_line: called as `on_line(name, text)`, from several threads, with each line that a process prints and with a
            line when one died. It must not raise.
        environ: the environment of the processes, by default that of this one.
        concurrency: how many of a process type to run, where that is not one: `{"resize": 2, "ingest": 0}`.
        beside: commands that are run beside the Procfile's, by their process types.

    Raises:
        ValueError: `concurrency` names a process type that the Procfile has not.
    """

    def __init__(
        self,
        procfile: Path,
        on_line: Callable[[str, str], None],
        *,
        environ: Mapping[str, str] | None = None,
        concurrency: Mapping[str, int] | None = None,
        beside: Mapping[str, str] | None = None,
    ) -> None:
        environ = dict(os.environ if environ is None else environ)
        environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environ.get("PATH", os.defpath)])
        environ["PYTHONUNBUFFERED"] = "1"  # lines arrive when they are printed
        types = parse_procfile(procfile.read_text(encoding="utf-8")).processes  # type: ignore[no-untyped-call]
        if unknown := set(concurrency or ()) - set(types):
            raise ValueError(f"{procfile} has no {', '.join(sorted(unknown))}, only {', '.join(types)}")
        types = types | dict(beside or {})
        self._processes = {
            each.name: _Process(each.name, _Program(each.cmd, each.env, procfile.resolve().parent), on_line)
            for each in expand_processes(types, concurrency=concurrency, env=environ)  # type: ignore[no-untyped-call]
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The processes, running or not, in the order of the Procfile."""
        return tuple(self._processes)

    def pid(self, name: str) -> int | None:
        """The process id of a process, also that of its group, or None while it does not run."""
        return self._processes[name].pid

    def start(self, *names: str) -> None:
        """Start the processes named, or all; one that runs already is left alone."""
        for name in names or self.names:
            self._processes[name].start()

    def stop(self, *names: str, timeout: float = STOP_TIMEOUT) -> None:
        """Ask the processes named, or all, to end; after `timeout` seconds end the groups of those that have not."""
        processes = [self._processes[name] for name in names or self.names]
        for process in processes:
            process.ask_to_stop()
        deadline = time.monotonic() + timeout
        for process in processes:
            process.finish(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def command_line(*arguments: str | Path) -> str:
    """The arguments as one command in shell syntax."""
    return shlex.join(map(str, arguments))


def _ending(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS refuses where all of the group are zombies
        os.killpg(group, signal.SIGKILL)


def _guardian() -> subprocess.Popen[bytes]:
    """The guardian of this process, started with its first child."""
    with _one_at_a_time:
        return _start_guardian()


_one_at_a_time = threading.Lock()


@cache
def _start_guardian() -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-I", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )


def _guardian_pipe() -> int:
    pipe = _guardian().stdin
    if pipe is None:  # pragma: no cover
        raise AssertionError("the guardian is started with a pipe")
    return pipe.fileno()


def _guard(lines: Iterable[str], timeout: float) -> None:
    """What the guardian does: keep the list of groups until the lines end, then end the groups.

    A line is a group's id, or minus the id of one that has ended.
    """
    groups: set[int] = set()
    for line in lines:
        group = int(line)
        if group > 0:
            groups.add(group)
        else:
            groups.discard(-group)
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(group, signal.SIGTERM)  # the leader only, as in Child.terminate
    deadline = time.monotonic() + timeout
    while groups:
        if time.monotonic() < deadline:
            time.sleep(0.05)
            ended = {group for group in groups if not _runs(group)}
        else:
            ended = groups
        for group in ended:
            _kill_group(group)
        groups = groups - ended


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)  # it ends when its parent has ended, and not before
    _guard(sys.stdin, STOP_TIMEOUT)
