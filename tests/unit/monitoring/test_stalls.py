"""Reports about stages whose messages wait."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.monitoring.processes import InProgress, Process, Work
from pipeline.monitoring.queue_depths import Depth
from pipeline.monitoring.stalls import stalls

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def waiting(number: int, in_flight: int = 0, stage: str = "fetch") -> list[Depth]:
    return [
        Depth("q", stage, "live", number, in_flight, 0),
        Depth("q_bulk", stage, "bulk", 0, 0, 7),
        Depth("q_dlq", stage, "dead", 5, 0, 0),
    ]


def process(seen: float = 1, taken: float | None = None, **more: Any) -> Process:
    work = Work({"fetch": ago(taken)} if taken is not None else {}, more.pop("in_hand", ()), more.pop("trouble", ()))
    facts = {"threads": 2, "started": ago(3600), "ended": False} | more
    return Process("id", "fetch", "host-a", 1, "0.1", ("fetch",), seen=ago(seen), work=work, **facts)


def test_nothing_is_said_of_a_stage_that_works_or_has_no_messages() -> None:
    assert stalls(waiting(0), [], NOW) == {}
    assert stalls(waiting(13, in_flight=2), None, NOW) == {}
    assert stalls(waiting(13), [process(taken=3)], NOW) == {}
    # a message may have arrived just now, and only an observer knows better
    assert stalls(waiting(13), [process(taken=4000)], NOW) == {}
    assert stalls(waiting(13), [process(taken=4000)], NOW, {"fetch": ago(5)}) == {}


def test_messages_without_a_process_are_reported() -> None:
    assert stalls(waiting(13), [process(seen=40, ended=True)], NOW)["fetch"] == (
        "13 wait, none taken for 40 s: the last process for fetch, on host-a, has stopped."
    )
    assert "on host-a, has disappeared" in stalls(waiting(13, in_flight=4), [process(seen=40)], NOW)["fetch"]
    assert stalls(waiting(1), [], NOW)["fetch"] == "1 waits, none is in flight: no process for fetch has been seen."
    assert stalls(waiting(1), None, NOW)["fetch"] == "1 waits, none is in flight: does a process for fetch run?"
    assert "no process for ingest" in stalls(waiting(1, stage="ingest"), [process(taken=1)], NOW)["ingest"]


def test_a_stage_is_pausing_until_every_running_process_has_confirmed() -> None:
    # Given three processes, of which one has confirmed the pause and one is gone
    still = process(taken=1)
    confirmed = replace(still, work=replace(still.work, paused=("fetch",)))
    gone = process(seen=60)
    pause = {"fetch": ago(12)}
    # Then the stage is pausing, and paused once the last one has confirmed
    assert stalls(waiting(13), [still, confirmed, gone], NOW, paused=pause)["fetch"] == (
        "13 wait: pausing for 12 s, and 1 process may still take some."
    )
    assert stalls(waiting(13), [confirmed, gone], NOW, paused=pause)["fetch"] == "13 wait: paused for 12 s."
    assert stalls(waiting(13), None, NOW, paused=pause)["fetch"] == "13 wait: paused for 12 s."


def test_the_trouble_of_one_process_is_not_the_reason_if_another_could_work() -> None:
    troubled, able = process(taken=45, trouble=("no answer from SQS",)), process(taken=45)
    assert "SQS" not in stalls(waiting(13), [troubled, able], NOW, {"fetch": ago(45)})["fetch"]
    hands = tuple(InProgress("fetch", "a-job", ago(seconds)) for seconds in (55, 45))
    busy = process(taken=45, in_hand=hands)
    assert "all 2 threads are busy" in stalls(waiting(13), [troubled, busy], NOW)["fetch"]
    other = process(taken=45, trouble=("the staging folder is full",))
    assert "no answer from SQS; the staging folder is full." in stalls(waiting(13), [troubled, other], NOW)["fetch"]


def test_what_hinders_running_processes_is_reported() -> None:
    hands = tuple(InProgress("fetch", "a-job", ago(seconds)) for seconds in (55, 45))
    assert stalls(waiting(13), [process(taken=45, in_hand=hands)], NOW)["fetch"] == (
        "13 wait, none taken for 45 s: all 2 threads are busy, the longest for 55 s."
    )
    assert "none taken for 45 s: no answer from SQS." in stalls(
        waiting(13), [process(taken=45, trouble=("no answer from SQS",))], NOW
    )["fetch"]  # fmt: skip
    assert stalls(waiting(13), [process(taken=4000)], NOW, {"fetch": ago(70)})["fetch"] == (
        "13 wait, none taken for 70 s, although processes for fetch run."
    )


def test_the_reason_is_one_that_concerns_the_stage_and_all_its_processes() -> None:
    # Given a process of all stages, whose queue of another stage is not answered
    other = "upload: no answer from SQS for more than 60 s"
    assert stalls(waiting(13), [process(taken=45, trouble=(other,))], NOW) == {}
    ours = "fetch_bulk: no answer from SQS for more than 60 s"
    assert ours in stalls(waiting(13), [process(taken=45, trouble=(other, ours))], NOW)["fetch"]
    # And one of two processes that stops, while the other could take messages
    stops = replace(process(taken=45, trouble=("it is stopping",)), id="stops")
    assert stalls(waiting(13), [stops, process(taken=45)], NOW) == {}
    # Then the busy threads of the other are the reason, and those of the one that stops are not counted.
    hands = tuple(InProgress("fetch", "a-job", ago(seconds)) for seconds in (55, 45))
    assert "all 2 threads are busy" in stalls(waiting(13), [stops, process(taken=45, in_hand=hands)], NOW)["fetch"]


def test_giants_wait_for_a_process_of_their_own() -> None:
    depths = [Depth("x_resize", "resize", "live", 3, 0, 0), Depth("x_resize_giant", "resize", "live", 2, 0, 0)]
    giants = replace(process(seen=40), type="giants", stages=("giants",))
    ordinary = replace(process(taken=1), type="resize", stages=("resize",), work=Work({"resize": ago(1)}))
    assert list(stalls(depths, [giants, ordinary], NOW)) == ["giants"]
    alive = replace(giants, seen=ago(1), work=Work({"giants": ago(1)}))
    gone = replace(ordinary, seen=ago(40))
    assert list(stalls(depths, [alive, gone], NOW)) == ["resize"]


def test_messages_in_quarantine_need_a_process_of_their_own() -> None:
    # Given a process for fetch, and messages of fetch in quarantine
    depths = [*waiting(0), Depth("q_quarantine", "fetch", "quarantine", 3, 0, 0)]
    # Then only a process for quarantine takes them.
    assert stalls(depths, [process(taken=1)], NOW) == {
        "quarantine": "3 wait, none is in flight: no process for quarantine has been seen."
    }
    quarantine = replace(process(taken=1), stages=("quarantine",), work=Work({"quarantine": ago(1)}))
    assert stalls(depths, [quarantine], NOW) == {}


def test_a_paused_stage_is_named_whether_messages_wait_or_not() -> None:
    paused = {"fetch": ago(600)}
    assert stalls(waiting(13), [replace(process(), work=Work(paused=("fetch",)))], NOW, paused=paused) == {
        "fetch": "13 wait: paused for 10 min."
    }
    assert stalls(waiting(0), None, NOW, paused=paused) == {"fetch": "0 wait: paused for 10 min."}
