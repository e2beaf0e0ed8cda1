"""Inspecting a cover: its way, its facts, its renditions, or the reason of a refusal."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.ops.inspect import Inspection, Refusal, inspect
from tests.support.pictures import corners, encoded, exif, png_header
from tests.support.untrusted_servers import Behaviour, Remote, Request, always, answer, remote, settings

COVER = corners(1400, 1400)
JPEG = encoded(COVER, "JPEG")


@pytest.fixture(autouse=True)
def loopback(no_variables, monkeypatch):
    settings(monkeypatch, ALLOWED_NETWORKS="127.0.0.1/32", FETCH_TIMEOUT="2", FETCH_TOTAL_TIMEOUT="5")


def inspected(*pieces: bytes, path: str = "/cover.jpg") -> Inspection:
    with remote(always(*pieces)) as host:
        return inspect(host.url(path))


def pages(**by_path: bytes) -> Behaviour:
    return lambda _, request: [by_path[request.path.strip("/").partition("?")[0]]]


def written(folder: Path, data: bytes) -> str:
    path = folder / "cover"
    path.write_bytes(data)
    return str(path)


class TestFacts:
    @pytest.mark.parametrize(
        ("name", "renditions"), [("JPEG", "jpeg"), ("PNG", "png"), ("WEBP", "webp"), ("GIF", "gif"), ("AVIF", "jpeg")]
    )
    def test_a_good_cover_has_its_facts_and_renditions(self, name, renditions):
        found = inspected(answer(200, encoded(COVER, name), f"Content-Type: image/{name.lower()}"))

        assert found.refusal is None
        assert (found.format, found.width, found.height, found.orientation) == (name.lower(), 1400, 1400, 1)
        assert found.declared_type == f"image/{name.lower()}"
        assert "wrong_content_type" not in found.warnings
        assert [(each.name, each.format) for each in found.renditions] == [
            (size, renditions) for size in ("50x50", "250X250", "800x800")
        ]

    def test_the_renditions_are_those_of_the_settings(self, monkeypatch):
        settings(monkeypatch, RENDITIONS="20x10,30x30.webp", RESIZE_FIT="contain")

        found = inspected(answer(200, JPEG))

        assert [(each.name, each.format, each.quality) for each in found.renditions] == [
            ("20x10", "jpeg", 80),
            ("30x30.webp", "webp", 79.5),
        ]
        assert all(each.data for each in found.renditions)

    def test_a_format_without_loss_has_no_quality(self):
        found = inspected(answer(200, encoded(corners(), "PNG")))
        assert {each.quality for each in found.renditions} == {None}

    def test_the_orientation_is_that_of_exif_and_the_size_is_upright(self):
        found = inspected(answer(200, encoded(corners(60, 40), "JPEG", exif=exif(6))))
        assert (found.orientation, found.width, found.height) == (6, 40, 60)

    def test_the_warnings_are_those_of_results(self):
        found = inspected(answer(200, encoded(corners(60, 40).convert("RGBA"), "PNG"), "Content-Type: text/html"))
        assert found.warnings == ["not_square", "below_1400", "has_alpha", "wrong_content_type"]

    def test_the_cost_is_that_of_the_decoding_process(self):
        found = inspected(answer(200, JPEG))
        assert 0 < found.cpu_seconds < 10
        assert 10_000_000 < found.memory_bytes < 1_000_000_000


class TestTheWay:
    def test_each_redirect_has_its_status_and_the_headers_that_matter(self):
        with remote(
            pages(
                old=answer(301, b"", "Location: /moved?token=hush", "Set-Cookie: a=b"),
                moved=answer(302, b"", "Location: /cover.jpg"),
                **{"cover.jpg": answer(200, JPEG, "Content-Type: image/jpeg", "Cache-Control: max-age=60")},
            )
        ) as host:
            found = inspect(host.url("/old"))

        base = f"http://127.0.0.1:{host.port}"
        assert [(each.status, each.url) for each in found.way] == [
            (301, f"{base}/old"),
            (302, f"{base}/moved"),
            (200, f"{base}/cover.jpg"),
        ]
        assert found.way[2].headers == {
            "Content-Type": "image/jpeg",
            "Content-Length": str(len(JPEG)),
            "Cache-Control": "max-age=60",
        }
        assert "Set-Cookie" not in found.way[0].headers

    def test_neither_passwords_nor_queries_are_kept(self):
        with remote(pages(cover=answer(200, JPEG))) as host:
            found = inspect(f"http://user:hush@127.0.0.1:{host.port}/cover?key=hush")

        assert found.refusal is None
        assert "hush" not in repr(found)

    def test_a_header_cannot_change_the_terminal(self):
        found = inspected(answer(200, JPEG, "Content-Type: image/\x1b[31mjpeg", f"Cache-Control: {'x' * 500}"))
        headers = found.way[0].headers
        assert headers["Content-Type"] == found.declared_type == "image/?[31mjpeg"
        assert len(headers["Cache-Control"]) < 200

    def test_the_way_to_a_refusal_is_known(self):
        with remote(pages(old=answer(301, b"", "Location: /gone"), gone=answer(404, b"", "Retry-After: 9"))) as host:
            found = inspect(host.url("/old"))

        assert [each.status for each in found.way] == [301, 404]
        assert found.way[1].headers["Retry-After"] == "9"
        assert found.refusal.code == "http_404"


class TestConditionalRequests:
    """Whether the host can confirm that a cover has not changed."""

    def test_a_host_that_answers_304(self):
        def behave(_: Remote, request: Request) -> list[bytes]:
            same = request.header("If-None-Match") == '"1"'
            return [answer(304, b"", 'ETag: "1"') if same else answer(200, JPEG, 'ETag: "1"')]

        with remote(behave) as host:
            found = inspect(host.url())

        assert found.conditional is True
        assert [each.status for each in found.way] == [200]
        assert len(host.requests) == 2

    def test_a_host_that_gives_validators_and_ignores_them(self):
        found = inspected(answer(200, JPEG, "Last-Modified: Wed, 01 Jan 2020 00:00:00 GMT"))
        assert found.conditional is False

    def test_a_host_without_validators_is_asked_once(self):
        with remote(always(answer(200, JPEG))) as host:
            found = inspect(host.url())
        assert found.conditional is False
        assert len(host.requests) == 1

    def test_a_host_that_fails_at_the_second_request(self):
        def behave(server: Remote, _: Request) -> list[bytes]:
            return [answer(200, JPEG, 'ETag: "1"') if len(server.requests) == 1 else answer(503)]

        with remote(behave) as host:
            found = inspect(host.url())

        assert found.conditional is None
        assert found.refusal is None


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "code"),
        [
            (b"<html>Not here</html>", "not_an_image"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_format"),
            (JPEG[:5000], "broken_image"),
            (png_header(20_000, 20_000), "too_large"),
        ],
        ids=["html", "svg", "truncated", "bomb"],
    )
    def test_a_bad_source_is_refused_with_the_code_of_results(self, body, code):
        found = inspected(answer(200, body, "Content-Type: image/png"))

        assert found.refusal.code == code
        assert found.declared_type == "image/png"
        assert found.renditions == []

    def test_the_format_and_size_in_bytes_of_a_refused_source_are_known(self):
        found = inspected(answer(200, b"<svg xmlns='http://www.w3.org/2000/svg'/>"))
        assert (found.format, found.bytes) == ("svg", 41)

    def test_an_address_that_is_not_public_is_refused(self, monkeypatch):
        settings(monkeypatch, ALLOWED_NETWORKS="")

        found = inspect("http://127.0.0.1:8080/cover.jpg")

        assert found.way == []
        assert found.refusal == Refusal("blocked_address", "127.0.0.1 does not have a public address.")

    @pytest.mark.parametrize("source", ["ftp://example.org/cover.jpg", "https://", "file:///etc/hostname"])
    def test_other_urls_are_refused(self, source):
        assert inspect(source).refusal.code == "bad_url"


class TestFiles:
    def test_a_file_has_no_way(self, tmp_path):
        found = inspect(written(tmp_path, JPEG))
        assert (found.way, found.declared_type, found.conditional) == ([], None, None)
        assert (found.format, len(found.renditions), found.bytes) == ("jpeg", 3, len(JPEG))

    def test_a_file_has_the_limit_of_downloads(self, tmp_path, monkeypatch):
        settings(monkeypatch, MAX_SOURCE_BYTES="1000")
        found = inspect(written(tmp_path, JPEG))
        assert (found.refusal.code, found.refusal.message) == ("too_large", "cover is larger than 1,000 bytes.")
        assert inspected(answer(200, JPEG)).refusal.code == "too_large"

    def test_an_empty_file_is_refused_like_an_empty_download(self, tmp_path):
        assert inspect(written(tmp_path, b"")).refusal.code == inspected(answer(200, b"")).refusal.code == "empty"
