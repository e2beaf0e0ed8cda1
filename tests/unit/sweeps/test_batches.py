"""Items of several threads are committed together, and each thread learns how its own ended."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.sweeps import batches
from pipeline.sweeps.batches import Batches


def test_threads_share_a_batch() -> None:
    committed: list[list[int]] = []
    shared = Batches(lambda items: committed.append(sorted(items)), window=5)
    together = threading.Barrier(8)

    def submit(number: int) -> None:
        together.wait()
        shared.submit(number)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(8) as pool:
        patch.setattr(batches, "MOST", 8)
        list(pool.map(submit, range(8)))
    assert committed == [list(range(8))]


def test_every_thread_of_a_batch_gets_its_error_and_the_next_batch_works() -> None:
    fails = [True]
    committed: list[int] = []

    def commit(items: list[int]) -> None:
        if fails:
            raise OSError
        committed.extend(items)

    shared = Batches(commit, window=0.2)
    with ThreadPoolExecutor(3) as pool:
        errors = [future.exception() for future in [pool.submit(shared.submit, n) for n in range(3)]]
    assert [type(error) for error in errors] == [OSError] * 3
    fails.clear()
    shared.submit(7)
    assert committed == [7]
