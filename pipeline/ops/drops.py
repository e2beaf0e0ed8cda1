"""The jobs that a filter would drop, as far as they are known: no one can search a queue of SQS."""

from __future__ import annotations

from pipeline.monitoring.job_log.reader import under_way
from pipeline.monitoring.orders import Drop
from pipeline.monitoring.queue_depths import DEAD, depths
from pipeline.stages import FETCH


def known(order: Drop) -> int:
    """Return how many jobs in fetch match, of those in the job log. It contains jobs from their first attempt on.

    Raises:
        SettingsError: JOBS_MONGO_URL is not set.
        RetryableError: MongoDB cannot be reached.
    """
    return sum(
        job.stage == FETCH.name
        and any(order.matches(job.folder, f"http://{source.url}", job.began) for source in job.sources)
        for job in under_way(order.before)
    )


def waiting() -> int:
    """Return how many messages wait for fetch, whether they match or not.

    Raises:
        RetryableError: SQS cannot be reached.
    """
    return sum(each.waiting + each.delayed for each in depths() if each.stage == FETCH.name and each.lane != DEAD)
