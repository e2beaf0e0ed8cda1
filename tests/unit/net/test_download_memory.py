"""The memory of downloads: what each may hold freely, and the budget that all share beyond that."""

from __future__ import annotations

import pytest

from pipeline.errors import Snoozed
from pipeline.net.download import CHUNK_BYTES
from pipeline.net.download_memory import FREE_BYTES, STEP_BYTES, DownloadMemory
from tests.support.untrusted_servers import always, answer, download, remote, settings

BODY = bytes(FREE_BYTES + 2 * STEP_BYTES)


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings(monkeypatch, ALLOWED_NETWORKS="127.0.0.0/8")


def test_a_small_download_needs_no_share_of_the_budget() -> None:
    with DownloadMemory(0).share() as share:
        share.promise(FREE_BYTES)
        share.grow(FREE_BYTES)
    assert share.size == 0


def test_the_budget_is_given_back_at_the_end() -> None:
    memory = DownloadMemory(2 * STEP_BYTES)
    for _ in range(3):
        with memory.share() as share:
            share.grow(len(BODY))
            with memory.share() as other, pytest.raises(Snoozed, match="memory_busy"):
                other.grow(FREE_BYTES + 1)


def test_a_promise_reserves_nothing() -> None:
    memory = DownloadMemory(2 * STEP_BYTES)
    with memory.share() as dripping, memory.share() as quick:
        dripping.promise(len(BODY))
        quick.promise(len(BODY))
        quick.grow(len(BODY))


def test_snoozes_grow_with_the_crowd() -> None:
    memory = DownloadMemory(0)
    waits = []
    for _ in range(100):
        with memory.share() as share, pytest.raises(Snoozed) as caught:
            share.grow(len(BODY))
        waits.append(caught.value.wait)
    assert max(waits) > 50


def test_a_download_without_memory_is_snoozed_before_its_body_is_read() -> None:
    memory = DownloadMemory(STEP_BYTES)
    with remote(always(answer(200, BODY))) as server:
        with memory.share() as share, pytest.raises(Snoozed, match="memory_busy"):
            download(server.url(), share=share)
        assert share.size == 0


def test_a_download_that_does_not_promise_its_size_stops_where_the_memory_ends() -> None:
    memory = DownloadMemory(STEP_BYTES)
    chunk = b"%x\r\n%s\r\n" % (CHUNK_BYTES, bytes(CHUNK_BYTES))
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    whole = head + chunk * (len(BODY) // CHUNK_BYTES) + b"0\r\n\r\n"
    with remote(always(whole)) as server:
        with memory.share() as share, pytest.raises(Snoozed, match="memory_busy"):
            download(server.url(), share=share)
        # Then the next download gets what it held, and a larger budget is enough for all of it.
        with memory.share() as share:
            share.grow(FREE_BYTES + STEP_BYTES)
        with DownloadMemory(2 * STEP_BYTES).share() as share:
            assert download(server.url(), share=share) == BODY
