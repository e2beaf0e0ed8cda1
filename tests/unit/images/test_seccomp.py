"""The filters of system calls, for this machine and for others: a small interpreter runs them as the kernel would."""

from __future__ import annotations

import os
import re
import signal
import struct
from pathlib import Path

import pytest

from pipeline.images import seccomp

ALLOWED, KILLED, REFUSED = 0x7FFF0000, 0x80000000, 0x00050001

#: The kernel's own numbers, which the package linux-libc-dev installs with every C compiler.
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
OF_MACHINES = pytest.mark.parametrize("name", HEADERS)


def verdict(name: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """Run a machine's filter on one system call; returns what the kernel would do."""
    machine = seccomp._MACHINES[name]
    data = struct.pack(
        "<iIQ6Q", number, architecture or machine.architecture, 0, *arguments, *[0] * (6 - len(arguments))
    )
    program, at, word = [struct.unpack("<HBBI", each) for each in seccomp._filter(machine)], 0, 0
    while True:
        code, if_true, if_false, operand = program[at]
        at += 1
        match code:
            case 0x20:  # load
                (word,) = struct.unpack_from("<I", data, operand)
            case 0x15:  # equal
                at += if_true if word == operand else if_false
            case 0x45:  # any of the bits
                at += if_true if word & operand else if_false
            case 0x06:  # return
                return int(operand)


def numbers(name: str) -> dict[str, int]:
    """Read the numbers of the system calls from the kernel's header."""
    lines = re.findall(r"^#define __NR(?:3264)?_(\w+) (\d+)$", HEADERS[name].read_text(), re.MULTILINE)
    return {call: int(number) for call, number in lines}


@OF_MACHINES
def test_the_listed_calls_are_allowed_and_all_others_refused(name: str) -> None:
    machine = seccomp._MACHINES[name]
    with_conditions = {machine.mmap, machine.mprotect, machine.tgkill}
    for number in set(range(600)) - with_conditions:
        assert verdict(name, number) == (ALLOWED if number in machine.allowed.values() else REFUSED), number


@OF_MACHINES
def test_memory_is_never_executable(name: str) -> None:
    machine = seccomp._MACHINES[name]
    for number in (machine.mmap, machine.mprotect):
        assert verdict(name, number, 0, 4096, 3) == ALLOWED  # read and write
        assert verdict(name, number, 0, 4096, 5) == REFUSED  # read and execute
        assert verdict(name, number, 0, 4096, 7) == REFUSED


@OF_MACHINES
def test_a_process_may_only_abort_itself(name: str) -> None:
    machine = seccomp._MACHINES[name]
    assert verdict(name, machine.tgkill, os.getpid(), 1, signal.SIGABRT) == ALLOWED
    assert verdict(name, machine.tgkill, os.getppid(), 1, signal.SIGABRT) == REFUSED
    assert verdict(name, machine.tgkill, os.getpid(), 1, signal.SIGKILL) == REFUSED


@OF_MACHINES
def test_calls_of_another_architecture_end_the_process(name: str) -> None:
    assert verdict(name, 1, architecture=0x40000003) == KILLED  # 32 bits, where other calls have these numbers


@OF_MACHINES
def test_the_numbers_are_those_of_the_kernel(name: str) -> None:
    if not HEADERS[name].exists():
        pytest.skip("The headers of the kernel are not installed (linux-libc-dev).")
    machine, known = seccomp._MACHINES[name], numbers(name)
    assert machine.allowed == {call: known[call] for call in machine.allowed}
    ours = {"seccomp": machine.seccomp, "mmap": machine.mmap, "mprotect": machine.mprotect, "tgkill": machine.tgkill}
    assert ours == {call: known[call] for call in ours}
