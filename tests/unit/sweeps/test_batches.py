"""Items of several threads are committed together, and each thread learns how its own ended."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from dramatiq.middleware import TimeLimitExceeded

from pipeline.sweeps.batches import Batches


def test_threads_share_a_batch() -> None:
    committed: list[list[int]] = []
    shared = Batches(lambda items: committed.append(sorted(items)), window=0.5)
    together = threading.Barrier(8)

    def submit(number: int) -> None:
        together.wait()
        shared.submit(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(submit, range(8)))
    assert committed == [list(range(8))]


def test_a_time_limit_that_strikes_the_committing_thread_leaves_no_other_waiting() -> None:
    # given a commit during which a time limit strikes
    committed: list[int] = []
    struck: list[int] = []

    def commit(items: list[int]) -> None:
        if not struck:
            struck.append(threading.get_ident())
            raise TimeLimitExceeded
        committed.extend(items)

    shared = Batches(commit, window=0.2)
    # when three threads submit together
    with ThreadPoolExecutor(3) as pool:
        errors = [future.exception(timeout=20) for future in [pool.submit(shared.submit, n) for n in range(3)]]
    # then the struck thread alone ends with it, and the items of the others are committed
    assert sorted(type(error).__name__ for error in errors) == ["NoneType", "NoneType", "TimeLimitExceeded"]
    assert len(set(committed)) >= 2


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
