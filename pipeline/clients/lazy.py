"""Functions whose result is created once per process, at the first call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar

from pipeline.settings import get_settings

#: Connections that each client keeps open to one service: more than the threads of any process in the Procfile.
POOL_SIZE = 128

P = ParamSpec("P")
T = TypeVar("T")

_all: list[Lazy[..., Any]] = []


class Lazy(Generic[P, T]):
    """Decorates a function so that it runs once per set of arguments, even if many threads call it at the same time.

    With `functools.cache`, each of these threads would create a result, and only the last would be kept.
    """

    def __init__(self, make: Callable[P, T]) -> None:
        self._make = make
        self._made: dict[Any, T] = {}
        self._lock = threading.Lock()
        update_wrapper(self, make)
        _all.append(self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        made, key = self._made, (args, tuple(kwargs.items()))
        if key not in made:
            with self._lock:
                if key not in made:
                    made[key] = self._make(*args, **kwargs)
        return made[key]

    def forget(self) -> None:
        """Drop all results. MongoDB clients are closed; other clients close when they are garbage-collected."""
        with self._lock:
            made, self._made = self._made, {}
        for each in made.values():
            if close := getattr(each, "close", None):
                close()


def forget() -> None:
    """Drop all clients and the settings, so that the environment is read again."""
    for lazy in _all:
        lazy.forget()
    get_settings.cache_clear()
