"""The parts of a job that others rely on to the letter: its encoding, the keys of staging, and a new job's fields."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from pipeline.errors import PermanentError, Rejected, RetryableError, StagedMissing
from pipeline.job import Content, Job, Rendered, Source, Unfinished
from pipeline.payload import MAX_DEPTH, MAX_URL_LENGTH
from pipeline.recipe import Recipe, parse_rendition
from pipeline.settings import get_settings
from pipeline.stages import FETCH, NOTIFY, RESIZE, UPLOAD, Lane
from tests.support.untrusted_servers import download

COVER = "https://feeds.example/cover.jpg"
PAYLOAD = {"image_url": COVER, "postback_url": "https://receiver.example/hook"}
CONTENT = Content("0" * 32, ".jpeg", Recipe((parse_rendition("50x50"), parse_rendition("250X250"))))


def accept(payload: dict[str, object]) -> Job:
    return Job.accept(payload, job_id="job-1", settings=get_settings(), stage_payload=lambda _: "0" * 32)


def test_a_new_job_has_its_input_and_nothing_else() -> None:
    assert asdict(accept(PAYLOAD)) == {
        "id": "job-1",
        "folder": "custom",
        "sources": (
            {
                "url": COVER,
                "fields": ("image_url",),
                "due": "fetch",
                "original": "",
                "giant": False,
                "content": None,
                "rendered": {"key": "", "sizes": {}, "crc": None},
                "restarted": False,
                "former": (),
                "error": None,
                "given_up": False,
                "known": None,
                "size": 0,
                "validators": None,
                "details": None,
                "has_wrong_type": False,
            },
        ),
        "payload": PAYLOAD,
        "payload_key": None,
        "lane": Lane.LIVE,
        "deliveries": None,
        "ticket": "",
        "redrives": 0,
        "letters": 0,
        "sweep": None,
        "accepted": 0.0,
        "delayed_by": None,
        "is_late": False,
    }


def test_the_encoding_is_readable_by_workers_of_other_releases() -> None:
    # Given a job halfway through
    job = accept(PAYLOAD)
    (source,) = job.sources
    resized = source.fetched("a" * 32, CONTENT).resized(
        Rendered.of("b" * 32, {"50x50": b"12", "250X250": b"3"}, b"123")
    )
    job = replace(job.with_sources({COVER: resized}), ticket="t", letters=1)
    # Then its encoding is this, without the fields that have default values.
    assert accept(PAYLOAD).encode() == {
        "v": 1,
        "id": "job-1",
        "folder": "custom",
        "sources": [{"url": COVER, "fields": ["image_url"]}],
        "payload": PAYLOAD,
    }
    assert job.encode()["sources"] == [
        {
            "url": COVER,
            "fields": ["image_url"],
            "due": "upload",
            "original": "a" * 32,
            "content": {
                "id": "0" * 32,
                "extension": ".jpeg",
                "recipe": {"renditions": ["50x50", "250X250"], "fit": "cover"},
            },
            "rendered": {"key": "b" * 32, "sizes": {"50x50": 2, "250X250": 1}, "crc": 0x884863D2},
        }
    ]
    assert (job.encode()["ticket"], job.encode()["letters"]) == ("t", 1)


def test_a_source_goes_from_stage_to_stage() -> None:
    source = Source(COVER, ("image_url",))
    fetched = source.fetched("a", CONTENT)
    resized = fetched.resized(Rendered("b", {"50x50": 1}, 7))
    assert [each.due for each in (source, fetched, resized)] == ["fetch", "resize", "upload"]
    assert (fetched.original, fetched.content) == ("a", CONTENT)
    assert resized.published(CONTENT) == replace(resized, due="notify")
    assert resized.failed(UPLOAD, RetryableError("s3_error", "S3 is down.")) == replace(
        resized,
        due="notify",
        error={"stage": "upload", "code": "s3_error", "message": "S3 is down."},
        given_up=True,
    )


def test_a_job_has_a_giant_until_that_source_leaves_resize() -> None:
    job = accept(PAYLOAD)
    (source,) = job.sources
    assert not job.has_giant
    fetched = source.fetched("a", CONTENT, giant=True)
    assert job.with_sources({COVER: fetched}).has_giant
    assert not job.with_sources({COVER: fetched.resized(Rendered("b"))}).has_giant
    assert not job.with_sources({COVER: source.fetched("a", CONTENT)}).has_giant


def test_a_restarted_source_remembers_its_possible_leftovers_in_staging() -> None:
    source = Source(COVER, ("image_url",), former=("old",)).fetched("a", CONTENT).resized(Rendered("b"))
    again = source.back_at_fetch()
    assert again == Source(COVER, ("image_url",), restarted=True, former=("a", "b", "old"))
    assert again.staged_keys == ["a", "b", "old"]
    with pytest.raises(StagedMissing):
        _ = again.known_content


def test_only_a_due_source_fails_and_only_in_its_stage() -> None:
    job = accept({**PAYLOAD, "itunes_image": "https://feeds.example/other.png"})
    first, second = job.sources
    job = job.with_sources({COVER: first.fetched("a", CONTENT)})
    gone = PermanentError("http_404", "Gone.")
    assert job.urls_due(FETCH) == (second.url,)
    assert job.urls_due(RESIZE) == (COVER,)
    failed = job.with_errors(FETCH, {COVER: gone, second.url: gone})
    assert [bool(source.error) for source in failed.sources] == [False, True]
    assert failed.urls_due(NOTIFY) == ()


def test_the_keys_of_staged_bytes_are_stable() -> None:
    # A worker of another release finds, and deletes, the staged bytes of this one.
    job = replace(accept(PAYLOAD), ticket="ticket-1")
    assert job.staged_key(RESIZE, job.sources[0], CONTENT) == "2a78012305b0e6c72f0b4f3eadcf7de5"


def test_a_payload_may_be_nested_up_to_the_limit() -> None:
    deep: list[object] = []
    for _ in range(MAX_DEPTH - 2):
        deep = [deep]
    accept({**PAYLOAD, "x": deep})
    accept({**PAYLOAD, "x": {"y": deep[0]}})
    for too_deep in ([deep], (deep,), {"y": deep}):
        with pytest.raises(Rejected, match="too_deep"):
            accept({**PAYLOAD, "x": too_deep})


def test_the_errors_that_stopped_a_job_are_listed_by_part() -> None:
    job = accept(PAYLOAD)
    unfinished = Unfinished(
        (job, {"a": RetryableError("s3_error", "X.")}), (job, {"b": RetryableError("sqs_error", "Y.")})
    )
    assert str(unfinished) == "s3_error: X. sqs_error: Y."


def test_two_long_urls_that_differ_at_their_ends_fail_together() -> None:
    # Given two URLs that are too long, and differ only where they are cut
    start = "https://a.example/" + "x" * MAX_URL_LENGTH
    job = accept({**PAYLOAD, "image_url": start + "1", "itunes_image": start + "2"})
    # Then the job can be read in fetch
    (source,) = Job.decode(job.encode()).sources
    # And each field gets the error in the result
    with pytest.raises(PermanentError) as caught:
        download(source.url)
    result = job.with_errors(FETCH, {source.url: caught.value}).result({}, lambda _: {})
    assert [result[f"{name}_error"]["code"] for name in ("image_url", "itunes_image")] == ["bad_url", "bad_url"]
