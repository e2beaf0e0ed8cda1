"""The store of bodies that are too long for a message."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pipeline.errors import RetryableError
from pipeline.sqs.wire import Unavailable
from pipeline.worker import long_bodies
from pipeline.worker.long_bodies import REST, LongBodies
from tests.support.moved_clock import MovedClock


def test_after_a_failure_staging_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a staging that is down
    asked: list[bytes] = []
    is_down = True

    def put(body: bytes) -> str:
        asked.append(body)
        if is_down:
            raise RetryableError("s3_error", "S3 is down.")
        return "key"

    monkeypatch.setattr(long_bodies, "staging", lambda: SimpleNamespace(put=put))
    clock = MovedClock()
    bodies = LongBodies(clock)  # type: ignore[arg-type]
    # When bodies are stored in quick succession
    for body in (b"1", b"2"):
        with pytest.raises(Unavailable, match="S3 is down"):
            bodies.put(body)
    # Then only the first waited for it.
    assert asked == [b"1"]
    # When it is up and its rest is over, then it is asked again.
    is_down = False
    clock.now += REST
    assert bodies.put(b"3") == "key"
    assert asked == [b"1", b"3"]
