from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.local import supervisor as processes
from pipeline.local.supervisor import Supervisor
from tests.support.waiting import wait_for

#: Starts a supervisor whose processes print their ids and those of their helpers, and waits to be killed.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs inherit an ignored SIGINT
from pathlib import Path
from pipeline.local.supervisor import Supervisor
supervisor = Supervisor(Path(sys.argv[1]), lambda name, text: print(text + "\\n", end="", flush=True))
with supervisor:
    supervisor.start()
    signal.pause()
"""


class Recorder:
    """Collects the output of processes."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __call__(self, name: str, text: str) -> None:
        self.lines.append((name, text))

    def has(self, text: str, *, times: int = 1) -> Callable[[], bool]:
        return lambda: sum(text in line for _, line in self.lines) >= times


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def supervise(tmp_path: Path, recorder: Recorder) -> Iterator[Callable[..., Supervisor]]:
    supervisors: list[Supervisor] = []

    def make(procfile: str, **options: object) -> Supervisor:
        path = tmp_path / "Procfile"
        path.write_text(procfile)
        supervisors.append(Supervisor(path, recorder, **options))  # type: ignore[arg-type]
        return supervisors[-1]

    yield make
    for supervisor in supervisors:
        supervisor.stop(timeout=0)


def runs(pid: int) -> bool:
    ps = ["ps", "-o", "stat=", "-p", str(pid)]
    state = subprocess.run(ps, capture_output=True, text=True, check=False).stdout
    return bool(state) and not state.startswith("Z")


def test_each_line_arrives_with_the_name_of_its_process(
    supervise: Callable[..., Supervisor], recorder: Recorder, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    procfile = "one: LEVEL=${LEVEL:-INFO} sh -c 'echo level $LEVEL; exec sleep 600'\ntwo: sleep 600\nthree: sleep 600\n"
    other = {"other": "NAME=in sh -c 'echo $NAME $(pwd); exec sleep 600'"}
    supervisor = supervise(procfile, concurrency={"one": 2, "two": 0}, extra=other, cwd=folder)
    assert supervisor.names == ("one.1", "one.2", "three.1", "other.1")
    supervisor.start()
    wait_for(recorder.has("level INFO", times=2))
    wait_for(lambda: ("other.1", f"in {folder.resolve()}") in recorder.lines)
    assert {name for name, _ in recorder.lines} == {"one.1", "one.2", "other.1"}


def test_an_unknown_process_type_is_refused(supervise: Callable[..., Supervisor]) -> None:
    with pytest.raises(ValueError, match="has no three, only one, two"):
        supervise("one: a\ntwo: b\n", concurrency={"three": 1})


def test_the_process_is_the_program_itself_with_the_commands_of_this_python(
    supervise: Callable[..., Supervisor], recorder: Recorder
) -> None:
    script = "import os, sys, time; print(os.getpid(), sys.executable, flush=True); time.sleep(600)"
    supervisor = supervise(f"one: A=b {Path(sys.executable).name} -c '{script}'\n", environ={})
    supervisor.start()
    wait_for(lambda: bool(recorder.lines))
    pid, executable = recorder.lines[0][1].split()
    assert supervisor.pid("one.1") == int(pid)
    assert Path(executable).parent == Path(sys.executable).parent


def test_a_process_that_died_is_started_again(supervise: Callable[..., Supervisor], recorder: Recorder) -> None:
    supervisor = supervise("one: sh -c 'echo started; exec sleep 600'\n")
    supervisor.start()
    wait_for(recorder.has("started"))
    first = supervisor.pid("one.1")
    assert first
    os.kill(first, signal.SIGKILL)
    wait_for(recorder.has("started", times=2))
    assert ("one.1", "killed by SIGKILL; restarting in 0.5 s") in recorder.lines
    assert supervisor.pid("one.1") not in {first, None}


def test_restarts_wait_longer_each_time(
    supervise: Callable[..., Supervisor], recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(processes, "MAX_DELAY", 0.03)
    supervise("one: sh -c 'exit 3'\n").start()
    wait_for(recorder.has("ended", times=4))
    assert [text.removeprefix("ended with status 3; restarting in ") for _, text in recorder.lines[:4]] == [
        "0.01 s",
        "0.02 s",
        "0.03 s",
        "0.03 s",
    ]


def test_the_process_group_of_a_dead_process_ends_before_the_restart(
    supervise: Callable[..., Supervisor], recorder: Recorder
) -> None:
    supervisor = supervise("one: sh -c 'sleep 600 & echo $!; wait'\n")
    supervisor.start()
    wait_for(lambda: len(recorder.lines) == 1)
    pid = supervisor.pid("one.1")
    assert pid
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not runs(int(recorder.lines[0][1])))
    wait_for(lambda: supervisor.pid("one.1") not in {pid, None})


def test_stop_lets_a_process_end_by_itself(supervise: Callable[..., Supervisor], recorder: Recorder) -> None:
    supervisor = supervise("one: sh -c 'trap \"echo bye; exit\" TERM; echo up; while :; do sleep 0.05; done'\n")
    supervisor.start()
    wait_for(recorder.has("up"))
    supervisor.stop()
    assert ("one.1", "bye") in recorder.lines
    assert not recorder.has("restarting in")()
    assert supervisor.pid("one.1") is None


def test_stop_ends_a_stubborn_process_in_bounded_time(supervise: Callable[..., Supervisor], recorder: Recorder) -> None:
    supervisor = supervise("one: sh -c 'trap \"\" TERM; sleep 600 & echo $!; while :; do sleep 600; done'\n")
    supervisor.start()
    wait_for(lambda: bool(recorder.lines))
    pid = supervisor.pid("one.1")
    assert pid
    started = time.monotonic()
    supervisor.stop(timeout=0.5)
    assert time.monotonic() - started < 5
    wait_for(lambda: not runs(pid) and not runs(int(recorder.lines[0][1])))


def test_one_process_stops_and_starts_alone(supervise: Callable[..., Supervisor]) -> None:
    supervisor = supervise("one: sleep 600\ntwo: sleep 600\n")
    supervisor.start("two.1")
    wait_for(lambda: supervisor.pid("two.1") is not None)
    assert supervisor.pid("one.1") is None
    supervisor.start()
    wait_for(lambda: supervisor.pid("one.1") is not None)
    supervisor.stop("two.1")
    assert supervisor.pid("two.1") is None
    assert supervisor.pid("one.1") is not None
    supervisor.start("two.1")
    wait_for(lambda: supervisor.pid("two.1") is not None)


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_its_supervisor(signal_number: int, tmp_path: Path) -> None:
    procfile = tmp_path / "Procfile"
    procfile.write_text("one: sh -c 'sleep 600 & echo $$ $!; wait'\ntwo: sh -c 'sleep 600 & echo $$ $!; wait'\n")
    program = [sys.executable, "-c", PROGRAM, str(procfile)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout
        pids: list[int] = []
        while len(pids) < 4:
            line = parent.stdout.readline()
            assert line
            pids += map(int, line.split())
        assert all(map(runs, pids))
        parent.send_signal(signal_number)
        assert parent.wait(30) != 0
    wait_for(lambda: not any(map(runs, pids)))


def test_a_stubborn_process_does_not_outlive_its_supervisor_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stubborn = ["/bin/sh", "-c", 'trap "" TERM; echo up; while :; do sleep 600; done']
    with subprocess.Popen(stubborn, stdout=subprocess.PIPE, start_new_session=True, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        processes._guard([f"{process.pid}\n", "999999999\n", "-999999999\n"])
        assert process.wait(5) == -signal.SIGKILL
