"""Replaces time and threads in the modules of the product and of dramatiq, while histories happen."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

from dramatiq.worker import ConsumerThread, WorkerThread

import pipeline.monitoring.health
import pipeline.sqs.consumer
import pipeline.sqs.in_hand
import pipeline.sqs.middleware
import pipeline.worker.ingest
import pipeline.worker.messages
import pipeline.worker.stage_actor
from pipeline.job import VERSION, Job
from pipeline.sqs.in_hand import LaneQueue
from tests.simulation import threads
from tests.simulation.processes import SETTINGS

#: Seconds after which an idle thread looks by itself whether there is work. Histories that rely on it end too late.
IDLE_STEP = 900.0

#: Seconds between two looks of an idle thread in a stop. The product's twenty a second took a fifth of all CPU time.
STOP_STEP = 0.5

#: The modules whose time and threads are simulated, by the beginnings of their names.
MODULES = ("pipeline.sqs.", "pipeline.worker.", "pipeline.monitoring.health", "dramatiq.worker", "dramatiq.common")


class Time:
    """Replaces the module `time`."""

    @staticmethod
    def monotonic() -> float:
        return threads._scheduler[0].clock.now

    perf_counter = monotonic

    @staticmethod
    def time() -> float:
        return threads._scheduler[0].clock.time()

    @staticmethod
    def sleep(seconds: float) -> None:
        threads._scheduler[0].sleep(seconds)


THREADING = SimpleNamespace(
    Thread=threads.Thread, Lock=threads.Lock, Condition=threads.Condition, Event=threads.Event, get_ident=lambda: 0
)

#: What replaces each part of the standard library, wherever a module of `MODULES` imports it.
REPLACED: tuple[tuple[Any, Any], ...] = (
    (time, Time),
    (time.time, Time.time),
    (time.monotonic, Time.monotonic),
    (threading, THREADING),
    (queue.SimpleQueue, threads.SimpleQueue),
    (ThreadPoolExecutor, threads.ThreadPoolExecutor),
)


def _thread_of(thread: Any) -> threads.Thread:
    if "simulated" not in thread.__dict__:
        thread.simulated = threads.Thread(target=thread.run, name=getattr(thread, "queue_name", "worker"))
    return thread.simulated  # type: ignore[no-any-return]


class LaneQueueOfThreads(LaneQueue):
    """The product's queue, whose locks are simulated."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.mutex: Any = threads.Lock()
        self.not_empty, self.not_full, self.all_tasks_done = (threads.Condition(self.mutex) for _ in range(3))  # type: ignore[assignment]


def _decode(encoded: Any, original: Callable[[Any], Job] = Job.decode) -> Job:
    """Read a job. A newer one is readable once its version is deployed."""
    if threads._scheduler[0].is_deployed and isinstance(encoded, dict) and encoded.get("v") == VERSION + 1:
        encoded = {**encoded, "v": VERSION}
    return original(encoded)


@contextmanager
def replaced() -> Iterator[None]:
    """Let the product and dramatiq's worker use simulated threads and virtual time inside the context."""
    undo: list[Callable[[], None]] = []

    def put(owner: Any, name: str, value: Any) -> None:
        before = owner.__dict__.get(name)
        setattr(owner, name, value)
        undo.append(lambda: delattr(owner, name) if before is None else setattr(owner, name, before))

    for module in [module for name, module in list(sys.modules.items()) if name.startswith(MODULES)]:
        for name, value in list(vars(module).items()):
            for original, instead in REPLACED:
                if value is original:
                    put(module, name, instead)
    for kind in (ConsumerThread, WorkerThread):  # dramatiq's own subclasses of `threading.Thread`
        put(kind, "start", lambda thread: _thread_of(thread).start())
        put(kind, "join", lambda thread, timeout=None: _thread_of(thread).join(timeout))
        put(kind, "is_alive", lambda thread: _thread_of(thread).is_alive())
    put(pipeline.sqs.middleware, "LaneQueue", LaneQueueOfThreads)
    put(pipeline.sqs.middleware, "signal", SimpleNamespace(getsignal=lambda _: None, SIGTERM=15))
    for module in (pipeline.sqs.in_hand, pipeline.sqs.consumer):
        put(module, "IDLE_STEP", IDLE_STEP)
        put(module, "STOP_STEP", STOP_STEP)
    put(pipeline.worker.stage_actor, "TimeLimit", nullcontext)  # `client.Faults.interrupt` stands for it
    put(pipeline.worker.messages, "get_settings", lambda: SETTINGS)
    put(Job, "decode", staticmethod(_decode))
    try:
        yield
    finally:
        for each in reversed(undo):
            each()
