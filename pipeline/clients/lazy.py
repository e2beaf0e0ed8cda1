"""Functions whose result is made once per process, when it is first asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar

from pipeline.settings import get_settings

P = ParamSpec("P")
T = TypeVar("T")

_all: list[Lazy[..., Any]] = []


class Lazy(Generic[P, T]):
    """A function whose result is made once for each set of arguments, however many threads ask at the same time.

    `functools.cache` would let each of those threads make one, and keep the last.
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
        """Drop all results. MongoDB clients among them are closed; the others close with their last reference."""
        with self._lock:
            made, self._made = self._made, {}
        for each in made.values():
            if close := getattr(each, "close", None):
                close()


def forget() -> None:
    """Drop every client and the settings, so that the next use reads the environment again."""
    for lazy in _all:
        lazy.forget()
    get_settings.cache_clear()
