"""The ids of jobs, each made from what the job comes from, so that a repetition has the same id."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping

#: Namespaces of ids made from MessageIds of the input queue, and from documents of a sweep.
_INPUT_IDS = uuid.uuid5(uuid.NAMESPACE_DNS, "input.image-pipeline")
_SWEEP_IDS = uuid.uuid5(uuid.NAMESPACE_DNS, "sweep.image-pipeline")

#: Characters of a UUID.
_LENGTH = 36


def input_job_id(message_id: str) -> str:
    """Return the id of an input message's job, which is the same for every receipt (contract, section 1)."""
    return str(uuid.uuid5(_INPUT_IDS, message_id))


def possible_ids(given: str) -> tuple[str, str]:
    """Return the job ids that people may mean: this one, without a redrive's number, or that of an input message.

    A producer that calls SQS itself knows only the MessageId.
    """
    job_id = re.sub(r"\.r\d+$", "", given)
    return job_id, input_job_id(job_id)


def is_whole(given: str) -> bool:
    """Return whether a text is long enough for a whole id, and not the beginning of one."""
    return len(given) >= _LENGTH


def sweep_job_id(collection: str, document: object, urls: Mapping[str, str], run: str) -> str:
    """Return the id of a sweep's job, which is the same each time that run finds the document (contract, section 1)."""
    return str(uuid.uuid5(_SWEEP_IDS, json.dumps([collection, str(document), sorted(urls.items()), run])))
