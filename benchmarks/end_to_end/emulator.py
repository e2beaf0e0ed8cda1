"""The embedded SQS and S3 for measurements: ministack with counted requests, delays, and prompt long polls.

    python emulator.py SQS S3    in the servers' environment: ministack, with the variables that it reads

Each request to SQS or S3 is handled only after this many seconds, to simulate a network. Requests are counted at the
wire, whichever client library sent them. `GET /_bench/requests` returns the counts by kind as JSON, with the CPU
seconds of the emulator itself. Clients with the application id `bench` belong to the benchmark: their requests are
neither counted nor delayed. As with SQS, a long poll returns as soon as a message arrives; plain ministack checks ten
times per second.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs

#: The path of the counts.
PATH = "/_bench/requests"

#: The part that botocore adds to the User-Agent when AWS_SDK_UA_APP_ID is `bench`.
OWN = b"app/bench"

#: Seconds between ministack's checks of a polled queue.
POLL = 0.1

#: Bytes of a payload that SQS bills as one request.
CHUNK = 64 * 1024

#: S3's operations on an object, by HTTP method.
OBJECT = {"GET": "GetObject", "PUT": "PutObject", "HEAD": "HeadObject", "DELETE": "DeleteObject", "POST": "Post"}

App = Callable[[dict[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


class Counting:
    """An ASGI application that wraps ministack's."""

    def __init__(self, app: App, wakes: Wakes, delays: dict[str, float]) -> None:
        self._app = app
        self._delays = delays
        self._wakes = wakes
        self._requests: Counter[str] = Counter()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == PATH:
            await _answer(send, {"cpu": time.process_time(), "requests": self._requests})
        else:
            await self._count(scope, receive, send)

    async def _count(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        headers = dict(scope["headers"])
        body, sizes = bytearray(), [0, 0]

        async def received() -> Any:
            message = await receive()
            data = message.get("body", b"")
            sizes[0] += len(data)
            if len(body) < CHUNK:
                body.extend(data[:CHUNK])
            return message

        async def sent(message: Any) -> None:
            sizes[1] += len(message.get("body", b""))
            await send(message)

        is_own = OWN in headers.get(b"user-agent", b"")
        if not is_own:
            await asyncio.sleep(self._delays[_service(scope, headers)])
        await self._app(scope, received, sent)
        kind = _kind(scope, headers, bytes(body))
        if "SendMessage" in kind:
            self._wakes.wake()
        if not is_own:
            chunks = max(1, -(-max(sizes) // CHUNK)) if kind.startswith("sqs") else 1
            self._requests[kind] += chunks


def _service(scope: dict[str, Any], headers: dict[bytes, bytes]) -> str:
    """Return `sqs` or `s3`, from the headers of a request."""
    is_form = b"x-www-form-urlencoded" in headers.get(b"content-type", b"")
    return "sqs" if b"x-amz-target" in headers or is_form or b"Action=" in scope["query_string"] else "s3"


def _kind(scope: dict[str, Any], headers: dict[bytes, bytes], body: bytes) -> str:
    """Return the kind of a request, such as `sqs SendMessageBatch` or `s3 PutObject`."""
    if target := headers.get(b"x-amz-target"):
        return f"sqs {target.decode().rpartition('.')[2]}"
    asked = scope["query_string"].decode()
    if b"x-www-form-urlencoded" in headers.get(b"content-type", b""):
        asked += f"&{body.decode(errors='replace')}"
    if action := parse_qs(asked).get("Action"):
        return f"sqs {action[0]}"
    is_object = "/" in scope["path"].strip("/")
    if scope["method"] == "POST" and "delete" in parse_qs(asked, keep_blank_values=True):
        return "s3 DeleteObjects"
    if scope["method"] == "GET" and not is_object:
        return "s3 ListObjects"
    return f"s3 {OBJECT.get(scope['method'], scope['method'])}"


async def _answer(send: Any, what: object) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(what).encode()})


class Wakes:
    """Replaces asyncio in ministack's queues: a sleep until the next check also ends when a message is sent."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._sent = asyncio.Event()

    def wake(self) -> None:
        self._sent.set()
        self._sent.clear()

    async def sleep(self, seconds: float) -> None:
        if seconds != POLL:
            await asyncio.sleep(seconds)
            return
        try:
            await asyncio.wait_for(self._sent.wait(), seconds)
        except TimeoutError:
            return

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def main() -> None:
    """Run ministack."""
    from ministack import app  # noqa: PLC0415 - of the servers' environment
    from ministack.services import sqs  # noqa: PLC0415

    wakes = Wakes(asyncio)
    sqs.asyncio = wakes
    _, to_sqs, to_s3 = sys.argv
    del sys.argv[1:]  # ministack reads this variable too.
    app.app = Counting(app.app, wakes, {"sqs": float(to_sqs), "s3": float(to_s3)})
    app.main()


if __name__ == "__main__":
    sys.exit(main())
