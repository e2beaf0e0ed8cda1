"""Code in a decoder that an image has taken over reaches nothing outside of its sandbox."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.images import child_process, sandbox
from tests.support.missing.sitecustomize import WITHOUT
from tests.support.sandboxed import HOOK, refused

pytestmark = pytest.mark.usefixtures("own_child")

ATTACKS = {
    "open a file": "os.open({file!r}, os.O_RDONLY)",
    "read the environment of its parent": "open(f'/proc/{{os.getppid()}}/environ').read()",
    "read the memory of its parent": "open(f'/proc/{{os.getppid()}}/mem', 'rb').read(1)",
    "write a file": "open({file!r} + '.new', 'w')",
    "list a folder": "os.listdir('/')",
    "open a socket": "socket.socket()",
    "connect two sockets": "socket.socketpair()",
    "fork": "os.fork()",
    "start a thread": "__import__('_thread').start_new_thread(time.sleep, (0,))",
    "start a program": "subprocess.run(['/bin/true'])",
    "become a program": "os.execv('/bin/true', ['true'])",
    "signal its parent": "os.kill(os.getppid(), signal.SIGTERM)",
    "stop itself as if by the system": "signal.raise_signal(signal.SIGKILL)",
    "trace its parent": "check(ctypes.CDLL(None, use_errno=True).ptrace(16, os.getppid(), 0, 0))",
    "become dumpable": "check(ctypes.CDLL(None, use_errno=True).prctl(4, 1, 0, 0, 0))",
    "raise its limits": "__import__('resource').setrlimit(7, (1000, 1000))",
    "make memory executable": "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)",
    "change its user": "os.setuid(0)",
    "make a pipe": "os.pipe()",
}
ATTEMPT = """
import errno
def check(returned):
    if returned == -1:
        raise OSError(ctypes.get_errno(), "refused")
try:
    {attack}
    result = "done"
except (OSError, RuntimeError, ValueError, ImportError) as error:
    result = "refused"
"""


class TestCodeInADecoder:
    def test_the_kernel_filters_its_system_calls(self) -> None:
        assert sandbox.why_unfiltered() == ""

    def test_every_attack_is_refused(self, hooked: None, tmp_path: Path) -> None:
        file = tmp_path / "secret"
        file.write_text("planted")
        # Given attacks that work in a process with credentials, when a decoder tries them
        for name, attack in ATTACKS.items():
            error = refused(ATTEMPT.format(attack=attack.format(file=str(file))))
            # Then the kernel refuses each, and the image ends with a code
            assert (error.code, error.message) == ("broken_image", "refused"), name
        assert list(tmp_path.iterdir()) == [file]

    @pytest.mark.parametrize("name", ["open a file", "read the environment of its parent", "open a socket", "fork"])
    def test_outside_of_a_sandbox_these_attacks_work(self, name: str, tmp_path: Path) -> None:
        file = tmp_path / "secret"
        file.write_text("planted")
        attack = ATTEMPT.format(attack=ATTACKS[name].format(file=str(file))) + "print(result, flush=True)"
        program = f"import os, socket, sys\n{attack}"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert "done" in done.stdout

    def test_it_has_nothing_of_its_parents_environment(self, hooked: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_KEY_S3", "SECRET")
        allowed = {*child_process.ENVIRONMENT, "PYTHONPATH", "LC_CTYPE", WITHOUT}
        assert set(refused("result = ' '.join(os.environ)").message.split()) <= allowed

    def test_it_has_no_descriptor_of_its_parent(self, hooked: None, tmp_path: Path) -> None:
        # Given a worker with an open file that children inherit
        with (tmp_path / "secret").open("w") as secret:
            os.set_inheritable(secret.fileno(), True)
            # When a decoder looks at its descriptors
            nodes = refused(
                """
                found = []
                for number in range(256):
                    try:
                        found.append(os.fstat(number).st_ino)
                    except OSError:
                        pass
                result = " ".join(map(str, found))
                """
            ).message.split()
            # Then it has its pipes and the file of its source, and not that file
            assert 4 <= len(nodes) <= 6
            assert str(os.fstat(secret.fileno()).st_ino) not in nodes

    @pytest.mark.parametrize("more", [(), ("unfiltered",)])
    def test_it_cannot_make_the_file_of_its_source_grow(
        self, more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Given a decoder that an image has taken over, with and without a filter of system calls
        monkeypatch.setattr(sandbox, "CHILD", (*HOOK, *more))
        # When it writes to the file
        error = refused(
            """
            try:
                result = f"wrote {os.write(int(sys.argv[-2]), bytes(1000))}"
            except OSError as error:
                result = f"refused {error.errno}"
            """
        )
        # Then the kernel refuses
        assert error.message == f"refused {errno.EFBIG}"

    def test_without_a_filter_limits_remain_and_one_warning_is_logged(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        # Given a machine without a filter
        monkeypatch.setattr(sandbox, "CHILD", (*HOOK, "unfiltered"))
        monkeypatch.setattr(sandbox, "_warned", threading.Event())
        assert "no filter" in sandbox.why_unfiltered()
        # When code opens files and sockets, then its limits refuse them
        for attack in ("open a file", "open a socket", "write a file"):
            code = ATTEMPT.format(attack=ATTACKS[attack].format(file=str(tmp_path / "x")))
            assert refused(code).message == "refused"
        # And the log says so once, although a second child was started
        run_crash = refused("os._exit(0)")
        assert run_crash.code == "broken_image"
        assert [record.message for record in caplog.records].count(warning_of(caplog)) == 1


def warning_of(caplog: pytest.LogCaptureFixture) -> str:
    return next(record.message for record in caplog.records if "without a filter" in record.message)
