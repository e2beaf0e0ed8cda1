"""The provisioned embedded stack, shared by `local` and `demo`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from pipeline.clients import aws, lazy
from pipeline.local.embedded import EmbeddedStack
from pipeline.ops.provision import plan
from pipeline.settings import get_settings
from pipeline.sqs.queues import find_queue

#: The Procfile. In a checkout this is a link to that of the root; a wheel contains a copy.
PROCFILE = Path(__file__).with_name("Procfile")

#: The input queue, without the namespace.
INPUT_QUEUE = "input.fifo"


@contextmanager
def standalone(data_dir: Path, *, persist: bool) -> Iterator[dict[str, str]]:
    """Run the embedded stack with everything that `provision` creates, and an input queue.

    Args:
        data_dir: The folder of the stack.
        persist: Whether to keep its data for the next start.

    Yields:
        The variables that point a process to the stack. They are also set in this process's environment.

    Raises:
        EmbeddedStackError: The stack cannot run.
    """
    with EmbeddedStack(data_dir, persist=persist) as stack:
        # Staging is in the stack's bucket, even if this environment has another STAGING_URL.
        variables = stack.environ | {"STAGING_URL": "", "JOBS_MONGO_URL": stack.environ["MONGO_URL"]}
        os.environ.update(variables)
        lazy.forget()
        settings = get_settings()
        for change in plan(settings, create_bucket=True):
            with aws.aws_errors("aws", change.message):
                change.apply()
        chosen = {
            "QUEUE_NAMESPACE": settings.queue_namespace,
            "S3_BUCKET": settings.s3_bucket,
            "QUEUE_URL": _input_queue(settings.full_queue_name(INPUT_QUEUE)),
        }
        os.environ.update(chosen)
        lazy.forget()
        yield variables | chosen


def _input_queue(name: str) -> str:
    with aws.aws_errors("sqs", "create the input queue"):
        url = find_queue(aws.sqs(), name)  # kept from an earlier start, with its messages
        if not url:
            url = aws.sqs().create_queue(QueueName=name, Attributes={"FifoQueue": "true"})["QueueUrl"]
    # The URL of a kept queue has the port of its first start.
    return urljoin(str(get_settings().aws_endpoint_url_sqs), urlsplit(url).path)


def from_here(path: Path) -> str:
    """Return the path for people: relative if it is below the current folder."""
    with suppress(ValueError):
        return str(path.resolve().relative_to(Path.cwd()))
    return str(path)
