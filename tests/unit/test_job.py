"""The rules for messages, and the jobs made from them (contract, sections 1, 3 and 4)."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import PermanentError, PipelineError, Rejected, RetryableError, StagedMissing
from pipeline.images.details.facts import SourceFacts
from pipeline.job import Content, Details, Job, Rendered, Source, Sweep, UnknownVersion
from pipeline.payload import MAX_PAYLOAD_BYTES, MAX_URL_LENGTH, parse_json, to_json
from pipeline.recipe import Recipe, parse_rendition
from pipeline.settings import get_settings
from pipeline.stages import FETCH, NOTIFY, RESIZE, UPLOAD, Lane

COVER = "https://feeds.example/cover.jpg"
OTHER = "https://feeds.example/other.png"
ASKED = {"postback_url": "https://receiver.example/hook"}
CONTENT = Content("0" * 32, ".jpeg", Recipe((parse_rendition("50x50"), parse_rendition("250X250"))))


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def accept(payload: Any, job_id: str = "job-1") -> Job:
    return Job.accept(payload, job_id=job_id, settings=get_settings(), stage_payload=lambda data: f"{len(data):032x}")


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ([], "not_an_object"),
        ("text", "not_an_object"),
        (None, "not_an_object"),
        (3, "not_an_object"),
        (ASKED, "no_image"),
        ({**ASKED, "image_url": "N/A", "itunes_image": ""}, "no_image"),
        ({**ASKED, "image_url": None}, "no_image"),
        ({"image_url": COVER}, "no_destination"),
        ({"image_url": COVER, "postback_url": "", "redirect_queue": None}, "no_destination"),
        ({**ASKED, "image_url": 7}, "bad_field"),
        ({**ASKED, "image_url": COVER, "bucket_name": ["a"]}, "bad_field"),
        ({"image_url": COVER, "redirect_queue": {}}, "bad_field"),
        ({"image_url": COVER, "postback_url": "ftp://receiver.example/"}, "bad_postback_url"),
        ({"image_url": COVER, "postback_url": "http://"}, "bad_postback_url"),
        ({"image_url": COVER, "postback_url": "http://receiver.example/\r\nX-Header: 1"}, "bad_postback_url"),
        ({"image_url": COVER, "postback_url": "http://receiver.example/\n"}, "bad_postback_url"),
        ({"image_url": COVER, "postback_url": "http://a:99999999/"}, "bad_postback_url"),
        ({"image_url": COVER, "redirect_queue": "image-pipeline_fetch"}, "bad_redirect_queue"),
        ({"image_url": COVER, "redirect_queue": "image-pipeline_notify_dlq"}, "bad_redirect_queue"),
        ({**ASKED, "image_url": COVER, "x": nested(120)}, "too_deep"),
        ({**ASKED, "image_url": COVER, "x": nested(100_000)}, "too_deep"),
        ({**ASKED, "image_url": COVER, "x": object()}, "not_json"),
        ({**ASKED, "image_url": COVER, "x": float("nan")}, "not_json"),
    ],
)
def test_a_payload_that_breaks_a_rule_is_rejected_with_its_code(payload: object, code: str) -> None:
    with pytest.raises(Rejected) as caught:
        accept(payload)
    assert caught.value.code == code
    assert caught.value.message.endswith(".")


def test_two_fields_with_one_url_are_one_source() -> None:
    assert [source.fields for source in accept({**ASKED, "image_url": COVER, "itunes_image": COVER}).sources] == [
        ("image_url", "itunes_image")
    ]
    assert [source.url for source in accept({**ASKED, "image_url": COVER, "itunes_image": OTHER}).sources] == [
        COVER,
        OTHER,
    ]
    assert [source.fields for source in accept({**ASKED, "image_url": "N/A", "itunes_image": OTHER}).sources] == [
        ("itunes_image",)
    ]


def test_a_long_payload_is_staged_and_a_short_one_is_sent_along() -> None:
    short = {**ASKED, "image_url": COVER, "x": "x" * 1000}
    long = {**ASKED, "image_url": COVER, "x": "x" * MAX_PAYLOAD_BYTES}
    assert accept(short).payload == short
    assert accept(short).payload_key is None
    assert accept(long).payload is None
    assert accept(long).payload_key == f"{len(to_json(long)):032x}"


def test_a_job_is_due_in_the_stage_of_its_slowest_source() -> None:
    # Given a job with two sources
    job = accept({**ASKED, "image_url": COVER, "itunes_image": OTHER})
    first, second = job.sources
    # When they advance at different speeds, then it is due in the earlier stage, and finally in notify.
    fetched = first.fetched("k", CONTENT)
    assert job.with_sources({COVER: fetched}).due is FETCH
    assert job.with_sources({COVER: fetched, OTHER: second.published(CONTENT)}).due is RESIZE
    resized = fetched.resized(Rendered("r", {"50x50": 1}))
    assert job.with_sources({COVER: resized, OTHER: second.fetched("k", CONTENT)}).due is RESIZE
    assert job.with_sources({COVER: resized, OTHER: second.published(CONTENT)}).due is UPLOAD
    failed = job.with_errors(FETCH, {COVER: PermanentError("http_404", "Gone."), OTHER: PermanentError("x", "X.")})
    assert failed.due is NOTIFY


@pytest.mark.parametrize("lane", list(Lane))
def test_a_job_survives_json(lane: Lane) -> None:
    job = accept({**ASKED, "image_url": COVER, "itunes_image": OTHER, "n": [1, 2.5, None, {"ü": "\ud83d\ude00"}]})
    first = job.sources[0].fetched("k" * 32, CONTENT).resized(Rendered("r" * 32, {"50x50": 7, "250X250": 9}))
    job = job.with_sources({COVER: first}).with_errors(FETCH, {OTHER: PermanentError("http_404", "Gone.")})
    for each in (job, Job(**{**job.__dict__, "lane": lane, "deliveries": ("postback_url",), "redrives": 2})):
        assert Job.decode(json.loads(json.dumps(each.encode()))) == each


def test_an_unknown_version_is_distinguished_from_an_invalid_job() -> None:
    encoded = accept({**ASKED, "image_url": COVER}).encode()
    with pytest.raises(UnknownVersion):
        Job.decode({**encoded, "v": 2})
    for broken in (None, 3, [], {}, {"v": "1"}, {"v": 1}, {**encoded, "sources": 4}, {**encoded, "id": None}):
        with pytest.raises(Rejected) as caught:
            Job.decode(broken)
        assert caught.value.code == "bad_job"


SOURCE = {"url": COVER, "fields": ["image_url"]}
SIZED = {
    **SOURCE,
    "content": {"id": "0" * 32, "extension": ".jpeg", "recipe": {"renditions": ["50x50"], "fit": "fill"}},
}


@pytest.mark.parametrize(
    "forged",
    [
        {"folder": "../../x"},
        {"folder": ".."},
        {"folder": "lower"},
        {"folder": ""},
        {"id": "two\nlines"},
        {"id": "x" * 65},
        {"id": "\ud800"},
        {"sources": []},
        {"sources": [SOURCE, SOURCE]},
        {"sources": [SOURCE, {**SOURCE, "url": OTHER}]},
        {"sources": [{**SOURCE, "fields": ["image_url", "image_url"]}]},
        {"sources": [{**SOURCE, "fields": []}]},
        {"sources": [{**SOURCE, "fields": ["title"]}]},
        {"sources": [{**SOURCE, "url": f"{COVER}?{n}"} for n in range(5000)]},
        {"sources": [{**SOURCE, "url": "x" * (MAX_URL_LENGTH + 2)}]},
        {"sources": [{**SOURCE, "due": "publish"}]},
        {"sources": [{**SOURCE, "content": {**SIZED["content"], "id": "../" + "0" * 29}}]},
        {"sources": [{**SOURCE, "content": {**SIZED["content"], "extension": "/../x"}}]},
        {"sources": [{**SOURCE, "rendered": {"key": "0" * 32, "sizes": {"50x50": 1}}}]},
        {"sources": [{**SIZED, "rendered": {"key": "0" * 32, "sizes": {"../x": 1}}}]},
        {"sources": [{**SIZED, "rendered": {"key": "0" * 32, "sizes": {"50x50": -1}}}]},
        {"deliveries": ["webhook"]},
        {"redrives": -1},
        {"letters": 2**70},
    ],
    ids=lambda forged: str(forged)[:60],
)
def test_a_job_that_this_service_would_not_write_is_refused(forged: dict[str, Any]) -> None:
    encoded = accept({**ASKED, "image_url": COVER}).encode()
    Job.decode({**encoded, "sources": [{**SIZED, "rendered": {"key": "0" * 32, "sizes": {"50x50": 1}}}]})
    with pytest.raises(Rejected) as caught:
        Job.decode(encoded | forged)
    assert caught.value.code == "bad_job"


def test_a_field_from_a_newer_worker_is_ignored() -> None:
    job = accept({**ASKED, "image_url": COVER})
    assert Job.decode({**job.encode(), "added_later": 1}) == job


def test_the_result_is_the_payload_with_the_outcome_of_each_image() -> None:
    # Given a payload that already has fields with our names
    payload = {
        **ASKED,
        "_id": 5,
        "image_url": COVER,
        "itunes_image": OTHER,
        "image_url_info": "theirs",
        "itunes_image_error": "theirs",
        "postback_secret_key": "theirs",
        "more": {"kept": True},
    }
    job = accept(payload)
    job = job.with_sources({COVER: job.sources[0].published(CONTENT)})
    job = job.with_errors(FETCH, {OTHER: PermanentError("http_404", "Gone.")})
    # When the result is made
    result = job.result(payload, lambda content: {"of": content.id})
    # Then ours replace them, and the rest is unchanged.
    assert result == {
        **ASKED,
        "_id": 5,
        "image_url": COVER,
        "itunes_image": OTHER,
        "more": {"kept": True},
        "image_url_info": {"of": CONTENT.id},
        "itunes_image_info": None,
        "itunes_image_error": {"stage": "fetch", "code": "http_404", "message": "Gone."},
    }


def test_an_absent_image_gets_no_info() -> None:
    payload = {**ASKED, "image_url": "N/A", "itunes_image": OTHER, "image_url_info": "theirs"}
    job = accept(payload)
    result = job.with_sources({OTHER: job.sources[0].published(CONTENT)}).result(payload, lambda _: {"done": True})
    assert result == {**ASKED, "image_url": "N/A", "itunes_image": OTHER, "itunes_image_info": {"done": True}}


def test_a_redriven_job_reports_under_its_own_id() -> None:
    job = accept({**ASKED, "image_url": COVER})
    assert [Job(**{**job.__dict__, "redrives": n}).report_id for n in (0, 1, 2)] == ["job-1", "job-1.r1", "job-1.r2"]


def test_a_staging_key_is_stable_and_differs_with_each_of_its_parts() -> None:
    # Given a job, a source and its content
    job = replace(accept({**ASKED, "image_url": COVER}), ticket="ticket-1")
    (source,) = job.sources
    key = job.staged_key(FETCH, source, CONTENT)
    assert re.fullmatch("[0-9a-f]{32}", key)
    # When one of its parts changes, then so does the key.
    others = {
        replace(job, ticket="ticket-2").staged_key(FETCH, source, CONTENT),
        job.staged_key(RESIZE, source, CONTENT),
        job.staged_key(FETCH, replace(source, url=OTHER), CONTENT),
        job.staged_key(FETCH, source, replace(CONTENT, id="1" * 32)),
        job.staged_key(FETCH, source.back_at_fetch(), CONTENT),
    }
    assert len(others | {key}) == 6
    # And nothing else about them matters.
    assert job.staged_key(FETCH, source.fetched(key, CONTENT), replace(CONTENT, extension=".png")) == key


def test_renditions_are_split_as_they_were_joined() -> None:
    parts = {"50x50": b"abc", "250X250": b"", "800x800": b"defgh"}
    blob = b"".join(parts.values())
    assert Rendered.of("k", parts, blob).split(blob) == parts


def test_renditions_are_not_split_by_the_sizes_of_others() -> None:
    rendered = Rendered.of("k", {"50x50": b"abc", "250X250": b"de"}, b"abcde")
    with pytest.raises(StagedMissing):
        rendered.split(b"xyzuv")


@pytest.mark.parametrize(
    "extra", [{"\ud800": 1}, {"n": {"\ud800": ["\udfff", "\ufffe\uffff"]}}, {"x": nested(90)}, {"中": "文"}]
)
def test_unusual_but_valid_json_is_carried_unchanged(extra: dict[str, Any]) -> None:
    payload = {**extra, **ASKED, "image_url": COVER}
    text = to_json(accept(payload).encode())
    assert Job.decode(parse_json(text.encode())).payload == payload
    assert not re.search("[\ud800-\udfff\ufffe\uffff]", text)


@pytest.mark.parametrize(
    ("variables", "asked", "code"),
    [
        ({"REDIRECT_QUEUES": "Channel*,Exact.fifo"}, {"redirect_queue": "ChannelImages"}, None),
        ({"REDIRECT_QUEUES": "Channel*,Exact.fifo"}, {"redirect_queue": "Exact.fifo"}, None),
        ({"REDIRECT_QUEUES": "Channel*,Exact.fifo"}, {"redirect_queue": "exact.fifo"}, "bad_redirect_queue"),
        ({"REDIRECT_QUEUES": "Channel*,Exact.fifo"}, {"redirect_queue": "MyChannel"}, "bad_redirect_queue"),
        ({"REDIRECT_QUEUES": "Channel*"}, {"redirect_queue": "image-pipeline_submit_0123456789ab"}, None),
        ({"REDIRECT_QUEUES": "*"}, {"redirect_queue": "image-pipeline_fetch"}, "bad_redirect_queue"),
        ({"REDIRECT_QUEUES": "Channel*"}, ASKED, None),
        ({"QUEUE_URL": "https://sqs/1/In.fifo"}, {"redirect_queue": "In.fifo"}, "bad_redirect_queue"),
        ({"POSTBACK_HTTPS_ONLY": "on"}, ASKED, None),
        ({"POSTBACK_HTTPS_ONLY": "on"}, {"postback_url": "http://receiver.example/"}, "bad_postback_url"),
        ({}, {"postback_url": "http://receiver.example/"}, None),
    ],
)
def test_the_settings_limit_the_destinations(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], asked: dict[str, str], code: str | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    try:
        accept({"image_url": COVER, **asked})
        assert code is None
    except Rejected as error:
        assert error.code == code  # noqa: PT017
    finally:
        monkeypatch.undo()
        get_settings.cache_clear()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_anything_else_in_a_payload_comes_back_unchanged(extra: dict[str, Any]) -> None:
    ours = {"image_url", "itunes_image", "bucket_name", "redirect_queue", "postback_url", "postback_secret_key"}
    extra = {k: v for k, v in extra.items() if k not in ours and not k.endswith(("_info", "_error"))}
    payload = {**extra, **ASKED, "image_url": COVER}
    job = Job.decode(json.loads(json.dumps(accept(payload).encode())))
    job = job.with_sources({COVER: job.sources[0].published(CONTENT)})
    assert job.result(job.payload or {}, lambda _: {}) == {**payload, "image_url_info": {}}


# Sweeps.


def test_an_input_message_cannot_make_a_sweeps_job() -> None:
    sweep = {"collection": "channels", "run": "r", "cover": "c"}
    job = accept({"image_url": COVER, **ASKED, "sweep": sweep, "job": {"sweep": sweep}, "lane": "bulk"})

    assert job.sweep is None
    assert job.lane is Lane.LIVE
    assert Job.decode(job.encode()).sweep is None


def test_a_sweeps_job_is_carried_whole_in_the_bulk_lane() -> None:
    sweep = Sweep("channels", "run", "cover")
    job = Job.of_sweep(sweep, job_id="id", folder="F", urls={"image_url": "http://h/a", "itunes_image": "http://h/a"})

    assert Job.decode(json.loads(json.dumps(job.encode()))) == job
    assert (job.lane, job.payload, job.sweep) == (Lane.BULK, {}, sweep)
    assert [source.fields for source in job.sources] == [("image_url", "itunes_image")]


@pytest.mark.parametrize(
    ("error", "given_up"),
    [
        (PermanentError("http_404", "gone"), False),
        (RetryableError("timeout", "slow"), True),
        (StagedMissing("key"), True),
    ],
)
def test_a_failed_source_records_whether_to_try_again_another_day(error: PipelineError, given_up: bool) -> None:
    assert Source("http://h/a", ("image_url",)).failed(FETCH, error).given_up is given_up


def test_details_that_do_not_fit_the_recipe_are_refused() -> None:
    # Given the encoded job of a source that was published with details
    facts = SourceFacts(3000, 3000, "jpeg", "#606055", "V/gNHwZ5dohwiHd6iGh5iHaJdgaXV3AG", 9, "0" * 64, ("animated",))
    job = accept({**ASKED, "image_url": COVER})
    details = Details(facts, dict.fromkeys(CONTENT.renditions, 7))
    job = job.with_sources({COVER: job.sources[0].published(CONTENT, details)})
    encoded = job.encode()
    assert Job.decode(encoded) == job
    # When anyone changes them to something that a result must not have, then it is not a job
    for change in ({"sizes": {"1x1": 7}}, {"facts": encoded["sources"][0]["details"]["facts"] | {"color": "<b>"}}):
        forged = json.loads(json.dumps(encoded))
        forged["sources"][0]["details"] |= change
        with pytest.raises(Rejected):
            Job.decode(forged)
