"""When coverage.py traces: a plugin of it, and what the hooks in tests/conftest.py need.

Tracing doubles the CPU time of everything that runs meanwhile, libraries and pytest included, of which nothing is
measured. So it rests while a library is imported or talks to a server, while pytest works between tests, and during
tests whose marker says that they run no line of their own.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any

#: The measured packages.
MEASURED = frozenset({"pipeline", "actors"})

#: Packages whose import is left as it is: they import measured ones.
IMPORTERS = frozenset({"tests", "__main__"})

#: Methods of libraries during which tracing rests, by module.
RESTING_CALLS = {
    "boto3.session": [("Session", "__init__"), ("Session", "client")],
    "botocore.client": [("BaseClient", "_make_api_call")],
    "jinja2.environment": [("Environment", "compile")],
    "pymongo.synchronous.mongo_client": [("MongoClient", "__init__"), ("MongoClient", "_retry_internal")],
}

#: coverage.py's variable, which makes a child process measure itself.
MEASURES_CHILDREN = "COVERAGE_PROCESS_CONFIG"


class _Rest(threading.local):
    """The tracer of this thread while it rests."""

    tracer: Any = None


_rest = _Rest()


@contextmanager
def resting() -> Iterator[None]:
    """Trace nothing in this thread until `tracing`."""
    if (tracer := sys.gettrace()) is None:
        yield
        return
    sys.settrace(None)
    _rest.tracer = tracer
    try:
        yield
    finally:
        _rest.tracer = None
        sys.settrace(tracer)


@contextmanager
def tracing() -> Iterator[None]:
    """Trace again inside of `resting`."""
    if (tracer := _rest.tracer) is None:
        yield
        return
    _rest.tracer = None
    sys.settrace(tracer)
    try:
        yield
    finally:
        sys.settrace(None)
        _rest.tracer = tracer


@contextmanager
def unmeasured() -> Iterator[None]:
    """Trace neither this thread nor the threads and child processes that it starts, whatever they call."""
    mine, others, children = sys.gettrace(), threading.gettrace(), os.environ.pop(MEASURES_CHILDREN, None)
    sys.settrace(None)
    threading.settrace(None)
    try:
        yield
    finally:
        if children is not None:
            os.environ[MEASURES_CHILDREN] = children
        threading.settrace(others)
        sys.settrace(mine)


def coverage_init(registry: Any, options: dict[str, Any]) -> None:
    """Let tracing rest in every process that coverage.py measures."""
    execute = SourceFileLoader.exec_module

    def exec_module(self: SourceFileLoader, module: ModuleType) -> None:
        package = module.__name__.partition(".")[0]
        if package in IMPORTERS:
            execute(self, module)
            return
        with tracing() if package in MEASURED else resting():
            execute(self, module)
        for owner, name in RESTING_CALLS.get(module.__name__, ()):
            _let_rest(getattr(module, owner), name)

    SourceFileLoader.exec_module = exec_module  # type: ignore[assignment,method-assign]


def _let_rest(owner: type, name: str) -> None:
    call: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(call)
    def call_resting(*args: Any, **kwargs: Any) -> Any:
        with resting():
            return call(*args, **kwargs)

    setattr(owner, name, call_resting)
