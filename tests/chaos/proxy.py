"""A proxy in front of SQS and S3 that simulates faults of networks and services.

It runs in one thread. Each client connection has its own connection to the server. Long polls are made in slices of a
second, so none continues behind the proxy after its client has died.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Collection, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any
from urllib.parse import urlsplit

from pipeline.sqs.queues import GIVE_UP_AT
from tests.chaos.staging_log import Delivery

#: Seconds of each slice of a long poll.
SLICE = 1

#: Suffix of a copy's receipt handle. Each delivery has its own handle, as in SQS.
COPY = re.compile(rb"~copy\d+")

SENDS = frozenset({"SendMessage", "SendMessageBatch"})
DELETES = frozenset({"DeleteMessage", "DeleteMessageBatch"})
RECEIVES = frozenset({"ReceiveMessage"})
S3 = frozenset({"GET", "PUT", "POST", "HEAD", "DELETE"})


class Act(Enum):
    """The proxy's treatment of a request."""

    DELAY = auto()  #: forwards it late
    HOLD = auto()  #: forwards it when the trouble is over
    CUT_BEFORE = auto()  #: closes the connection instead
    CUT_MIDWAY = auto()  #: forwards it, and closes the connection in the middle of the answer
    LOSE_ANSWER = auto()  #: forwards it, and closes the connection before the answer
    UNAVAILABLE = auto()  #: answers 503
    THROTTLE = auto()  #: answers with a throttling error
    EXPIRED = auto()  #: answers that the credentials have expired
    FORBID = auto()  #: answers 403 AccessDenied
    REFUSE_ENTRIES = auto()  #: forwards part of a batch, and reports the other entries as failed
    REPEAT = auto()  #: delivers the messages of an answer again later
    REORDER = auto()  #: shuffles the messages of an answer, and keeps some for a later answer


INSTEAD = {Act.CUT_BEFORE, Act.UNAVAILABLE, Act.THROTTLE, Act.EXPIRED, Act.FORBID}


@dataclass(eq=False)
class Trouble:
    """A fault of some requests, while it is active."""

    act: Act
    operations: Collection[str] = ()  #: SQS operations by name, S3 operations by method; empty means all
    chance: float = 1.0  #: of each request
    seconds: float = 0.0  #: the longest delay
    copies: int = 1  #: number of extra deliveries of a message
    path: str = ""  #: only requests whose path contains this
    role: str = ""  #: only requests signed with this access key

    def concerns(self, request: Request) -> bool:
        """Return whether the request may be troubled."""
        return (
            (not self.operations or request.operation in self.operations)
            and self.path in request.path
            and self.role in {"", request.role}
        )


