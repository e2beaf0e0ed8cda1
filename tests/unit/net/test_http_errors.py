"""Errors of requests, and the URLs in their messages."""

from __future__ import annotations

import pytest

from pipeline.net.http_errors import shown


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://user:pass@Example.com:8443/a/b.jpg?token=1#part", "example.com:8443/a/b.jpg"),
        ("http://[::1]:8899/x", "[::1]:8899/x"),
        ("https://example.com/" + "a" * 188, "example.com/" + "a" * 188),
        ("https://example.com:8443/" + "a" * 300, "example.com:8443/" + "a" * 182 + "…"),
        ("https://example.com/@name/b.jpg", "example.com/@name/b.jpg"),
        ("https://example.com", "example.com"),
        ("http://[::1]/x", "::1/x"),
        ("http://user:pa/ss@example.com/x", "the URL"),
        ("http://user:12/34@example.com/x", "the URL"),
        ("user:pass@example.com/x", "the URL"),
        ("http://example.com/\x1b[31m", "example.com/?[31m"),
        ("http://[", "the URL"),
        ("", "the URL"),
    ],
)
def test_a_url_is_shown_by_host_port_and_path_only(url: str, text: str) -> None:
    assert shown(url) == text
