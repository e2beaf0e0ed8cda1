"""Sweep a collection page by page: claim each stale document and hand over one job per document group."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.job import Job, Sweep, sweep_job_id
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


def take_page(
    swept: Swept, run_id: str, page: int, *, by: str, hand_over: Callable[[Sequence[Job]], None]
) -> NextPage | None:
    """Claim the stale documents of one page, hand over their jobs, and advance the run.

    Taking a page twice is harmless, because only the first message advances the run. If that message is delivered
    again, it gets the next page again, because its worker may have died before it could send the next message.

    Args:
        swept: the collection.
        run_id: id of the run.
        page: number of the page.
        by: id of the message that asks for the page.
        hand_over: sends jobs to the fetch stage.

    Returns:
        The next page, for which the caller sends a message; None if another message does, or at the end of the run.

    Raises:
        RetryableError: MongoDB failed. The page can be taken again.
    """
    run = run_state.load(run_id)
    if run is None or run.page != page:
        return _next_of(run, by)
    if run.walked:
        return None
    backlog = get_settings().sweep_max_backlog
    room = backlog - run_state.under_way(run_id)
    if room < max(1, min(PAGE_SIZE, backlog) // 4):
        return NextPage(page, PAUSE)
    left = PAGE_SIZE if run.limit is None else run.limit - run.claimed
    size = min(PAGE_SIZE, room, left)
    found, after = documents.read(swept, run_id, run.after, size)
    claimed = documents.claim(swept, run_id, found)
    _hand_over_page(swept, run, claimed, hand_over)
    walked = not after or (run.limit is not None and run.claimed + len(claimed) >= run.limit)
    if not run_state.advance(run, after, by=by, claimed=len(claimed), walked=walked):
        return _next_of(run_state.load(run_id), by)
    logger.info("run=%s page=%d claimed=%d%s", run_id, page, len(claimed), " end" if walked else "")
    return None if walked else NextPage(page + 1)


def _next_of(run: Run | None, by: str) -> NextPage | None:
    """Return the next page if the message `by` advanced the run to it."""
    return NextPage(run.page) if run and not run.walked and run.advanced_by == by else None


def _hand_over_page(
    swept: Swept, run: Run, claimed: Sequence[Document], hand_over: Callable[[Sequence[Job]], None]
) -> None:
    """Hand over the job of each new group. Documents of a group whose job has ended are written at once."""
    groups = run_state.join(_grouped(swept, run, claimed), run.page)
    # A worker may have died between recording a group and handing its job over.
    due = [group for group in groups if not (group.handed_over or group.outcome)]
    hand_over([_job_of(swept, group) for group in due])
    run_state.handed_over(due)
    for group in groups:
        if group.outcome is not None:
            _write(swept, group, group.outcome)


def _grouped(swept: Swept, run: Run, claimed: Sequence[Document]) -> list[DocumentGroup]:
    folders = documents.folders(swept, claimed)
    groups: dict[str, DocumentGroup] = {}
    for each in claimed:
        folder = folders[each.key]
        group_id = _group_id(run.id, folder, each.urls)
        if group_id not in groups:
            job_id = sweep_job_id(swept.name, each.id, each.urls, run.id)
            groups[group_id] = DocumentGroup(group_id, run.id, job_id, each.urls, [], folder)
        groups[group_id].documents.append(each.id)
    return list(groups.values())


def _group_id(run: str, folder: str, urls: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps([folder, sorted(urls.items())]).encode()).hexdigest()[:32]
    return f"cover/{run}/{digest}"


def _job_of(swept: Swept, group: DocumentGroup) -> Job:
    sweep = Sweep(swept.name, group.run, group.id)
    return Job.of_sweep(sweep, job_id=group.job, folder=group.folder, urls=group.urls)


def write_back(sweep: Sweep, result: WriteBack) -> None:
    """Write how a job of a sweep ended to all its documents (contract, section 5). Repeating it is harmless.

    Raises:
        RetryableError: MongoDB failed.
    """
    group = run_state.settle(sweep.cover, result)
    if group is None:
        logger.warning(
            "Run %s: a job ended after its documents' claims had expired. The next run selects them again.", sweep.run
        )
        return
    if group.outcome is not None:
        _write(SWEPT[sweep.collection], group, group.outcome)
    run_state.ended(sweep.cover)


def _write(swept: Swept, group: DocumentGroup, result: WriteBack) -> None:
    written = documents.write(swept, group.run, group.urls, result, group.documents)
    run_state.count(group.run, written)
