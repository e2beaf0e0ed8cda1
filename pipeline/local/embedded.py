"""The embedded stack for development and tests: SQS, S3 and MongoDB as child processes on free loopback ports.

The servers, ministack and SecantusDB, are installed in a separate environment and never imported here. They end with
this process, even if it is killed.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import secrets
import shutil
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from pipeline.local.supervisor import STOP_TIMEOUT, Child, command_line

#: Whether this is a checkout. Otherwise it is an installed package.
IS_CHECKOUT = (Path(__file__).resolve().parents[2] / "pyproject.toml").is_file()

#: The data folder: that of the checkout, which git ignores, otherwise one in the current folder.
DATA_DIR = (Path(__file__).resolve().parents[2] if IS_CHECKOUT else Path()) / ".data"

#: The packages of the servers, as in pyproject.toml.
SERVERS = ("ministack==1.5.33", "SecantusDB==0.7.0b3")

REGION = "us-east-2"
DATABASE = "image_service"

#: Seconds to wait until a server answers, and until the servers of an earlier stack have ended.
START_TIMEOUT = 60.0
LOCK_TIMEOUT = STOP_TIMEOUT + 5

#: Attempts to start a server, each on another port, because another process may take the port first.
ATTEMPTS = 4


class EmbeddedStackError(Exception):
    """The embedded stack cannot run. The message gives the reason and a solution."""


class EmbeddedStack:
    """The servers, which run within the context.

    Entering the context raises EmbeddedStackError if a server is not installed or does not start, if the folder is not
    writable, or if another stack uses it.

    Args:
        data_dir: The folder for all files of the servers, including logs. Only one stack at a time can use it.
        persist: Whether to keep queues, objects and documents for the next persistent stack in this folder. Otherwise
            the stack starts empty.
        with_mongo: Whether to start MongoDB too.
    """

    def __init__(self, data_dir: Path = DATA_DIR, *, persist: bool = False, with_mongo: bool = True) -> None:
        self._data_dir = data_dir.resolve()
        self._persist = persist
        self._with_mongo = with_mongo
        self._exit = ExitStack()
        self._environ: dict[str, str] = {}

    @property
    def environ(self) -> dict[str, str]:
        """The environment variables that point a process of the service to this stack alone."""
        return dict(self._environ)

    def __enter__(self) -> EmbeddedStack:
        try:
            return self._start()
        except OSError as error:
            where, reason = self._data_dir, error.strerror or str(error)
            raise EmbeddedStackError(f"{where} is not writable ({reason}): choose another data folder") from error

    def _start(self) -> EmbeddedStack:
        with ExitStack() as undo:
            lock = undo.enter_context(locked(self._data_dir))
            folder = self._data_dir / ("state" if self._persist else "scratch")
            if not self._persist:
                shutil.rmtree(folder, ignore_errors=True)
            servers: list[Server] = [_Ministack(self._data_dir, folder, lock, self._persist)]
            if self._with_mongo:
                servers.append(_Secantus(self._data_dir, folder, lock))
            # Both start before the first wait. Without persistence, nothing is written at the end.
            for server in servers:
                server.launch()
                undo.callback(server.stop, STOP_TIMEOUT if self._persist else 0)
            for server in servers:
                server.wait_until_it_answers()
            self._environ = _environ(servers[0].port, servers[1].port if self._with_mongo else None)
            self._exit = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()


def _environ(aws_port: int, mongo_port: int | None) -> dict[str, str]:
    endpoint = f"http://127.0.0.1:{aws_port}"
    mongo_url = f"mongodb://127.0.0.1:{mongo_port}/{DATABASE}" if mongo_port else ""
    return {
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        # All spellings, so that a developer's environment has no effect. An empty value counts as unset.
        **dict.fromkeys(["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_SQS"], endpoint),
        **dict.fromkeys(["AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY_S3", "AWS_ACCESS_KEY_SQS"], "embedded"),
        **dict.fromkeys(["AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY_S3", "AWS_SECRET_KEY_SQS"], "embedded"),
        "AWS_SESSION_TOKEN": "",
        "MONGO_URL": mongo_url,
        **dict.fromkeys(["MONGO_URL_DEVELOP", "MONGO_URL_PRODUCTION", "JOBS_MONGO_URL"], ""),
        **dict.fromkeys(["no_proxy", "NO_PROXY"], "127.0.0.1,localhost"),
    }


class Server(ABC):
    """A server program: its location, its command line and its health check."""

    name: str

    def __init__(self, data_dir: Path, folder: Path, lock: int) -> None:
        self._program = _find(self.name)
        self._log = data_dir / f"{self.name}.log"
        self._log.unlink(missing_ok=True)
        self._folder = folder / self.name
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock

    @abstractmethod
    def command(self) -> str:
        """Return the command line that starts the server on its port."""

    def variables(self) -> Mapping[str, str]:
        return {}

    @abstractmethod
    def answers(self) -> bool:
        """Return whether this server answers, and not another one on the same port."""

    def launch(self) -> None:
        self.port = _free_port()
        # The servers do not inherit the developer's environment because their variables have common names such as AUTH.
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        environ = {**kept, "HOME": str(self._folder), "TMPDIR": str(self._folder), **self.variables()}
        with self._log.open("ab") as log:
            # The servers inherit the lock, so they hold the folder until they have ended.
            self.child = Child(self.command(), environ=environ, cwd=self._folder, output=log, pass_fds=[self._lock])

    def wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        attempts = 1
        while not self.answers():
            if self.child.ended():
                status = self.child.wait()
                if attempts == ATTEMPTS:
                    raise EmbeddedStackError(f"{self.name} ended with status {status}{self._log_end()}")
                attempts += 1
                self.launch()
            elif time.monotonic() > deadline:
                raise EmbeddedStackError(f"{self.name} did not answer within {START_TIMEOUT:g} s{self._log_end()}")
            time.sleep(0.05)

    def stop(self, timeout: float) -> None:
        self.child.stop(timeout)

    def _log_end(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join([f"; the end of its log {self._log}:", *lines[-10:]])


class _Ministack(Server):
    name = "ministack"

    def __init__(self, data_dir: Path, folder: Path, lock: int, persist: bool) -> None:
        super().__init__(data_dir, folder, lock)
        self._persist = persist
        self._edition = f"embedded-{secrets.token_hex(8)}"  # the health response contains it

    def command(self) -> str:
        return command_line(self._program)

    def variables(self) -> Mapping[str, str]:
        persist = "1" if self._persist else "0"
        return {
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self.port),
            "MINISTACK_HOST": "127.0.0.1",
            "MINISTACK_REGION": REGION,
            "MINISTACK_EDITION": self._edition,
            "SERVICES": "sqs,s3",
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            "DOCKER_HOST": f"unix://{self._folder}/none",  # otherwise it removes containers of others
            "PERSIST_STATE": persist,
            "STATE_DIR": str(self._folder / "state"),
            "S3_PERSIST": persist,
            "S3_DATA_DIR": str(self._folder / "s3"),
        }

    def answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/_ministack/health")
            return bool(json.load(connection.getresponse())["edition"] == self._edition)
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
            return False
        finally:
            connection.close()


class _Secantus(Server):
    name = "secantusd-py"

    def command(self) -> str:
        address = ("--host", "127.0.0.1", "--port", str(self.port))
        return command_line(
            self._program, *address, "--standalone", "--storage-path", self._folder, "--cache-size", "256M"
        )

    def answers(self) -> bool:
        client: MongoClient[dict[str, Any]]
        with MongoClient("127.0.0.1", self.port, serverSelectionTimeoutMS=2000, directConnection=True) as client:
            try:
                client.admin.command("ping")
                return bool(client.admin.command("serverStatus")["pid"] == self.child.pid)
            except (PyMongoError, LookupError):
                return False


def _find(program: str) -> Path:
    """Find a program next to this Python, or in the environment of the servers."""
    servers = Path(sys.prefix) / "servers"
    for folder in (Path(sys.executable).parent, servers / "bin"):
        if (folder / program).exists():
            return folder / program
    python = command_line(servers / "bin" / "python", "-m", "pip", "install", *SERVERS)
    install = "make setup-dev" if IS_CHECKOUT else f"{command_line(sys.executable, '-m', 'venv', servers)} && {python}"
    raise EmbeddedStackError(f"{program}, a server of the embedded stack, is not installed: run `{install}`")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Lock the folder for one stack; wait for the servers of a killed stack to end."""
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + LOCK_TIMEOUT
    with (folder / "lock").open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                user = _user_of(folder)
                if user or time.monotonic() > deadline:
                    raise EmbeddedStackError(
                        f"another embedded stack uses {folder}{user}: stop it, or choose another data folder"
                    ) from None
                time.sleep(0.05)
        file.truncate(0)
        note(folder, str(os.getpid()))
        yield file.fileno()


def note(folder: Path, text: str) -> None:
    """Add the process or the address of the stack that uses the folder, for those who find it locked."""
    with (folder / "lock").open("a") as file:
        file.write(f"{text}\n")


def _user_of(folder: Path) -> str:
    """Describe the running stack that uses the folder; empty if it was killed and only its servers still end."""
    pid, _, address = (folder / "lock").read_text().strip().partition("\n")
    try:
        os.kill(int(pid), 0)
    except (ValueError, OSError):
        return ""
    return f" (process {pid}{f', {address}' if address else ''})"
