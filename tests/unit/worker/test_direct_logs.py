"""The log lines of a worker that dramatiq's command has started."""

from __future__ import annotations

import logging
import multiprocessing
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from dramatiq.compat import StreamablePipe

from pipeline.worker.middleware import DirectLogs

COMMAND = ["dramatiq", "pipeline.actors", "--threads", "8"]


@pytest.fixture
def handler() -> Iterator[logging.StreamHandler[Any]]:
    """The handler that dramatiq gives to a worker. Its stream is a pipe to the main process."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    found = logging.StreamHandler(StreamablePipe(writer))
    logging.getLogger().addHandler(found)
    yield found
    logging.getLogger().removeHandler(found)
    reader.close()
    writer.close()


def test_a_worker_writes_them_itself(handler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", COMMAND)
    DirectLogs().before_worker_boot(None, None)
    assert handler.stream is sys.__stderr__


@pytest.mark.parametrize("option", [["--log-file", "log"], ["--log-file=log"], ["--log", "log"]])
def test_a_log_file_is_left_to_the_main_process(
    option: list[str], handler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [*COMMAND, *option])
    DirectLogs().before_worker_boot(None, None)
    assert isinstance(handler.stream, StreamablePipe)
