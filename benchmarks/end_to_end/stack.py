"""The embedded stack of one measurement: ministack through `emulator.py`, with the queues and bucket of a contender."""

from __future__ import annotations

import http.client
import json
import os
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import emulator

from pipeline.clients import aws, lazy
from pipeline.local import embedded
from pipeline.local.embedded import EmbeddedStack
from pipeline.local.supervisor import command_line
from pipeline.ops.provision import plan
from pipeline.settings import Settings, get_settings

#: The queue for contenders that take jobs as raw JSON, and the stages' queues for the others.
INPUT, STAGES = "input", ("fetch", "resize", "upload", "notify")

#: Requests per host at a time; high, because all covers come from one host here.
PER_HOST = "64"


@dataclass(frozen=True)
class Stack:
    """The servers, and the variables of a contender's processes."""

    endpoint: str
    environ: Mapping[str, str]

    def counted(self) -> tuple[float, Counter[str]]:
        """Return the emulator's CPU seconds, and the requests that it has answered, by kind."""
        parts = urlsplit(self.endpoint)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        try:
            connection.request("GET", emulator.PATH)
            answer: dict[str, Any] = json.load(connection.getresponse())
            return float(answer["cpu"]), Counter(answer["requests"])
        finally:
            connection.close()


def use_own_emulator(sqs: float = 0.0, s3: float = 0.0) -> None:
    """Make the embedded stack start `emulator.py`, whose SQS and S3 answer after this many seconds."""

    def command(server: Any) -> str:
        return command_line(server._program.resolve().with_name("python"), emulator.__file__, sqs, s3)

    embedded._Ministack.command = command  # type: ignore[method-assign,assignment]


def clear_environment() -> None:
    """Remove the service's variables from the environment, and exclude this process's requests from the counts."""
    for name in [*Settings.model_fields, "environment"]:
        os.environ.pop(name.upper(), None)
    os.environ["AWS_SDK_UA_APP_ID"] = "bench"


@contextmanager
def running(folder: Path, staging: str) -> Iterator[Stack]:
    """Run an empty stack in `folder`, with queues and bucket; `staging` is `file` or `s3`."""
    namespace, bucket = f"bench-{secrets.token_hex(3)}", f"bench-{secrets.token_hex(3)}"
    with EmbeddedStack(folder, with_mongo=False) as servers:
        environ = servers.environ | {
            "QUEUE_NAMESPACE": namespace,
            "S3_BUCKET": bucket,
            "STAGING_URL": f"file://{folder}/staging/" if staging == "file" else "",
            "ALLOWED_NETWORKS": "127.0.0.0/8",
            "FETCH_MAX_PER_HOST": PER_HOST,
            "POSTBACK_SECRET_KEY": "a secret",
            "LEVEL": "INFO",
        }
        os.environ |= environ
        lazy.forget()
        for change in plan(get_settings(), create_bucket=True):
            change.apply()
        for name in (INPUT, *STAGES):  # In addition to the service's own queues.
            url = aws.sqs().create_queue(QueueName=f"{namespace}-{name}")["QueueUrl"]
            environ |= {"QUEUE_URL" if name == INPUT else f"BENCH_{name.upper()}_URL": url}
        os.environ |= environ
        lazy.forget()
        yield Stack(environ["AWS_ENDPOINT_URL"], environ)
