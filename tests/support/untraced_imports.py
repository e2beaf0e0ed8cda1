"""A plugin of coverage.py: in every process that it measures, the import of libraries is not traced.

A child process imports half a second of libraries, none of which is measured. Tracing them doubles their time.
"""

from __future__ import annotations

import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any

#: The packages whose import is traced: the measured packages and their importers.
TRACED = frozenset({"pipeline", "actors", "tests", "__main__"})


def coverage_init(registry: Any, options: dict[str, Any]) -> None:
    """Stop tracing while a module of a library is executed."""
    traced = SourceFileLoader.exec_module

    def exec_module(self: SourceFileLoader, module: ModuleType) -> None:
        tracer = sys.gettrace()
        if tracer is None or module.__name__.partition(".")[0] in TRACED:
            traced(self, module)
            return
        sys.settrace(None)
        try:
            traced(self, module)
        finally:
            sys.settrace(tracer)

    SourceFileLoader.exec_module = exec_module  # type: ignore[method-assign]
