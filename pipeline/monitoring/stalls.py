"""Finds stages whose messages wait while no process takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

from pipeline.monitoring.processes import Process, stage_name
from pipeline.monitoring.queue_depths import DEAD, Depth
from pipeline.stages import own_queues
from pipeline.text import format_duration

#: How long a stage may take no message although its processes run. A thread may be busy with one image for this long.
STALLED_AFTER = timedelta(seconds=30)


def stalls(
    depths: Iterable[Depth],
    processes: Sequence[Process] | None,
    now: datetime,
    waiting_since: Mapping[str, datetime] | None = None,
    paused: Mapping[str, datetime] | None = None,
) -> dict[str, str]:
    """Return a sentence for each stage, for giants and for quarantine, whose messages wait and are not taken.

    Args:
        depths: the queues.
        processes: the processes with their heartbeats; None if they are unknown.
        now: the current time.
        waiting_since: when the messages of a stage began to wait without a break, if that was observed.
        paused: since when stages have been paused. They are named even if nothing waits.
    """
    queues: dict[str, list[Depth]] = {}
    for depth in depths:
        if depth.lane != DEAD:
            queues.setdefault(depth.consumer, []).append(depth)
    found = {}
    for stage, ours in queues.items():
        if paused and stage in paused:
            waiting = sum(depth.waiting for depth in ours)
            taking = still_taking(stage, processes or (), now)
            ours_yet = f", and {taking:,} process{'' if taking == 1 else 'es'} may still take some" if taking else ""
            state = "pausing" if taking else "paused"
            found[stage] = f"{waiting:,} {_verb(waiting)}: {state} for {_age(paused[stage], now)}{ours_yet}."
            continue
        if waiting := sum(depth.waiting for depth in ours):
            in_flight = sum(depth.in_flight for depth in ours)
            theirs = None if processes is None else [each for each in processes if stage in each.stages]
            if reason := _reason(stage, theirs, in_flight, now, (waiting_since or {}).get(stage)):
                found[stage] = f"{waiting:,} {_verb(waiting)}, {reason}"
    return found


def still_taking(stage: str, processes: Iterable[Process], now: datetime) -> int:
    """Count the running processes that have not confirmed that they take no message of a paused stage."""
    ours = (each for each in processes if stage in each.stages and each.is_alive(now))
    return sum(stage not in each.work.paused for each in ours)


def _verb(waiting: int) -> str:
    return "waits" if waiting == 1 else "wait"


def _reason(
    stage: str, processes: Sequence[Process] | None, in_flight: int, now: datetime, waiting_since: datetime | None
) -> str:
    """Return why the messages of a stage are not taken; empty if they are, or if that cannot be known."""
    if not processes:
        known = f"does a process for {stage} run?" if processes is None else f"no process for {stage} has been seen."
        return "" if in_flight else f"none is in flight: {known}"
    alive = [each for each in processes if each.is_alive(now)]
    if not alive:
        last = max(processes, key=lambda each: each.seen)
        end = "stopped" if last.ended else "disappeared"
        return f"none taken for {_age(last.seen, now)}: the last process for {stage}, on {last.host}, has {end}."
    taken = max(each.work.taken.get(stage, each.started) for each in alive)
    if now - taken < STALLED_AFTER:
        return ""
    if hindrance := _hindrance(stage, alive, now):
        return f"none taken for {_age(taken, now)}: {hindrance}."
    if waiting_since and now - waiting_since >= STALLED_AFTER:
        return f"none taken for {_age(max(taken, waiting_since), now)}, although processes for {stage} run."
    return ""


def _hindrance(stage: str, processes: Sequence[Process], now: datetime) -> str:
    """Return why running processes take no messages of a stage; empty if one of them could."""
    troubles = [next(filter(partial(_concerns, stage), each.work.trouble), "") for each in processes]
    if all(troubles):
        return "; ".join(dict.fromkeys(trouble.removesuffix(".") for trouble in troubles))
    able = [each for each, trouble in zip(processes, troubles, strict=True) if not trouble]
    busy = [hand for each in able for hand in each.work.in_hand]
    threads = sum(each.threads for each in able)
    if len(busy) < threads:
        return ""
    return f"all {threads} threads are busy, the longest for {_age(min(hand.since for hand in busy), now)}"


def _concerns(stage: str, trouble: str) -> bool:
    """Return whether a sentence is about a stage: it begins with a queue of that stage, or with none."""
    queue = trouble.partition(":")[0]
    return queue not in own_queues() or stage_name(queue) == stage


def _age(moment: datetime, now: datetime) -> str:
    return format_duration((now - moment).total_seconds(), whole=True)
