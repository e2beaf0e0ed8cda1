"""The host limiter with more hosts than it remembers."""

from __future__ import annotations

from collections import Counter

import pytest

from pipeline.net import host_limits as hosts
from pipeline.net.circuit import LONGEST_OPEN_TIME
from pipeline.net.host_limits import HostLimiter, Policy
from tests.support.limiter import OTHER, Clock, ask, fail, snooze


@pytest.fixture
def host_limiter(clock: Clock) -> HostLimiter:
    return HostLimiter(Policy(4), clock)


@pytest.mark.unmeasured
class TestManyHosts:
    @pytest.fixture
    def looks(self, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
        """Count how often the limiter looks at a host to see whether it is busy."""
        counted = Counter[str]()

        class Watched(hosts.Host):
            def __getattribute__(self, name: str) -> object:
                counted[name] += 1
                return super().__getattribute__(name)

        monkeypatch.setattr(hosts, "Host", Watched)
        return counted

    def test_a_new_host_costs_no_more_when_many_are_known(
        self, host_limiter: HostLimiter, clock: Clock, looks: Counter[str]
    ) -> None:
        # Given 40,000 new hosts within five minutes, then no request looks at more than a handful of hosts,
        for n in range(40_000):
            clock.now += LONGEST_OPEN_TIME / 40_000
            before = looks["busy"]
            ask(host_limiter, url=f"https://host-{n}.example/")
            assert looks["busy"] - before < 20
        # and all are remembered, because a circuit may be open for that long.
        assert len(host_limiter._hosts) == 40_000
        # When one host alone is asked afterwards, then the others are forgotten a few at a time.
        clock.now += LONGEST_OPEN_TIME
        for _ in range(40_000):
            ask(host_limiter)
        assert len(host_limiter._hosts) == hosts.KEPT_HOSTS

    def test_hosts_in_use_are_remembered_however_many_come_after_them(
        self, host_limiter: HostLimiter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(hosts, "KEPT_HOSTS", 50)
        monkeypatch.setattr(hosts, "MAX_HOSTS", 100)
        # Given a host that rests, one with a request in progress, and one that is asked now and then
        fail(host_limiter, folder="FOLDER")
        with host_limiter.slot(OTHER):
            # When more hosts come at once than are kept
            for n in range(1000):
                ask(host_limiter, url=f"https://host-{n}.example/")
                if n % 50 == 0:
                    snooze(host_limiter)
            # Then the table is bounded, and those two are still known.
            assert len(host_limiter._hosts) <= 101
            assert host_limiter._hosts["https://other.example"].busy == 1
        assert host_limiter._hosts["https://other.example"].busy == 0
        assert snooze(host_limiter).code == "host_resting"
