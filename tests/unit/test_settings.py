"""Environment variables: names, defaults and the messages for wrong values (contract, section 6)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from PIL import Image

from pipeline.clients import lazy
from pipeline.errors import SettingsError
from pipeline.settings import Settings, get_settings

ROOT = Path(__file__).parents[2]

#: Modules that pass the environment on to child processes; they read no setting from it.
HANDS_ON = {"local", "demo"}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*Settings.model_fields, "environment"]:
        monkeypatch.delenv(name.upper(), raising=False)
    lazy.forget()


def test_the_defaults_are_the_contracts() -> None:
    settings = get_settings()
    assert settings.aws_region == "us-east-2"
    assert settings.queue_namespace == "image-pipeline"
    assert settings.calls_to_update_list_sqs_queues == 100_000
    assert (settings.s3_bucket, settings.s3_prefix, settings.s3_acl) == ("images-ch", "images-resized", "public-read")
    assert settings.cache_control == "public, max-age=31536000, immutable"
    assert settings.staging == "s3://images-ch/pipeline-staging/"
    assert settings.public_url_base == "https://s3.us-east-2.amazonaws.com/images-ch"
    assert [size[:3] for size in settings.renditions] == [
        ("50x50", 50, 50),
        ("250X250", 250, 250),
        ("800x800", 800, 800),
    ]
    assert (settings.resize_fit, settings.output_formats) == ("cover", "source")
    assert (settings.max_source_bytes, settings.max_source_pixels) == (52_428_800, 178_000_000)
    assert settings.max_decoded_pixels == 50_000_000
    assert (settings.fetch_timeout, settings.fetch_total_timeout, settings.postback_timeout) == (12, 60, 15)
    assert settings.fetch_retry_delays == (2, 10, 60, 300, 1800)
    assert settings.retry_delays == (1, 5, 30, 120, 600, 900, 900, 900)
    assert settings.postback_retry_delays == (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
    assert settings.postback_secret_key.get_secret_value() == "47/:6WT?v5edl|W}Dt&#TK5.hwe>3,"
    assert settings.claim_seconds == 21_600
    assert settings.level == "DEBUG"
    assert settings.database_url is None
    assert settings.user_agent == "Mozilla/5.0 (compatible; image-pipeline)"


def test_an_empty_value_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENDITIONS", "")
    monkeypatch.setenv("FETCH_TIMEOUT", "")
    assert get_settings().fetch_timeout == 12


def test_a_rendition_may_name_its_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENDITIONS", "50x50,800X800.webp,3000x3000.avif,1x1.jpeg,1x1.png")
    renditions = get_settings().renditions
    assert [each.name for each in renditions] == ["50x50", "800X800.webp", "3000x3000.avif", "1x1.jpeg", "1x1.png"]
    assert [each.extension for each in renditions] == ["", ".webp", ".avif", ".jpeg", ".png"]
    assert renditions[1][1:3] == (800, 800)


@pytest.mark.parametrize(("extension", "writer"), [(".avif", "AVIF"), (".webp", "WEBP")])
def test_a_format_that_this_host_cannot_write_stops_the_process(
    extension: str, writer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a Pillow that was built without the format
    Image.init()
    monkeypatch.delitem(Image.SAVE, writer)
    monkeypatch.setenv("RENDITIONS", f"50x50,800x800{extension}")
    # When the settings are read, then one sentence names the variable, its value and the format
    with pytest.raises(SettingsError) as caught:
        get_settings()
    (sentence,) = caught.value.args
    assert sentence.startswith(f"RENDITIONS='50x50,800x800{extension}': Pillow on this host cannot write {extension}")
    # But without the name, the format does not matter
    monkeypatch.setenv("RENDITIONS", "50x50")
    assert get_settings().renditions[0].name == "50x50"


def test_lists_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENDITIONS", "100X60, 1x1")
    monkeypatch.setenv("ALLOWED_NETWORKS", "10.0.0.0/8,::1/128")
    monkeypatch.setenv("POSTBACK_RETRY_DELAYS", "1,2.5")
    settings = get_settings()
    assert [size.name for size in settings.renditions] == ["100X60", "1x1"]
    assert [str(network) for network in settings.allowed_networks] == ["10.0.0.0/8", "::1/128"]
    assert settings.postback_retry_delays == (1, 2.5)


@pytest.mark.parametrize(
    ("variables", "base"),
    [
        ({"PUBLIC_BASE_URL": "https://cdn.example/c/"}, "https://cdn.example/c"),
        ({"AWS_ENDPOINT_URL": "http://a:1", "AWS_ENDPOINT_URL_S3": "http://b:2/"}, "http://b:2/images-ch"),
        ({"AWS_ENDPOINT_URL": "http://a:1"}, "http://a:1/images-ch"),
        ({"AWS_REGION": "eu-west-1", "S3_BUCKET": "mine"}, "https://s3.eu-west-1.amazonaws.com/mine"),
    ],
)
def test_public_urls_begin_as_in_the_contract(
    variables: dict[str, str], base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert get_settings().public_url_base == base


def test_the_database_is_chosen_as_in_the_running_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def database() -> str | None:
        lazy.forget()
        url = get_settings().database_url
        return url and url.get_secret_value()

    monkeypatch.setenv("MONGO_URL_DEVELOP", "mongodb://d/db")
    monkeypatch.setenv("MONGO_URL_PRODUCTION", "mongodb://p/db")
    assert database() == "mongodb://d/db"
    monkeypatch.setenv("ENVIRONMENT", "production")
    assert database() == "mongodb://p/db"
    monkeypatch.setenv("DB_ENVIRONMENT", "DEVELOP")
    assert database() == "mongodb://d/db"
    monkeypatch.setenv("MONGO_URL", "mongodb://m/db")
    assert database() == "mongodb://m/db"


@pytest.mark.parametrize("name", ["ENVIRONMENT", "DB_ENVIRONMENT"])
def test_an_alias_is_reported_under_the_name_that_was_set(monkeypatch, name):
    monkeypatch.setenv(name, "staging")
    lazy.forget()
    with pytest.raises(SettingsError, match=f"^{name}='STAGING': "):
        get_settings()


def test_an_agent_cannot_add_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER_AGENT", "Mine/1.0\r\nX-Forged: 1")
    with pytest.raises(SettingsError, match=r"^USER_AGENT="):
        get_settings()


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("RENDITIONS", "50", "<width>x<height>"),
        ("RENDITIONS", "50x50,50x50", "the same size and format"),
        ("RENDITIONS", "800x800,1200x630,800X800@blur", "'800x800' and '800X800@blur' have the same size and format"),
        ("RENDITIONS", "800x800,800x800.webp@blur", "they need the same fit"),
        ("RENDITIONS", "800x800@crop", "@ with one of cover, contain, fill, blur"),
        ("RENDITIONS", "800x800@", "@ with one of"),
        ("RENDITIONS", "0x50", "<width>x<height>"),
        ("RENDITIONS", "99999x1", "16383"),
        ("RENDITIONS", "800x800.jpg", ".webp, .avif, .jpeg, .png"),
        ("RENDITIONS", "800x800.WEBP", ".webp, .avif, .jpeg, .png"),
        ("RENDITIONS", "800x800.", "<width>x<height>"),
        ("RENDITIONS", "50x50,3001x3000.avif", "9000000"),
        ("RENDITIONS", "50x50.webp,50x50.webp", "the same size and format"),
        ("RENDITIONS", ",", "at least one"),
        ("RENDITIONS", "50x50,16000x16000", "'16000x16000' has more than 17000000 pixels"),
        ("RENDITIONS", "4124x4124.jpeg", "17000000"),
        ("RESIZE_FIT", "crop", "'cover', 'contain', 'fill' or 'blur'"),
        ("OUTPUT_FORMATS", "jpeg", "'source' or 'jpeg,png'"),
        ("SWEEP_MAX_BACKLOG", "0", "at least 1"),
        ("S3_ACL", "public", "'public-read'"),
        ("MAX_SOURCE_BYTES", "many", "whole number"),
        ("MAX_SOURCE_PIXELS", "178,000,000", "in digits alone"),
        ("METRICS_PORT", "70000", "at most 65535"),
        ("METRICS_HOST", "here", "an IP address"),
        ("FETCH_TIMEOUT", "1m", "without a unit"),
        ("FETCH_RETRY_DELAYS", "1,x", "'x' is not a number of seconds"),
        ("FETCH_TIMEOUT", "0", "more than 0"),
        ("FETCH_RETRY_DELAYS", "1,-2", "from 0"),
        ("ALLOWED_NETWORKS", "10.0.0.0/33", "10.0.0.0/33"),
        ("FETCH_ALLOWED_NETWORKS", "10.0.0.0/33", "10.0.0.0/33"),
        ("POSTBACK_ALLOWED_NETWORKS", "10.1", "such as 10.0.0.0/8"),
        ("ALLOWED_NETWORKS", "10.1.2.3/8", "did you mean 10.0.0.0/8?"),
        ("BLOCKED_NETWORKS", "all", "all"),
        ("ALLOWED_PORTS", "80,https", "1024-65535"),
        ("ALLOWED_PORTS", "443-80", "1024-65535"),
        ("ALLOWED_PORTS", "0", "1024-65535"),
        ("ALLOWED_PORTS", "65536", "1024-65535"),
        ("REDIRECT_QUEUES", "Channel Images", "queue name"),
        ("POSTBACK_HTTPS_ONLY", "perhaps", "on or off"),
        ("STAGING_URL", "ftp://x/", "s3://"),
        ("STAGING_URL", "s3://images-ch", "of its own"),
        ("STAGING_URL", "s3://images-ch/images-resized/x", "of its own"),
        ("STAGING_URL", "s3:///staging", "of its own"),
        ("STAGING_URL", "file:///", "of its own"),
        ("STAGING_URL", "file://relative/x", "of its own"),
        ("S3_PREFIX", "/", "one or more names"),
        ("S3_PREFIX", "images//resized", "one or more names"),
        ("S3_PREFIX", "images/../resized", "one or more names"),
        ("STAGING_URL", "s3://bucket/a//b/", "a prefix of its"),
        ("AWS_REGION", "us east", "regular expression"),
        ("SWEEP_CHANNELS_CRON", "foo", "five fields"),
        ("QUEUE_URL", "my-queue", "https://"),
        ("LEVEL", "LOUD", "'DEBUG'"),
        ("CLAIM_SECONDS", "1", "60"),
        ("USER_AGENT", " Mine/1.0", "regular expression"),
        ("USER_AGENT", "Müller/1.0", "regular expression"),
    ],
)
def test_a_wrong_value_is_reported_with_the_accepted_values(
    name: str, value: str, accepted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        get_settings()
    sentence = str(caught.value)
    assert sentence.startswith(f"{name}=")
    assert value in sentence
    assert accepted in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "PUBLIC_BASE_URL", "OTEL_EXPORTER_OTLP_ENDPOINT"])
def test_the_password_in_a_url_is_never_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "https://me:hunter2@host.example/path")
    with pytest.raises(SettingsError, match=f"^{name}: .*contains no password") as caught:
        get_settings()
    assert "hunter2" not in str(caught.value)


def test_credentials_must_be_set_in_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_S3", "planted-key")
    with pytest.raises(SettingsError, match="AWS_ACCESS_KEY_S3 and AWS_SECRET_KEY_S3 belong together") as caught:
        get_settings()
    assert "planted" not in str(caught.value)


def test_nothing_else_reads_the_environment() -> None:
    for path in [*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("actors/*.py")]:
        if path.name in {"settings.py", *HANDS_ON} or path.parent.name in HANDS_ON:
            continue
        names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert not names & {"environ", "getenv", "environb"}, path
