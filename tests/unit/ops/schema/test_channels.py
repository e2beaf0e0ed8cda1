"""The AsyncAPI document names the queues, headers and attributes that the service uses."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from jsonschema import Draft7Validator

from pipeline.clients import lazy
from pipeline.net.notifications import postback
from pipeline.ops.schema.channels import asyncapi
from pipeline.settings import get_settings
from pipeline.sqs.wire import Reason, SendEntry
from pipeline.stages import DEAD_LETTER_QUEUES
from tests.support.untrusted_servers import always, answer, remote, settings

SECRETS = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


def headers_of(message: str) -> Draft7Validator:
    return Draft7Validator(asyncapi()["components"]["messages"][message]["headers"])


def test_every_reference_leads_somewhere() -> None:
    document = asyncapi()
    references = set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)))
    assert references
    for reference in references:
        found: Any = document
        for name in reference.split("/"):
            found = found[name]


@pytest.mark.usefixtures("no_variables")
def test_the_dead_letter_queues_are_those_of_the_service() -> None:
    channel = asyncapi()["channels"]["dead_letters"]
    stages, namespace = channel["parameters"]["stage"]["enum"], channel["parameters"]["namespace"]["default"]
    described = {channel["address"].format(namespace=namespace, stage=stage) for stage in stages}
    assert described == {get_settings().full_queue_name(queue) for queue in DEAD_LETTER_QUEUES.values()}


def test_a_dead_letters_attributes_are_described() -> None:
    reason = Reason("http_404", "It is gone.", stage="fetch", attempts=2, first=0, last=1, key="key")
    attributes = dict(SendEntry.of_dead_letter("{}", reason).attributes)
    headers = headers_of("dead_letter")
    assert headers.is_valid(attributes)
    assert attributes.keys() == headers.schema["properties"].keys()


@pytest.mark.parametrize("secrets", ["", SECRETS.split(maxsplit=1)[0], SECRETS])
@pytest.mark.parametrize("job_id", ["3f1d7f3e-0a52-5a55-9a4b-3f0f6a4a9f10", "3f1d7f3e.r2"])
def test_a_postbacks_headers_are_described(monkeypatch: pytest.MonkeyPatch, secrets: str, job_id: str) -> None:
    # Given a receiver
    settings(monkeypatch, ALLOWED_NETWORKS="127.0.0.0/8", POSTBACK_SIGNING_SECRET=secrets)
    with remote(always(answer(200))) as server:
        # When a postback arrives
        postback(job_id, server.url("/hook"), {"image_url": "https://example.org/a", "image_url_info": None})
    lazy.forget()
    # Then its headers are those of the document
    headers = headers_of("postback")
    names = list(headers.schema["properties"])
    received = {name: value for name in names if (value := server.requests[0].header(name)) is not None}
    assert headers.is_valid(received)
    assert ("webhook-signature" in received) == bool(secrets)
    assert received.keys() >= {name for name in names if secrets or name in headers.schema["required"]}