@dataclass
class Request:
    """One HTTP request."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def is_sqs(self) -> bool:
        return any(name.lower() == "x-amz-target" for name, _ in self.headers)

    @property
    def operation(self) -> str:
        """The SQS operation, such as SendMessageBatch, or the HTTP method for S3."""
        target = self._header("x-amz-target")
        return target.rpartition(".")[2] if target else self.method

    @property
    def role(self) -> str:
        """The access key that signed it."""
        return self._header("authorization").partition("Credential=")[2].partition("/")[0]

    def _header(self, wanted: str) -> str:
        return next((value for name, value in self.headers if name.lower() == wanted), "")


@dataclass
class Answer:
    """One HTTP answer."""

    status: str
    headers: list[tuple[str, str]]
    body: bytes

    def encode(self, method: str) -> bytes:
        headers = [(name, value) for name, value in self.headers if name.lower() != "transfer-encoding"]
        if method != "HEAD" and not self.status.startswith("204"):
            headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
            headers.append(("Content-Length", str(len(self.body))))
        return _head(f"HTTP/1.1 {self.status}", headers) + self.body


class Proxy:
    """The proxy, which runs while its context is entered.

    Args:
        target: URL of the server.
        rng: source of all random choices.
        spare: requests and messages that contain this are forwarded unchanged.
    """

    def __init__(self, target: str, rng: random.Random, spare: str = "") -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "", parts.port or 80)
        self._rng = rng
        self._spare = spare
        self._troubles: tuple[Trouble, ...] = ()
        self._later: dict[str, deque[dict[str, Any]]] = {}
        self._copies = 0
        self._deliveries: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.port = 0
        self.requests: Counter[str] = Counter()
        self.acts: Counter[str] = Counter()
        self.delivered: list[Delivery] = []
        self.troubled: list[tuple[float, float]] = []  #: start and end of each period with an active fault

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @contextmanager
    def trouble(self, *troubles: Trouble) -> Iterator[None]:
        """Activate `troubles` inside the context."""
        self._troubles += troubles
        since = time.monotonic()
        try:
            yield
        finally:
            self.troubled.append((since, time.monotonic()))
            self._troubles = tuple(each for each in self._troubles if each not in troubles)

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        """Close all connections and refuse new ones inside the context."""
        self._run(self._shut())
        since = time.monotonic()
        try:
            yield
        finally:
            self._run(self._open())
            self.troubled.append((since, time.monotonic()))

    def calm(self) -> None:
        """Deactivate all faults and drop undelivered copies."""
        self._troubles = ()
        self._later = {}

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _open(self) -> None:
        deadline = self._loop.time() + 10
        while True:
            try:
                self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=512)
                break
            except OSError:
                if self._loop.time() > deadline:
                    raise
                await asyncio.sleep(0.05)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _shut(self) -> None:
        if self._server:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        self._writers.add(writer)
        upstream = _Upstream(self._target)
        try:
            while request := await _read_request(reader, writer):
                self.requests[request.operation] += 1
                data, goes_on = await self._handle(request, reader, upstream)
                writer.write(data)
                await writer.drain()
                if not goes_on:
                    break
        except (OSError, asyncio.IncompleteReadError, ValueError):
            pass
        finally:
            upstream.close()
            writer.close()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _wait(self, acts: dict[Act, Trouble]) -> None:
        if late := acts.get(Act.DELAY):
            self.acts[Act.DELAY.name] += 1
            await asyncio.sleep(self._rng.uniform(0, late.seconds))
        if held := acts.get(Act.HOLD):
            self.acts[Act.HOLD.name] += 1
            while held in self._troubles:
                await asyncio.sleep(0.05)

    async def _handle(self, request: Request, reader: asyncio.StreamReader, upstream: _Upstream) -> tuple[bytes, bool]:
        """Return the bytes for the client, and whether the connection stays open."""
        acts = {}
        for trouble in self._troubles:
            if self._spare and self._spare.encode() in request.body:
                break
            if trouble.concerns(request) and self._rng.random() < trouble.chance:
                acts[trouble.act] = trouble
        await self._wait(acts)
        if instead := next((act for act in INSTEAD if act in acts), None):
            self.acts[instead.name] += 1
            if instead is Act.CUT_BEFORE:
                return b"", False
            return _error(instead, request).encode(request.method), True
        request.body = COPY.sub(b"", request.body) if request.is_sqs else request.body
        if request.operation in RECEIVES:
            answer = await self._receive(request, reader, upstream, acts)
        elif Act.REFUSE_ENTRIES in acts and request.operation.endswith("Batch"):
            self.acts[Act.REFUSE_ENTRIES.name] += 1
            answer = await self._refuse_entries(request, upstream)
        else:
            answer = await upstream.ask(request)
        if Act.LOSE_ANSWER in acts:
            self.acts[Act.LOSE_ANSWER.name] += 1
            return b"", False
        data = answer.encode(request.method)
        if Act.CUT_MIDWAY in acts:
            self.acts[Act.CUT_MIDWAY.name] += 1
            return data[: len(data) // 2], False
        return data, True

    async def _receive(
        self, request: Request, reader: asyncio.StreamReader, upstream: _Upstream, acts: dict[Act, Trouble]
    ) -> Answer:
        asked = json.loads(request.body)
        deadline = self._loop.time() + asked.get("WaitTimeSeconds", 0)
        room = asked.get("MaxNumberOfMessages", 1)
        later = self._later.setdefault(asked["QueueUrl"], deque())
        while True:
            if later:
                copies = [later.popleft() for _ in range(min(room, len(later)))]
                return _json_answer({"Messages": self._counted(copies)})
            remaining = max(0.0, deadline - self._loop.time())
            request.body = json.dumps(asked | {"WaitTimeSeconds": int(min(SLICE, remaining))}).encode()
            answer = await upstream.ask(request)
            messages = json.loads(answer.body).get("Messages", []) if answer.status.startswith("200") else None
            if messages:
                return _json_answer({"Messages": self._counted(self._delivered(messages, later, acts))})
            if messages is None or remaining <= SLICE or reader.at_eof():
                return answer

    def _delivered(
        self, messages: list[dict[str, Any]], later: deque[dict[str, Any]], acts: dict[Act, Trouble]
    ) -> list[dict[str, Any]]:
        """Return the messages to deliver now, and keep the rest in `later`."""
        if self._spare and any(self._spare in message["Body"] for message in messages):
            return messages
        if repeat := acts.get(Act.REPEAT):
            for message in messages:
                for _ in range(repeat.copies):
                    self._copies += 1
                    later.append(message | {"ReceiptHandle": f"{message['ReceiptHandle']}~copy{self._copies}"})
                    self.acts[Act.REPEAT.name] += 1
        if Act.REORDER in acts:
            self.acts[Act.REORDER.name] += len(messages)
            self._rng.shuffle(messages)
            kept = len(messages) // 2
            later.extend(messages[:kept])
            messages = messages[kept:]
        return messages

    def _counted(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return `messages` with their receive counts, because SQS counts repeated deliveries too.

        Copies alone never give a message up. Otherwise random kills would sooner or later give an innocent one up.
        """
        counted = []
        for message in messages:
            self._deliveries[message["MessageId"]] += 1
            is_copy = "~copy" in message["ReceiptHandle"]
            self.delivered.append(Delivery(time.monotonic(), message["MessageId"], message["Body"], is_copy))
            attributes = message.get("Attributes", {})
            count = min(self._deliveries[message["MessageId"]], GIVE_UP_AT - 1)
            count = max(count, int(attributes.get("ApproximateReceiveCount", 1)))
            counted.append(message | {"Attributes": attributes | {"ApproximateReceiveCount": str(count)}})
        return counted

    async def _refuse_entries(self, request: Request, upstream: _Upstream) -> Answer:
        asked = json.loads(request.body)
        refused = [entry for entry in asked["Entries"] if self._rng.random() < 0.5]
        accepted = [entry for entry in asked["Entries"] if entry not in refused]
        content: dict[str, Any] = {}
        if accepted:
            request.body = json.dumps(asked | {"Entries": accepted}).encode()
            answer = await upstream.ask(request)
            if not answer.status.startswith("200"):
                return answer
            content = json.loads(answer.body)
        failures = [{"Id": entry["Id"], "Code": "InternalError", "SenderFault": False} for entry in refused]
        return _json_answer(content | {"Failed": content.get("Failed", []) + failures})


