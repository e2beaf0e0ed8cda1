"""The four stages without our queue layer, for contenders that have their own queues.

They are the functions that this project's actors call, in the same order, with the job encoded in the same way.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pipeline.actors  # noqa: F401 - builds the broker, on which the actors are declared
from actors.fetch import fetch
from actors.notify import pending_deliveries
from actors.resize import resize
from actors.upload import upload
from pipeline.job import Job, Source
from pipeline.settings import get_settings
from pipeline.storage.staging import staging

Encoded = dict[str, Any]


def accept(payload: Mapping[str, str]) -> Encoded:
    """Encode the job of an input message."""
    job = Job.accept(dict(payload), job_id=str(uuid.uuid4()), settings=get_settings(), stage_payload=staging().put)
    return replace(job, ticket=str(uuid.uuid4())).encode()


def _step(body: Callable[[Job, Source], Source]) -> Callable[[Encoded], Encoded]:
    def step(encoded: Encoded) -> Encoded:
        job = Job.decode(encoded)
        return job.with_sources({source.url: body(job, source) for source in job.sources}).encode()

    return step


#: The work between two queues, by stage.
STEPS = {"fetch": _step(fetch), "resize": _step(resize), "upload": _step(upload)}


def notify(encoded: Encoded) -> None:
    """Run the last stage."""
    for deliver_one in pending_deliveries(Job.decode(encoded)).values():
        deliver_one()
