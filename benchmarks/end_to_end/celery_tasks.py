"""The four stages as Celery tasks over its SQS transport, loaded by `celery --app celery_tasks worker`.

python celery_tasks.py    the sender: reads payloads as lines of JSON, and answers each with a line when it is sent
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any
from urllib.parse import urlsplit

import bodies
from celery import Celery

_KEY, _SECRET = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]

#: As Celery's documentation recommends for SQS: existing queues, no remote control, no result backend. A message is
#: acknowledged when its task has ended, as in this project. A full worker also waits for the polling interval before it
#: checks for free threads: with the default of 1 s, resize would do at most 8 images per second.
app = Celery("bench", broker=f"sqs://{_KEY}:{_SECRET}@{urlsplit(os.environ['AWS_ENDPOINT_URL']).netloc}")
app.conf.update(
    broker_transport_options={
        "region": os.environ["AWS_REGION"],
        "is_secure": False,
        "wait_time_seconds": 20,
        "polling_interval": 0.1,
        "visibility_timeout": 45,
        "predefined_queues": {
            name: {
                "url": os.environ[f"BENCH_{name.upper()}_URL"],
                "access_key_id": _KEY,
                "secret_access_key": _SECRET,
            }
            for name in ("fetch", "resize", "upload", "notify")
        },
    },
    task_acks_late=True,
    task_ignore_result=True,
    task_routes={name: {"queue": name} for name in ("fetch", "resize", "upload", "notify")},
    task_create_missing_queues=True,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
)


@app.task(name="notify")
def notify(job: bodies.Encoded) -> None:
    """Deliver the results, and delete the staged bytes."""
    bodies.notify(job)


@app.task(name="upload")
def upload(job: bodies.Encoded) -> None:
    """Publish."""
    notify.delay(bodies.STEPS["upload"](job))


@app.task(name="resize")
def resize(job: bodies.Encoded) -> None:
    """Render."""
    upload.delay(bodies.STEPS["resize"](job))


@app.task(name="fetch")
def fetch(payload: dict[str, Any]) -> None:
    """Download."""
    resize.delay(bodies.STEPS["fetch"](bodies.accept(payload)))


def main() -> None:
    """Send the requested tasks."""
    for line in sys.stdin:
        fetch.delay(json.loads(line))
        print("sent", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
