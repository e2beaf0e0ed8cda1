"""Settings with a form of their own, whose values are never shown."""

from __future__ import annotations

import pytest

from pipeline.errors import SettingsError
from pipeline.settings import get_settings

pytestmark = pytest.mark.usefixtures("no_variables")


@pytest.mark.parametrize("name", ["MONGO_URL", "JOBS_MONGO_URL"])
@pytest.mark.parametrize(
    "url", ["mongodb://user:hunter2@host", "mongodb://user:hunter2@host/?a=b", "http://hunter2/db"]
)
def test_a_mongodb_url_must_name_its_database(name: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, url)
    with pytest.raises(SettingsError) as caught:
        get_settings()
    assert str(caught.value).startswith(f"{name}: ")
    assert "the name of its database in the path" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("value", [" ", "none", "hunter2", f"{'k' * 32} hunter2", f"none {'k' * 31}"])
def test_a_job_key_must_be_long(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOB_KEY", value)
    with pytest.raises(SettingsError, match=r"^JOB_KEY: .*at least 32 characters") as caught:
        get_settings()
    assert "hunter2" not in str(caught.value)


def test_secrets_may_be_several_while_they_are_rotated(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, signing = ("k" * 32, "none"), ("whsec_" + "QUJD" * 8, "whsec_" + "REVG" * 8)
    monkeypatch.setenv("JOB_KEY", " ".join(keys))
    monkeypatch.setenv("POSTBACK_SIGNING_SECRET", " ".join(signing))
    assert (get_settings().job_keys, get_settings().signing_secrets) == (keys, signing)


@pytest.mark.parametrize(
    "value", [" ", "whsec_hunter2", "whsec_not base64 hunter2", "whsec_" + "QUJD" * 8 + " whsec_hunter2"]
)
def test_each_signing_secret_must_be_one(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTBACK_SIGNING_SECRET", value)
    with pytest.raises(SettingsError, match=r"^POSTBACK_SIGNING_SECRET: .*whsec_") as caught:
        get_settings()
    assert "hunter2" not in str(caught.value)
