"""Which validators of a response are used again, where they are sent, and which answers are believed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from pipeline.clients import lazy
from pipeline.job import Validators
from pipeline.net.validators import conditions, confirms, validators_of
from tests.support.untrusted_servers import always, answer, downloaded, remote, settings

URL = "https://feeds.example/cover.jpg"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
OLD = "Wed, 01 Jan 2020 00:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({"ETag": '"a"'}, ('"a"', "")),
        ({"ETag": 'W/"a"', "Last-Modified": OLD}, ('W/"a"', OLD)),
        ({"ETag": "unquoted"}, ("unquoted", "")),
        ({"ETag": '"a b"'}, None),
        ({"ETag": '"' + "a" * 300 + '"'}, None),
        ({"Last-Modified": OLD}, ("", OLD)),
        ({"Last-Modified": "yesterday"}, None),
        ({"Last-Modified": "Sun, 01 Mar 2026 12:00:00 GMT"}, None),
        ({"Last-Modified": "Sun, 01 Mar 2026 11:59:59 GMT"}, ("", "Sun, 01 Mar 2026 11:59:59 GMT")),
        ({"Last-Modified": "Sun, 01 Mar 2026 11:59:59 GMT", "Date": "Sun, 01 Mar 2026 11:59:59 GMT"}, None),
        ({"Last-Modified": "Sun, 01 Mar 2027 00:00:00 GMT", "Date": "Mon, 01 Mar 2027 01:00:00 GMT"}, None),
        ({"ETag": '"a"', "Vary": "*"}, None),
        ({"ETag": '"a"', "Vary": "Accept"}, ('"a"', "")),
        ({}, None),
    ],
)
def test_usable_validators(headers: dict[str, str], found: tuple[str, str] | None) -> None:
    assert validators_of(URL, headers, NOW) == (Validators(URL, *found) if found else None)


def test_validators_are_sent_to_their_own_url_alone() -> None:
    assert conditions(Validators(URL, '"a"', OLD), URL) == {"If-None-Match": '"a"'}
    assert conditions(Validators(URL, "", OLD), URL) == {"If-Modified-Since": OLD}
    assert conditions(Validators(URL, '"a"'), f"{URL}?other") == {}
    assert conditions(None, URL) == {}


@pytest.mark.parametrize(
    ("headers", "believed"),
    [({}, True), ({"ETag": '"a"'}, True), ({"ETag": 'W/"a"'}, True), ({"ETag": '"b"'}, False)],
)
def test_a_304_is_believed_unless_its_tag_is_another(headers: dict[str, str], believed: bool) -> None:
    assert confirms(Validators(URL, '"a"'), headers) is believed
    assert confirms(Validators(URL, "", OLD), headers)


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    settings(monkeypatch, ALLOWED_NETWORKS="127.0.0.0/8")
    yield
    lazy.forget()


def test_the_connection_of_a_304_is_used_again(loopback: None) -> None:
    unchanged = b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nConnection: keep-alive\r\n\r\n'
    with remote(always(unchanged)) as server:
        validators = Validators(server.url(), '"a"')
        for _ in range(3):
            assert downloaded(server.url(), validators=validators).image is None
        assert (len(server.requests), server.connections) == (3, 1)


def test_a_download_has_its_validators(loopback: None) -> None:
    with remote(always(answer(200, b"picture", 'ETag: "a"'))) as server:
        found = downloaded(server.url())
    assert (found.image, found.validators) == (b"picture", Validators(server.url(), '"a"'))
