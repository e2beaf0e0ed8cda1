"""Sweep a collection page by page: claim each stale document and hand over one job per document group."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pipeline.errors import RetryableError
from pipeline.job import Job, Sweep
from pipeline.job_ids import sweep_job_id
from pipeline.settings import get_settings
from pipeline.sweeps import documents, run_state
from pipeline.sweeps.documents import SWEPT, Document, Swept, WriteBack
from pipeline.sweeps.run_state import DocumentGroup, Run

logger = logging.getLogger(__name__)

#: Maximum number of documents per page. A page is read, claimed and handed over as a whole, and repeated as a whole.
PAGE_SIZE = 1000

#: Seconds until a run with too many jobs under way checks again.
PAUSE = 2.0


@dataclass(frozen=True)
class NextPage:
    """The page to take next, after `wait` seconds."""

    page: int
    wait: float = 0.0


#: Sends jobs to the fetch stage, and returns an error or None for each, in order.
HandOver = Callable[[Sequence[Job]], Sequence[Exception | None]]


@dataclass(frozen=True)
class Taken:
    """The work of one page: `count` documents or covers were taken, and `after` is the position of the next page."""

    after: list[Any]
    count: int
    walked: bool  #: whether this was the last page


#: Takes a page of a run: called with the run, the attempt, the most that may be taken, and what sends jobs.
Take = Callable[[Run, str, int, HandOver], Taken]


def take_page(
    swept: Swept, run_id: str, page: int, *, by: str, hand_over: HandOver, take: Take | None = None
) -> NextPage | None:
    """Take one page of a run, and advance the run.

    Taking a page twice is harmless, because only the first message advances the run. If that message is delivered
    again, it gets the next page again, because its worker may have died before it could send the next message.

    Args:
        swept: the collection.
        run_id: id of the run.
        page: number of the page.
        by: id of the message that asks for the page.
        hand_over: sends the jobs.
        take: takes the documents of the page; by default it claims the stale ones and hands over their jobs.

    Returns:
        The next page, for which the caller sends a message; None if another message does, or at the end of the run.

    Raises:
        RetryableError: MongoDB failed. The page can be taken again.
        Exception: the first error of `hand_over`. The page can be taken again, which sends only the jobs that failed.
    """
    run = run_state.load(run_id)
    if run is None or run.page != page:
        return _next_of(run, by)
    if run.walked:
        return None
    backlog = get_settings().sweep_max_backlog
    room = backlog - run_state.under_way(run)
    if room < max(1, min(PAGE_SIZE, backlog) // 4):
        return NextPage(page, PAUSE)
    left = PAGE_SIZE if run.limit is None else run.limit - run.claimed
    size = min(PAGE_SIZE, room, left)
    attempt = secrets.token_hex(8)
    if not run_state.attempt(run, attempt):
        return _next_of(run_state.load(run_id), by)
    taken = (take or partial(_take_stale, swept))(run, attempt, size, hand_over)
    if not run_state.advance(run, taken.after, by=by, claimed=taken.count, walked=taken.walked, attempt=attempt):
        return _next_of(run_state.load(run_id), by)
    logger.info("run=%s page=%d claimed=%d%s", run_id, page, taken.count, " end" if taken.walked else "")
    return None if taken.walked else NextPage(page + 1)


def _take_stale(swept: Swept, run: Run, attempt: str, size: int, hand_over: HandOver) -> Taken:
    found, after = documents.read(swept, run.id, run.after, size)
    claimed = documents.claim(swept, run.id, found)
    groups = run_state.join(_grouped(swept, run, attempt, claimed), run.page)
    send_groups(run, attempt, groups, hand_over, partial(_job_of, swept))
    for group in groups:
        if group.outcome is not None:
            _write(swept, group, group.outcome)
    walked = not after or (run.limit is not None and run.claimed + len(claimed) >= run.limit)
    return Taken(after, len(claimed), walked)


def _next_of(run: Run | None, by: str) -> NextPage | None:
    """Return the next page if the message `by` advanced the run to it."""
    return NextPage(run.page) if run and not run.walked and run.advanced_by == by else None


def send_groups(
    run: Run,
    attempt: str,
    groups: Sequence[DocumentGroup],
    hand_over: HandOver,
    job_of: Callable[[DocumentGroup], Job],
) -> int:
    """Hand over the jobs of the groups that are due; returns how many.

    Raises:
        Exception: the first error of `hand_over`.
    """
    run = run_state.load(run.id) or run  # another attempt may have begun, and recorded groups
    due = [group for group in groups if group.is_due([attempt, *run.attempts])]
    errors = hand_over([job_of(group) for group in due])
    sent = [group for group, error in zip(due, errors, strict=True) if error is None]
    is_complete = len(sent) == len(due)
    run_state.handed_over([group for group in sent if not (is_complete and group.attempt == attempt)])
    if error := next(filter(None, errors), None):
        raise error
    return len(due)


def _grouped(swept: Swept, run: Run, attempt: str, claimed: Sequence[Document]) -> list[DocumentGroup]:
    folders = documents.folders(swept, claimed)
    groups: dict[str, DocumentGroup] = {}
    for each in claimed:
        folder = folders[each.key]
        group_id = _group_id(run.id, folder, each.urls)
        if group_id not in groups:
            job_id = sweep_job_id(swept.name, each.id, each.urls, run.id)
            groups[group_id] = DocumentGroup(group_id, run.id, job_id, each.urls, [], folder, attempt)
        groups[group_id].documents.append(each.id)
    return list(groups.values())


def _group_id(run: str, folder: str, urls: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps([folder, sorted(urls.items())]).encode()).hexdigest()[:32]
    return f"cover/{run}/{digest}"


def _job_of(swept: Swept, group: DocumentGroup) -> Job:
    sweep = Sweep(swept.name, group.run, group.id)
    return Job.of_sweep(sweep, job_id=group.job, folder=group.folder, urls=group.urls)


#: Writes a result to the documents of a group.
Write = Callable[[DocumentGroup, WriteBack], object]


#: Called between the recording of a group's outcome and its end, with whether the outcome was recorded now.
Finish = Callable[[bool], object]


def write_back(sweep: Sweep, result: WriteBack, *, write: Write | None = None, finish: Finish | None = None) -> None:
    """Write how a job of a sweep ended to all its documents (contract, section 5). Repeating it is harmless.

    The outcome is recorded only if no document has joined the group meanwhile; otherwise that one is written too. If
    writing fails, the outcome is recorded first, so that all documents get the same one.

    Raises:
        RetryableError: MongoDB failed.
    """
    write, written = write or partial(_write, SWEPT[sweep.collection]), 0
    while group := run_state.find_group(sweep.cover):
        outcome = group.outcome or result
        try:
            write(replace(group, documents=group.documents[written:]), outcome)
        except RetryableError:
            run_state.settle(group, outcome, ended=False)
            raise
        written = len(group.documents)
        is_first = group.outcome is None and run_state.settle(group, outcome, ended=finish is None)
        if finish and (is_first or group.outcome is not None):
            finish(is_first)
        if group.outcome is not None or (finish and is_first):
            run_state.ended(group.id)
        if is_first or group.outcome is not None:
            return
    logger.warning(
        "Run %s: a job ended after its documents' claims had expired. The next run selects them again.", sweep.run
    )


def _write(swept: Swept, group: DocumentGroup, result: WriteBack) -> None:
    written = documents.write(swept, group.run, group.urls, result, group.documents)
    run_state.count(group.run, written)
