"""Restricts a process before it decodes untrusted images.

`confine()` cannot be undone. Afterwards the process may use memory, the descriptors that are open, and the clock, and
may end. Everything else is refused by the kernel: files, sockets, processes, threads, signals to other processes,
ptrace, and executable memory. It also dies with its parent, and its memory is hidden from other processes.

The filter is a seccomp program of our own, because pyseccomp, the package that would write one, needs libseccomp on the
host and has had three releases, none of them recent. Without seccomp the resource limits remain: no new
descriptor, no byte in a file, and, for other users than root, no new process.
https://man7.org/linux/man-pages/man2/seccomp.2.html
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
import signal
import struct
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

# <linux/prctl.h>, <linux/seccomp.h>
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_SECCOMP: Final = 22
_PR_SET_NO_NEW_PRIVS: Final = 38
_MODE_FILTER: Final = 2
_SET_MODE_FILTER: Final = 1
_FLAG_TSYNC: Final = 1  # all threads of the process
_ALLOW: Final = 0x7FFF0000
_KILL_PROCESS: Final = 0x80000000
_REFUSE: Final = 0x00050000 | errno.EPERM

# <linux/bpf_common.h>: load a word, compare it with a constant, test its bits, return
_LOAD: Final = 0x20
_IF_EQUAL: Final = 0x15
_IF_BITS: Final = 0x45
_RETURN: Final = 0x06

# Offsets in `struct seccomp_data`. The machines below are little-endian, so the low half of an argument comes first.
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_ARGUMENTS: Final = 16

_PROT_EXEC: Final = 4

#: Resource limits by name, in addition to seccomp. Memory and CPU are limited for each image (sandbox.py).
_LIMITS: Final = {"CORE": 0, "FSIZE": 0, "NPROC": 0, "NOFILE": 3}


class _Machine(NamedTuple):
    """The system calls of one architecture, by number."""

    architecture: int  #: AUDIT_ARCH_* of <linux/audit.h>
    seccomp: int
    allowed: Mapping[str, int]
    mmap: int
    mprotect: int
    tgkill: int


_MACHINES: Final = {
    # https://github.com/torvalds/linux/blob/v6.12/arch/x86/entry/syscalls/syscall_64.tbl
    "x86_64": _Machine(
        architecture=0xC000003E, seccomp=317, mmap=9, mprotect=10, tgkill=234,
        allowed={
            "read": 0, "write": 1, "close": 3, "fstat": 5, "poll": 7, "lseek": 8, "munmap": 11, "brk": 12,
            "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "pread64": 17, "readv": 19, "writev": 20,
            "sched_yield": 24, "mremap": 25, "madvise": 28, "nanosleep": 35, "setitimer": 38, "getpid": 39,
            "exit": 60, "getrusage": 98, "sysinfo": 99, "times": 100, "sigaltstack": 131, "gettid": 186, "futex": 202,
            "restart_syscall": 219, "clock_gettime": 228, "clock_nanosleep": 230, "exit_group": 231, "ppoll": 271,
            "getrandom": 318,
        },
    ),
    # https://github.com/torvalds/linux/blob/v6.12/include/uapi/asm-generic/unistd.h
    "aarch64": _Machine(
        architecture=0xC00000B7, seccomp=277, mmap=222, mprotect=226, tgkill=131,
        allowed={
            "close": 57, "lseek": 62, "read": 63, "write": 64, "readv": 65, "writev": 66, "pread64": 67, "ppoll": 73,
            "fstat": 80, "exit": 93, "exit_group": 94, "futex": 98, "nanosleep": 101, "setitimer": 103,
            "clock_gettime": 113, "clock_nanosleep": 115, "sched_yield": 124, "restart_syscall": 128,
            "sigaltstack": 132, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "times": 153,
            "getrusage": 165, "getpid": 172, "gettid": 178, "sysinfo": 179, "brk": 214, "munmap": 215, "mremap": 216,
            "madvise": 233, "getrandom": 278,
        },
    ),
}  # fmt: skip


def die_with(parent: int) -> None:
    """Make the kernel end this process when the thread that started it ends.

    Args:
        parent: the process that started this one. If it has ended meanwhile, this process exits.
    """
    with contextlib.suppress(OSError, AttributeError):  # not Linux: the end of the pipe ends the process
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit


def confine() -> str:
    """Give up everything but memory and open descriptors, for the life of the process.

    Returns:
        Why the kernel does not filter system calls, or an empty string if it does.
    """
    for name, limit in _LIMITS.items():
        with contextlib.suppress(ValueError, OSError):  # a lower limit is set already
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        return f"no filter exists for {platform.system()} on {platform.machine()}"
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return f"no-new-privileges failed: {os.strerror(ctypes.get_errno())}"
    program = _Program.of(_filter(machine))
    if libc.syscall(machine.seccomp, _SET_MODE_FILTER, _FLAG_TSYNC, ctypes.byref(program)) and libc.prctl(
        _PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0
    ):  # the second is the older way, for this thread alone; a filter of the container may allow only one
        return f"seccomp failed: {os.strerror(ctypes.get_errno())}"
    return ""


class _Program(ctypes.Structure):
    """`struct sock_fprog` of <linux/filter.h>."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    @classmethod
    def of(cls, instructions: list[bytes]) -> _Program:
        return cls(len(instructions), b"".join(instructions))


def _filter(machine: _Machine) -> list[bytes]:
    """Return the filter: an instruction of 8 bytes each. A jump skips instructions: first if true, then if false."""
    return [
        _step(_LOAD, _ARCHITECTURE),
        _step(_IF_EQUAL, machine.architecture, 1, 0),
        _step(_RETURN, _KILL_PROCESS),
        _step(_LOAD, _NUMBER),
        *(step for number in machine.allowed.values() for step in _allowed(number)),
        *_allowed(machine.mmap, (2, _IF_BITS, _PROT_EXEC, False)),
        *_allowed(machine.mprotect, (2, _IF_BITS, _PROT_EXEC, False)),
        *_allowed(machine.tgkill, (0, _IF_EQUAL, os.getpid(), True), (2, _IF_EQUAL, signal.SIGABRT, True)),  # abort()
        _step(_RETURN, _REFUSE),
    ]


def _allowed(number: int, *conditions: tuple[int, int, int, bool]) -> Iterator[bytes]:
    """Allow a system call if all conditions on its arguments hold: the argument, a test, its operand, the result."""
    length = 2 * len(conditions) + 2
    yield _step(_IF_EQUAL, number, 0, length)
    for place, (argument, test, operand, expected) in enumerate(conditions, start=1):
        to_refusal = length - 2 * place - 1
        yield _step(_LOAD, _ARGUMENTS + 8 * argument)
        yield _step(test, operand, *((0, to_refusal) if expected else (to_refusal, 0)))
    yield _step(_RETURN, _ALLOW)
    yield _step(_RETURN, _REFUSE)


def _step(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, operand)
