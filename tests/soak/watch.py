"""Watches processes from outside: asks each for its liveness every second, and reads its figures from /proc (Linux)."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

#: Seconds that an answer may take on a busy machine. Kubernetes' probes of deploy/kubernetes have more patience.
ANSWER_WITHIN = 5.0

_PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True)
class Figures:
    """The figures of a process of the Procfile, its children included."""

    memory: int  #: proportional set size in bytes
    threads: int
    descriptors: int
    connections: int  #: established TCP connections


@dataclass(frozen=True)
class DeadProbe:
    """A probe that a running process did not answer with 200."""

    at: float  #: monotonic seconds
    process: str
    answer: str


class Watch:
    """Probes `/livez` of every process each second while the context is entered.

    Args:
        leaders: Returns the process ids of the Procfile's processes by name; None for one that does not run.

    Attributes:
        probes: The number of probes that were answered with 200, by process.
        dead: The others. A process that has ended meanwhile is not counted, nor one that does not listen yet.
    """

    def __init__(self, leaders: Callable[[], Mapping[str, int | None]]) -> None:
        self._leaders = leaders
        self.probes: dict[str, int] = {}
        self.dead: list[DeadProbe] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def figures(self) -> dict[str, Figures]:
        """Return the figures of all running processes by name."""
        return {name: _figures(list(_family(leader))) for name, leader in self._leaders().items() if leader}

    def _run(self) -> None:
        while not self._over.wait(1.0):
            for name, leader in self._leaders().items():
                for pid, port in _listeners(list(_family(leader)) if leader else []):
                    self._probe(name, pid, port)

    def _probe(self, name: str, pid: int, port: int) -> None:
        at, answer = time.monotonic(), _answer(port)
        if answer == "200":
            self.probes[name] = self.probes.get(name, 0) + 1
        elif (pid, port) in _listeners([pid]):
            self.dead.append(DeadProbe(at, name, answer))


def _answer(port: int) -> str:
    connection = HTTPConnection("127.0.0.1", port, timeout=ANSWER_WITHIN)
    try:
        connection.request("GET", "/livez")
        response = connection.getresponse()
        text = response.read().decode(errors="replace").strip()
        return str(response.status) + (f" {text}" if response.status != 200 else "")
    except (OSError, HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


def _family(leader: int) -> Iterator[int]:
    """Yield the processes of the session that a process of the Procfile leads."""
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with suppress(OSError):
                if int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[3]) == leader:
                    yield int(entry)


def _figures(pids: list[int]) -> Figures:
    memory = threads = descriptors = connections = 0
    established = {inode for inode, _ in _sockets("01")}
    for pid in pids:
        with suppress(OSError):
            memory += 1024 * sum(map(int, _PSS.findall(Path(f"/proc/{pid}/smaps_rollup").read_text())))
            threads += len(os.listdir(f"/proc/{pid}/task"))
            opened = list(_opened(pid))
            descriptors += len(opened)
            connections += sum(target in established for target in opened)
    return Figures(memory, threads, descriptors, connections)


def _listeners(pids: list[int]) -> list[tuple[int, int]]:
    """Return the processes that listen, each with its port."""
    listening = dict(_sockets("0A"))
    return [(pid, listening[target]) for pid in pids for target in _opened(pid) if target in listening]


def _sockets(state: str) -> Iterator[tuple[str, int]]:
    """Yield the sockets in a state, as links in /proc/PID/fd name them, and their ports."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == state:
            yield f"socket:[{fields[9]}]", int(fields[1].partition(":")[2], 16)


def _opened(pid: int) -> Iterator[str]:
    with suppress(OSError):
        for each in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                yield os.readlink(f"/proc/{pid}/fd/{each}")
