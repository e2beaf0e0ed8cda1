"""Child processes that never outlive this process, and a supervisor for a Procfile.

Each child leads its own session and process group. When this process ends, even by `kill -9`, a small *guardian*
process kills the remaining groups. It reads from a pipe that only this process can write to, so it sees its end. Each
child registers its group in that pipe before it executes its program, so that no program ever runs unguarded.
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
from functools import cache, partial
from pathlib import Path
from typing import IO

from honcho.environ import expand_processes, parse_procfile

from pipeline.sqs.backoff import Backoff
from pipeline.text import signal_name

#: Seconds that a process may take to end after SIGTERM. Idle workers await their polls for up to 20 s, in case they
#: bring messages. Here no one waits for that, because producers stop too.
STOP_TIMEOUT = 3.0

#: Seconds until a dead process restarts: first and maximum delay, doubled each time; and the uptime that resets it. The
#: maximum is short because a poison message is only given up after it has killed five workers.
FIRST_DELAY, MAX_DELAY, STEADY = 0.5, 5.0, 30.0


class Child:
    """A program that leads its own process group, and ends when this process ends.

    Args:
        command: One command in shell syntax; assignments such as `LEVEL=INFO` may precede it.
        environ: Its environment.
        cwd: Its working directory.
        output: The file for its output and errors, or `subprocess.PIPE` to read them from the attribute `output`.
        pass_fds: File descriptors that it inherits.
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
        # `exec env` replaces the shell by the program, even after assignments, so that signals reach it.
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
        return self._popen.poll() is not None

    def terminate(self) -> None:
        """Send SIGTERM to the program only, because dramatiq passes the signal on to its workers."""
        self._popen.terminate()

    def kill(self) -> None:
        """Kill the whole group."""
        if not self.ended():
            _kill_group(self.pid)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the program, kill the rest of its group, and return its status like `Popen.wait`.

        Raises:
            subprocess.TimeoutExpired: It is still running.
        """
        status = self._popen.wait(timeout)
        _kill_group(self.pid)
        with suppress(BrokenPipeError):
            os.write(_guardian_pipe(), f"-{self.pid}\n".encode())
        return status

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Terminate the program, and kill its group after `timeout` seconds."""
        self.terminate()
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            self.wait()


class _Process:
    """One process of the supervisor: a thread that restarts the program until it is stopped."""

    def __init__(self, name: str, launch: Callable[[], Child], on_line: Callable[[str, str], None]) -> None:
        self._name = name
        self._launch = launch
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
        """Wait for the end after `ask_to_stop`, and kill the group after `timeout` seconds."""
        if self._thread:
            self._thread.join(timeout)
            if self._thread.is_alive() and self._child:
                self._child.kill()
            self._thread.join()

    def _run(self) -> None:
        backoff = Backoff(FIRST_DELAY, MAX_DELAY)
        while True:
            started = time.monotonic()
            with self._lock:
                if self._stopping.is_set():
                    return
                child = self._child = self._launch()
            reader = threading.Thread(target=self._read, args=[child.output], daemon=True)
            reader.start()
            status = child.wait()
            reader.join(1)  # a process that has left the group may keep the pipe open
            if time.monotonic() - started >= STEADY:
                backoff.reset()
            delay = backoff.next()
            if not self._stopping.is_set():
                self._on_line(self._name, f"{_ending(status)}; restarting in {delay:g} s")
            if self._stopping.wait(delay):
                return

    def _read(self, output: IO[str]) -> None:
        with output:
            for line in output:
                self._on_line(self._name, line.rstrip("\n"))


class Supervisor:
    """Runs the processes of a Procfile, and restarts dead processes.

    Processes have the names that honcho gives them: `fetch.1`, `resize.1`, `resize.2`.

    Args:
        procfile: The Procfile. Each line is one command, after optional assignments. The PATH of commands begins with
            the folder of this Python.
        on_line: Called as `on_line(name, text)`, from several threads, with each line that a process prints, and with a
            line when a process dies. It must not raise.
        environ: The environment of the processes; by default that of this process.
        concurrency: Number of processes by type, such as `{"resize": 2, "ingest": 0}`. The default is one.
        extra: Further commands to run, by process type.
        cwd: The folder that commands run in; by default that of the Procfile.
        stop_timeout: Seconds that processes may take to end after SIGTERM. Then their groups are killed.

    Raises:
        ValueError: `concurrency` names a process type that is not in the Procfile.
    """

    def __init__(
        self,
        procfile: Path,
        on_line: Callable[[str, str], None],
        *,
        environ: Mapping[str, str] | None = None,
        concurrency: Mapping[str, int] | None = None,
        extra: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stop_timeout: float = STOP_TIMEOUT,
    ) -> None:
        self._stop_timeout = stop_timeout
        environ = dict(os.environ if environ is None else environ)
        environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environ.get("PATH", os.defpath)])
        environ["PYTHONUNBUFFERED"] = "1"  # lines arrive as soon as they are printed
        types = parse_procfile(procfile.read_text(encoding="utf-8")).processes  # type: ignore[no-untyped-call]
        if unknown := set(concurrency or ()) - set(types):
            raise ValueError(f"{procfile} has no {', '.join(sorted(unknown))}, only {', '.join(types)}")
        types = types | dict(extra or {})
        cwd = (cwd or procfile.parent).resolve()
        self._processes = {
            each.name: _Process(
                each.name, partial(Child, each.cmd, environ=each.env, cwd=cwd, output=subprocess.PIPE), on_line
            )
            for each in expand_processes(types, concurrency=concurrency, env=environ)  # type: ignore[no-untyped-call]
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all processes, running or not, in the order of the Procfile."""
        return tuple(self._processes)

    def pid(self, name: str) -> int | None:
        """Return the id of a process, which is also that of its group; None while it does not run."""
        return self._processes[name].pid

    def start(self, *names: str) -> None:
        """Start the given processes, or all. Has no effect on running processes."""
        for name in names or self.names:
            self._processes[name].start()

    def stop(self, *names: str, timeout: float | None = None) -> None:
        """Terminate the given processes, or all. Kill the groups left after `timeout`, or `stop_timeout`, seconds."""
        processes = [self._processes[name] for name in names or self.names]
        for process in processes:
            process.ask_to_stop()
        deadline = time.monotonic() + (self._stop_timeout if timeout is None else timeout)
        for process in processes:
            process.finish(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def command_line(*arguments: str | Path) -> str:
    """Join the arguments to one command in shell syntax."""
    return shlex.join(map(str, arguments))


def _ending(status: int) -> str:
    return f"killed by {signal_name(-status)}" if status < 0 else f"ended with status {status}"


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS refuses if the group has only zombies
        os.killpg(group, signal.SIGKILL)


def _guardian() -> subprocess.Popen[bytes]:
    """Return the guardian of this process, and start it with the first child."""
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


def _guard(lines: Iterable[str]) -> None:
    """Run the guardian: track the groups until the lines end, then kill the remaining groups.

    A line contains the id of a new group, or minus the id of a group that has ended.
    """
    groups: set[int] = set()
    for group in map(int, lines):
        if group > 0:
            groups.add(group)
        else:
            groups.discard(-group)
    for group in groups:
        _kill_group(group)


if __name__ == "__main__":
    for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)  # only the end of its parent ends the guardian
    _guard(sys.stdin)
