"""The host limiter with more hosts than it remembers."""

from __future__ import annotations

from collections import Counter

import pytest

from pipeline.net import host_limits as hosts
from pipeline.net.host_limits import HostLimiter, Policy
from tests.support.limiter import OTHER, Clock, ask, fail, snooze


def test_hosts_in_use_are_remembered_however_many_come_after_them(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a limiter that counts how often it looks at a host to see whether it is busy
    looks = Counter[str]()

    class Watched(hosts.Host):
        def __getattribute__(self, name: str) -> object:
            looks[name] += 1
            return super().__getattribute__(name)

    monkeypatch.setattr(hosts, "Host", Watched)
    monkeypatch.setattr(hosts, "MAX_HOSTS", 100)
    host_limiter = HostLimiter(Policy(4), clock)
    # and a host that rests and is asked now and then, and one with a request in progress
    fail(host_limiter, folder="FOLDER")
    with host_limiter.slot(OTHER):
        # When more hosts come than are kept
        for n in range(1000):
            before = looks["busy"]
            ask(host_limiter, url=f"https://host-{n}.example/")
            assert looks["busy"] - before < 20
            if n % 50 == 0:
                snooze(host_limiter)
        # Then the table is bounded, and those two are still known.
        assert len(host_limiter._hosts) <= 101
        assert host_limiter._hosts["https://other.example"].busy == 1
    assert host_limiter._hosts["https://other.example"].busy == 0
    assert snooze(host_limiter).code == "host_resting"
