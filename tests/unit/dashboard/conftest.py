"""Dashboards with nothing behind them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from pipeline.clients import lazy
from pipeline.dashboard import auth
from pipeline.dashboard.auth import Access
from pipeline.settings import Settings
from tests.support.dashboard import HUSH, TOKEN, Site, closed_port, serving


@pytest.fixture(scope="module")
def nothing_behind() -> Iterator[pytest.MonkeyPatch]:
    """Set an AWS endpoint where nothing listens, and secrets."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in [*Settings.model_fields, "environment"]:
            monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.setattr(auth, "WRONG_TOKEN_DELAY", 0)
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{closed_port()}",
            "AWS_ACCESS_KEY_S3": "key",
            "AWS_SECRET_KEY_S3": f"{HUSH}-s3",
            "AWS_ACCESS_KEY_SQS": "key",
            "AWS_SECRET_KEY_SQS": f"{HUSH}-sqs",
            "POSTBACK_SECRET_KEY": f"{HUSH}-postback",
        }.items():
            monkeypatch.setenv(name, value)
        lazy.forget()
        yield monkeypatch
    lazy.forget()


@pytest.fixture(scope="module")
def site(nothing_behind: pytest.MonkeyPatch) -> Iterator[Site]:
    """Run a dashboard without a token."""
    with serving() as site:
        yield site


@pytest.fixture(scope="module")
def locked_site(nothing_behind: pytest.MonkeyPatch) -> Iterator[Site]:
    """Run a dashboard with a token."""
    with serving(Access.for_host("127.0.0.1", SecretStr(TOKEN))) as site:
        yield site


@pytest.fixture
def locked(locked_site: Site) -> Site:
    """The dashboard with a token, which has forgotten the wrong tokens of earlier tests."""
    locked_site.access.throttle._windows.clear()
    return locked_site
