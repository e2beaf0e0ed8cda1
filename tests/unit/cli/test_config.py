"""`config`."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.settings import Settings, get_settings


def test_config_shows_each_setting_with_its_source_and_no_secret(no_variables, monkeypatch):
    monkeypatch.setenv("RENDITIONS", "50x50,800X800@blur")
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("MONGO_URL_PRODUCTION", "mongodb://u:hush@h/x")
    get_settings.cache_clear()
    output = CliRunner().invoke(app, ["config", "--json"]).output
    found = {line["variable"]: (line["value"], line["source"]) for line in map(json.loads, output.splitlines())}
    assert found["RENDITIONS"] == ("50x50,800X800@blur", "environment")
    assert found["ENVIRONMENT"] == ("PRODUCTION", "environment")
    assert found["MONGO_URL_PRODUCTION"] == ("secret", "environment")
    assert found["POSTBACK_SECRET_KEY"] == ("secret", "default")
    assert found["FETCH_RETRY_DELAYS"] == ("2,10,60,300,1800", "default")
    assert found["JOBS_MONGO_URL"] == ("", "default")
    assert len(found) == len(Settings.model_fields)
    assert "hush" not in output
    changed = CliRunner().invoke(app, ["config", "--changed"]).output
    assert len(changed.splitlines()) == 4
    get_settings.cache_clear()