class _Upstream:
    """A connection to the server. It is opened at its first use, and reopened if the server closed it."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: Request) -> Answer:
        fresh = self._streams is None
        try:
            return await self._ask(request)
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            if fresh:
                raise
            return await self._ask(request)

    async def _ask(self, request: Request) -> Answer:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._target)
        reader, writer = self._streams
        dropped = {"content-length", "transfer-encoding", "expect", "connection"}
        headers = [(name, value) for name, value in request.headers if name.lower() not in dropped]
        if request.body or request.method in {"POST", "PUT"}:
            headers.append(("Content-Length", str(len(request.body))))
        writer.write(_head(f"{request.method} {request.path} HTTP/1.1", headers) + request.body)
        await writer.drain()
        start, headers = await _read_head(reader)
        status = start.split(" ", 1)[1]
        bodiless = request.method == "HEAD" or status[:3] in {"204", "304"}
        answer = Answer(status, headers, b"" if bodiless else await _read_body(reader, headers))
        if any(name.lower() == "connection" and value.lower() == "close" for name, value in headers):
            self.close()
        return answer

    def close(self) -> None:
        if self._streams:
            self._streams[1].transport.abort()
            self._streams = None


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    try:
        start, headers = await _read_head(reader)
    except asyncio.IncompleteReadError:
        return None
    method, path, _ = start.split(" ", 2)
    if any(name.lower() == "expect" for name, _ in headers):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return Request(method, path, headers, await _read_body(reader, headers))


async def _read_head(reader: asyncio.StreamReader) -> tuple[str, list[tuple[str, str]]]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines[1:] if line)
    return lines[0], [(name, value.strip()) for name, _, value in pairs]


async def _read_body(reader: asyncio.StreamReader, headers: list[tuple[str, str]]) -> bytes:
    named = {name.lower(): value for name, value in headers}
    if "chunked" not in named.get("transfer-encoding", "").lower():
        return await reader.readexactly(int(named.get("content-length", 0)))
    body = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    with suppress(asyncio.IncompleteReadError):
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
    return bytes(body)


def _head(start: str, headers: list[tuple[str, str]]) -> bytes:
    lines = [start, *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _json_answer(content: dict[str, Any], status: str = "200 OK") -> Answer:
    return Answer(status, [("Content-Type", "application/x-amz-json-1.0")], json.dumps(content).encode())


_ERRORS = {
    Act.UNAVAILABLE: ("503 Service Unavailable", "ServiceUnavailable"),
    Act.THROTTLE: ("400 Bad Request", "RequestThrottled"),
    Act.EXPIRED: ("403 Forbidden", "ExpiredToken"),
    Act.FORBID: ("403 Forbidden", "AccessDenied"),
}


def _error(act: Act, request: Request) -> Answer:
    """Return the error answer of SQS or S3 for this act."""
    status, code = _ERRORS[act]
    if request.is_sqs:
        return _json_answer({"__type": f"com.amazonaws.sqs#{code}", "message": "by the proxy"}, status)
    if act is Act.THROTTLE:
        status, code = "503 Slow Down", "SlowDown"
    body = b"" if request.method == "HEAD" else f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()
    return Answer(status, [("Content-Type", "application/xml")], body)
