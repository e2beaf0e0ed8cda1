"""Servers that a service cannot rely on: some hang, some drip, and each has an address of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

#: The response before the body. It promises more than will ever come.
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: 1000000\r\n\r\n\xff\xd8"


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read the request, and never answer."""
    while await reader.read(65536):
        pass


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with one byte a second."""
    writer.write(HEAD)
    while not writer.is_closing():
        await writer.drain()
        await asyncio.sleep(1)
        writer.write(b"\0")


def flood(size: int) -> Answer:
    """Return an answer of `size` bytes, sent as fast as the client reads."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n".encode())
        block = bytes(262_144)
        for start in range(0, size, len(block)):
            writer.write(block[: size - start])
            await writer.drain()

    return answer


def serving_files(makers: Sequence[Callable[[], bytes]]) -> Answer:
    """Return an answer to paths `/<number>.jpg`, with the file of one maker after the other, each made once."""
    kept = cache(lambda place: makers[place]())

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        body = await asyncio.to_thread(kept, int(path[1:].partition(b".")[0]) % len(makers))
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()

    return answer


def _sockets(count: int) -> list[socket.socket]:
    """Return sockets that listen at `count` addresses of the loopback network, all at the same port."""
    found: list[socket.socket] = []
    port = 0
    for number in range(count):
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((f"127.77.{number // 250}.{1 + number % 250}", port))
        port = made.getsockname()[1]
        found.append(made)
    return found


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def bad_servers(answer: Answer, count: int) -> Iterator[list[str]]:
    """Run `count` servers that answer like this; yields the URL of each, without a path."""
    loop, sockets = asyncio.new_event_loop(), _sockets(count)

    async def safely(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await answer(reader, writer)
        writer.close()

    async def serve() -> None:
        for each in sockets:
            await asyncio.start_server(safely, sock=each, backlog=1024)

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(serve(), loop).result()
    try:
        yield ["http://{}:{}".format(*each.getsockname()) for each in sockets]
    finally:
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        for each in sockets:
            each.close()
