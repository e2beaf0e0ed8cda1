"""Checks of the settings and of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.images import sandbox
from pipeline.ops.checks import settings
from pipeline.ops.checks.model import CheckStatus
from tests.support.checked import rows, statuses

EMULATOR = "http://127.0.0.1:4566"


def test_the_default_agent_is_named_because_hosts_block_it() -> None:
    assert statuses(rows("user agent")) == [(CheckStatus.WARN, "USER_AGENT")]
    for harmless in ({"user_agent": "Mine/1.0 (+https://example.com/bot)"}, {"aws_endpoint_url": EMULATOR}):
        assert statuses(rows("user agent", **harmless)) == []


def test_jobs_without_a_proof_are_named() -> None:
    key = "0123456789abcdef" * 2
    assert statuses(rows("job key")) == [(CheckStatus.WARN, "JOB_KEY")]
    assert statuses(rows("job key", job_key=f"{key} none")) == [(CheckStatus.WARN, "JOB_KEY")]
    for harmless in ({"job_key": key}, {"aws_endpoint_url": EMULATOR}):
        assert statuses(rows("job key", **harmless)) == []
    assert key not in str(rows("job key", job_key=key))


@pytest.mark.parametrize(
    ("networks", "endpoint", "wrong"),
    [
        ("10.1.2.3/32", None, False),
        ("0.0.0.0/0", EMULATOR, True),
        ("::/0", None, True),
        ("127.0.0.0/8", EMULATOR, False),
        ("127.0.0.0/8", None, True),
        ("10.0.0.0/8,169.254.169.254/32", None, True),
    ],
)
def test_networks_that_allow_everyone_are_named(networks: str, endpoint: str | None, wrong: bool) -> None:
    for name in ("allowed_networks", "fetch_allowed_networks", "postback_allowed_networks"):
        found = rows("networks", **{name: networks}, aws_endpoint_url=endpoint)
        assert [row.subject for row in found] == [name.upper()]
        assert bool(statuses(found)) is wrong


def test_a_temporary_key_is_named() -> None:
    found = rows("variables", aws_access_key_sqs="ASIAEXAMPLE", aws_secret_key_sqs="x")
    assert statuses(found) == [(CheckStatus.FAIL, "AWS_ACCESS_KEY_SQS")]
    assert "AWS_SESSION_TOKEN" in found[-1].hint


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("https://sqs.eu-west-1.amazonaws.com/123456789012/Input", "It is in eu-west-1, but AWS_REGION=us-east-2"),
        ("https://sqs.us-east-2.amazonaws.com/123456789012/image-pipeline_fetch", "a queue of the service itself"),
        (None, "ingest is off"),
    ],
)
def test_an_input_queue_is_judged_by_its_url(url: str | None, part: str) -> None:
    (row,) = rows("input", queue_url=url)
    assert part in row.message


R2 = "https://0123abc.r2.cloudflarestorage.com"


@pytest.mark.parametrize(
    ("given", "subjects"),
    [
        ({}, []),
        ({"aws_endpoint_url_s3": "http://127.0.0.1:9000"}, []),
        ({"aws_endpoint_url_s3": "https://storage.googleapis.com"}, []),
        ({"aws_endpoint_url_s3": R2}, ["region us-east-2", "public URL"]),
        ({"aws_endpoint_url_s3": R2, "s3_region": "auto"}, ["public URL"]),
        ({"aws_endpoint_url_s3": R2, "s3_region": "auto", "public_base_url": "https://covers.example"}, []),
    ],
)
def test_the_settings_that_a_store_needs_are_named(given: dict[str, str], subjects: list[str]) -> None:
    assert [row.subject for row in rows("store", **given)] == subjects


def test_the_image_codecs_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "fast_paths", lambda: {"PNG": "kornia-rs", "WebP": "Pillow"})
    assert statuses(rows("codecs")) == [(CheckStatus.WARN, "WebP")]
    assert [row.message for row in rows("codecs")] == [
        "By kornia-rs.",
        "By Pillow instead of the faster library; the images are equally good.",
    ]


def test_a_sandbox_without_a_filter_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert statuses(rows("sandbox")) == []
    monkeypatch.setattr(settings, "why_unfiltered", lambda: "seccomp failed: Function not implemented")
    assert statuses(rows("sandbox")) == [(CheckStatus.WARN, "sandbox")]
    assert "Function not implemented" in rows("sandbox")[0].message


def test_a_sandbox_that_does_not_start_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "CHILD", ("-c", "raise SystemExit(7)"))
    assert statuses(rows("sandbox")) == [(CheckStatus.FAIL, "sandbox")]


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "max 100000\n"}, 16),
        ({"cpu.max": "9900000 100000\n"}, 16),
        ({}, 16),
    ],
)
def test_memory_is_compared_with_the_cores_that_a_container_may_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], cores: int
) -> None:
    # given a container on a node with 16 cores and 64 GB
    for name, text in ({"memory.max": "64000000000\n"} | files).items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(settings, "CGROUP", tmp_path, raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    # when it is checked, then resize is expected to start one process for each core of the container
    (row,) = rows("memory")
    assert f"{cores} process{'es' if cores > 1 else ''} of 2 GB" in row.message
    assert (f"--processes {cores}" in row.message) == (cores < 16)


def test_too_little_memory_for_resize_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "memory", lambda: 1_000_000_000)
    assert statuses(rows("memory")) == [(CheckStatus.WARN, "memory")]
    monkeypatch.setattr(settings, "memory", lambda: 10**12)
    assert statuses(rows("memory")) == []
