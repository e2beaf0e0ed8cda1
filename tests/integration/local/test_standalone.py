"""The embedded stack with everything that `provision` creates."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.clients import aws, lazy
from pipeline.local.standalone import standalone


def test_a_kept_input_queue_has_the_url_of_the_new_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    started = []
    for _ in range(2):
        with standalone(tmp_path, persist=True) as variables:
            assert variables["QUEUE_URL"].startswith(f"{variables['AWS_ENDPOINT_URL_SQS']}/")
            aws.sqs().get_queue_attributes(QueueUrl=variables["QUEUE_URL"])
            started.append(variables["QUEUE_URL"])
    assert started[0].rpartition("/")[2] == started[1].rpartition("/")[2]
    lazy.forget()
