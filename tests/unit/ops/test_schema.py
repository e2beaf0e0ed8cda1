"""The documents of docs/schema describe exactly what the code accepts and sends."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator, Draft202012Validator

from pipeline.clients import lazy
from pipeline.errors import PermanentError, Rejected
from pipeline.images.details.facts import WARNINGS, SourceFacts
from pipeline.images.encoding import AVIF, OWN_FORMAT
from pipeline.job import Content, Details, Job
from pipeline.net.notifications import postback
from pipeline.ops.schema import DOCUMENTS, document, text_of
from pipeline.payload import IMAGE_FIELDS, validated
from pipeline.recipe import MAX_AVIF_PIXELS, MAX_RENDITION_SIDE, Recipe, parse_rendition
from pipeline.settings import get_settings
from pipeline.sqs.wire import Reason, SendEntry
from pipeline.stages import DEAD_LETTER_QUEUES, FETCH, STAGES
from pipeline.storage.publish import image_info, with_details
from tests.support.untrusted_servers import always, answer, remote, settings

FOLDER = Path(__file__).parents[3] / "docs/schema"
ASYNCAPI = document("asyncapi")
PARTS = ASYNCAPI["components"]["schemas"]
ALONE = {name: Draft202012Validator(document(name)) for name in ("message", "result", "postback")}
INSIDE = {name: Draft7Validator({"$ref": f"#/components/schemas/{name.title()}", **ASYNCAPI}) for name in ALONE}

pytestmark = pytest.mark.usefixtures("no_variables")


def accepts(name: str, instance: Any) -> bool:
    """Return whether a schema accepts, by draft 2020-12 and, inside AsyncAPI, by draft-07 alike."""
    alone, inside = (validators[name].is_valid(instance) for validators in (ALONE, INSIDE))
    assert alone == inside
    return alone


# The documents.


def test_the_files_are_made_from_the_asyncapi_document() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.json" for name in DOCUMENTS}
    for name in DOCUMENTS:
        assert (FOLDER / f"{name}.json").read_text(encoding="utf-8") == text_of(name), "run: make schema"


@pytest.mark.parametrize("name", ALONE)
def test_a_schema_is_valid(name: str) -> None:
    Draft202012Validator.check_schema(document(name))
    Draft7Validator.check_schema(PARTS[name.title()])


def test_enumerations_are_those_of_the_code() -> None:
    properties = {name: schema.get("properties", {}) for name, schema in PARTS.items()}
    written = {known.content_type for known in (*OWN_FORMAT.values(), AVIF)}
    assert properties["ImageError"]["stage"]["enum"] == [stage.name for stage in STAGES]
    assert properties["SourceFacts"]["warnings"]["items"]["enum"] == list(WARNINGS)
    assert properties["Rendition"]["content_type"]["enum"] == sorted(written)


# The message.


def is_accepted(message: object) -> bool:
    try:
        validated(message, get_settings())
    except Rejected:
        return False
    return True


COVERS = ["https://example.org/cover.jpg", "https://example.org/other.png"]
HOOKS = ["https://example.com/hook", "HTTP://example.com", " http://example.com", "http://a:b@[::1]:80/?x#y"]
NOT_HOOKS = [
    "http://",
    "http:/x",
    "ftp://example.com",
    "example.com",
    "http:///x",
    "http://a@",
    "http://:80",
    "https://?",
]
OTHERS = ["", None, 7, True, [], {}]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
IMAGES = st.sampled_from([*COVERS, *COVERS, "N/A", "n/a", *OTHERS])
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(IMAGE_FIELDS, IMAGES),
        "bucket_name": st.sampled_from(["Test", "N/A", *OTHERS]),
        "redirect_queue": st.sampled_from(["ChannelImages", "Name.fifo", *OTHERS]),
        "postback_url": st.sampled_from([*HOOKS, *NOT_HOOKS, *OTHERS]),
        "image_url_info": ANYTHING,
        "anything": ANYTHING,
    },
)
ACCEPTED = st.fixed_dictionaries(
    {"postback_url": st.sampled_from(HOOKS)},
    optional={
        **dict.fromkeys(IMAGE_FIELDS, st.sampled_from([*COVERS, "N/A", "", None])),
        "bucket_name": st.none() | st.text(max_size=5),
        "image_url_info": ANYTHING,
        "itunes_image_error": ANYTHING,
        "anything": ANYTHING,
    },
).filter(is_accepted)


@given(message=MESSAGES | ANYTHING)
def test_the_schema_accepts_a_message_if_and_only_if_the_service_does(message: object) -> None:
    assert accepts("message", message) == is_accepted(message)


@given(url=st.text() | st.from_regex(r"\A[ ]?https?://\S+"))
def test_the_schema_accepts_every_postback_url_that_the_service_accepts(url: str) -> None:
    message = {"image_url": "https://example.org/a", "postback_url": url}
    assert accepts("message", message) or not is_accepted(message)


# The result.

STORED = Content("0" * 32, ".jpeg", Recipe(tuple(map(parse_rendition, ("50x50", "250X250", "800x800")))))
MESSAGE = {
    "image_url": "https://example.org/cover.jpg",
    "itunes_image": "https://example.org/gone.png",
    "bucket_name": "Test",
    "postback_url": "https://example.com/hook",
    "n": [7],
}


def result_of(message: dict[str, Any], failing: set[str]) -> dict[str, Any]:
    """Return the result of a message, as the service makes it, if the URLs in `failing` fail."""
    job = Job.accept(message, job_id="job-1", settings=get_settings(), stage_payload=lambda _: "")
    sources = {
        source.url: source.failed(FETCH, PermanentError("http_404", "It is gone."))
        if source.url in failing
        else source.published(STORED)
        for source in job.sources
    }
    return job.with_sources(sources).result(message, partial(image_info, job.folder))


@given(message=ACCEPTED, fails=st.tuples(st.booleans(), st.booleans()))
def test_every_result_of_the_service_fits_its_schema(message: dict[str, Any], fails: tuple[bool, bool]) -> None:
    failing = {str(message.get(name)) for name, failed in zip(IMAGE_FIELDS, fails, strict=True) if failed}
    result = result_of(message, failing)
    assert accepts("result", result)
    assert accepts("postback", result)  # POSTBACK_SECRET_KEY=none
    assert accepts("postback", result | {"postback_secret_key": "secret"})
    assert not accepts("result", result | {"postback_secret_key": "secret"})


FACTS_OF_SOURCE = SourceFacts(
    width=3000,
    height=2000,
    bytes=345678,
    format="jpeg",
    sha256="ab" * 32,
    color="#a1b2c3",
    thumbhash="1QcSHQRnh493V4dIh4eXh1h4kJUI",
    warnings=WARNINGS,
)
FACTS = FACTS_OF_SOURCE.as_result(has_wrong_type=True)


def changed(*path: str, to: object = None, without: bool = False) -> dict[str, Any]:
    """Return a result with one good and one failed image, with the value at `path` set or removed."""
    result = inner = copy.deepcopy(result_of(MESSAGE, {MESSAGE["itunes_image"]}))
    for name in path[:-1]:
        inner = inner[name]
    if without:
        del inner[path[-1]]
    elif path:
        inner[path[-1]] = to
    return result


def test_a_result_with_details_fits() -> None:
    # Given an image with details, a rendition of which is in a format beside the source's
    job = Job.accept(MESSAGE, job_id="job-1", settings=get_settings(), stage_payload=lambda _: "")
    names = ("50x50", "800x800", "800x800.avif")
    content = Content("0" * 32, ".jpeg", Recipe(tuple(map(parse_rendition, names))))
    details = Details(FACTS_OF_SOURCE, dict.fromkeys(names, 1234))
    first = replace(job.sources[0].published(content), details=details, has_wrong_type=True)
    second = job.sources[1].failed(FETCH, PermanentError("http_404", "It is gone."))
    job = job.with_sources({source.url: source for source in (first, second)})
    # When the service makes its result
    result = with_details(job, job.result(MESSAGE, partial(image_info, job.folder)))
    # Then it fits, and has all details that the schema describes
    assert accepts("result", result)
    parts = ALONE["result"].schema["$defs"]
    assert result["image_url_source"].keys() == parts["SourceFacts"]["properties"].keys()
    assert result["image_url_info"]["800x800.avif"].keys() == parts["Rendition"]["properties"].keys()


@pytest.mark.parametrize(
    "result",
    [
        changed("image_url_info", without=True),
        changed("image_url_info", to=None),
        changed("image_url_info", to={}),
        changed("itunes_image_info", without=True),
        changed("itunes_image_error", without=True),
        changed("itunes_image_error", "code", without=True),
        changed("itunes_image_error", "stage", to="nowhere"),
        changed("itunes_image_error", "more", to=1),
        changed("image_url_error", to={"stage": "fetch", "code": "http_404", "message": "It is gone."}),
        changed("image_url_info", "50x50", "url", without=True),
        changed("image_url_info", "50x50", "bucket_path", to="images-resized/TEST"),
        changed("image_url_info", "50x50", "width", to=50),
        changed("image_url_info", "small", to={"url": "https://example.org/a", "bucket_path": "a/"}),
        changed("image_url_info", "50x50.tiff", to={"url": "https://example.org/a", "bucket_path": "a/"}),
        changed("itunes_image_source", to=FACTS),
        changed("image_url_source", to=FACTS | {"warnings": ["ugly"]}),
        changed("image_url_source", to=FACTS | {"color": "red"}),
        changed("image_url_source", to={"width": 1}),
        changed("image_url", to="N/A"),
        changed("image_url", to=7),
    ],
)
def test_a_result_that_the_service_never_sends_does_not_fit(result: dict[str, Any]) -> None:
    assert accepts("result", changed())
    assert not accepts("result", result)


RENDITION_NAME = PARTS["Renditions"]["propertyNames"]["pattern"]


@given(name=st.from_regex(RENDITION_NAME, fullmatch=True) | st.text(alphabet="0123456789xX.webp", max_size=9))
def test_the_pattern_of_names_of_renditions_is_that_of_the_setting(name: str) -> None:
    try:
        parse_rendition(name)
        good = True
    except ValueError:
        good = False
    matches = Draft202012Validator({"pattern": RENDITION_NAME}).is_valid(name)
    sides = [int(side) for side in name.lower().partition(".")[0].split("x")] if matches else []
    pixels = sides[0] * sides[1] if matches and name.endswith(".avif") else 0
    assert good == (matches and max(sides) <= MAX_RENDITION_SIDE and pixels <= MAX_AVIF_PIXELS)


# The channels.

SECRETS = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


def headers_of(message: str) -> Draft7Validator:
    return Draft7Validator(ASYNCAPI["components"]["messages"][message]["headers"])


def test_every_reference_leads_somewhere() -> None:
    references = set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(ASYNCAPI)))
    assert references
    for reference in references:
        found: Any = ASYNCAPI
        for name in reference.split("/"):
            found = found[name]


def test_the_dead_letter_queues_are_those_of_the_service() -> None:
    channel = ASYNCAPI["channels"]["dead_letters"]
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
