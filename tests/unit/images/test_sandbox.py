"""Dangerous pictures are rendered in a child process, so that a crash ends the child and not the worker."""

from __future__ import annotations

import os
import signal
import struct
from pathlib import Path

import pytest
from PIL import Image

from pipeline.errors import PermanentError, RetryableError
from pipeline.images import render as images
from pipeline.images import sandbox
from tests.support.pictures import LIMITS, corners, encoded, recipe


@pytest.mark.parametrize("name", ["AVIF", "TIFF", "PNG"])
def test_a_child_renders_as_the_worker_does(name: str) -> None:
    data = encoded(corners(), name)
    wanted = recipe("40x40", "5X7", fit="contain")
    assert sandbox.render(data, wanted, **LIMITS) == images.render(data, wanted, **LIMITS)


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (encoded(corners(), "AVIF")[:-40], "broken_image"),
        (encoded(corners(2000, 2000), "TIFF"), "too_large"),
        (encoded(corners(), "PNG")[:-40], "broken_image"),
    ],
)
def test_errors_are_passed_on(source: bytes, code: str) -> None:
    with pytest.raises(PermanentError) as caught:
        sandbox.render(source, recipe("5x5"), **LIMITS)
    assert caught.value.code == code


def lying_avif(side: int) -> bytes:
    """Make an AVIF whose container claims 32 x 32 pixels, whatever its picture has."""
    data = encoded(Image.new("RGB", (side, side)), "AVIF", speed=10)
    true, false = struct.pack(">II", side, side), struct.pack(">II", 32, 32)
    assert data.count(true) == 1
    return data.replace(true, false)


def test_a_picture_larger_than_its_container_ends_at_the_memory_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an AVIF that takes far more memory than its header claims
    data = lying_avif(5000)
    assert images.identify(data, max_pixels=1024)
    monkeypatch.setattr(sandbox, "MAX_DECODER_BYTES", 60_000_000)
    # When it is rendered
    with pytest.raises(PermanentError) as caught:
        sandbox.render(data, recipe("5x5"), **LIMITS)
    # Then the decoder ran out of memory
    assert caught.value.code in {"too_large", "broken_image"}
    # And an honest one has enough
    assert sandbox.render(encoded(corners(), "AVIF"), recipe("5x5"), **LIMITS)


@pytest.mark.parametrize(
    ("cause", "error", "code"),
    [
        (signal.SIGSEGV, PermanentError, "broken_image"),
        (signal.SIGABRT, PermanentError, "broken_image"),
        (signal.SIGXCPU, PermanentError, "too_large"),
        (signal.SIGKILL, RetryableError, "out_of_memory"),
    ],
)
def test_a_crashed_child_does_not_affect_the_worker(
    monkeypatch: pytest.MonkeyPatch, cause: signal.Signals, error: type[Exception], code: str
) -> None:
    # Given a decoder that ends its process
    crash = ["-c", f"import os; os.kill(os.getpid(), {cause.value})"]
    monkeypatch.setattr(sandbox, "CHILD", crash)
    # Then the error names the cause
    with pytest.raises(error) as caught:
        sandbox.render(encoded(corners(), "TIFF"), recipe("5x5"), **LIMITS)
    assert caught.value.code == code


def test_an_error_at_the_memory_limit_is_permanent(monkeypatch: pytest.MonkeyPatch) -> None:
    say = """import json; print(json.dumps({"error": ["out_of_memory", "There was not enough."]}))"""
    monkeypatch.setattr(sandbox, "CHILD", ["-c", say])
    with pytest.raises(PermanentError, match="850 MB") as caught:
        sandbox.render(encoded(corners(), "TIFF"), recipe("5x5"), **LIMITS)
    assert caught.value.code == "too_large"


def test_a_child_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "CPU_SECONDS", 0)
    with pytest.raises(PermanentError) as caught:
        sandbox.render(encoded(corners(900, 900), "AVIF"), recipe("900x900"), **LIMITS)
    assert caught.value.code == "too_large"


def test_a_child_that_waits_too_long_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "CHILD", ["-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(sandbox, "TIMEOUT", 0.05)
    with pytest.raises(RetryableError) as caught:
        sandbox.render(encoded(corners(), "TIFF"), recipe("5x5"), **LIMITS)
    assert caught.value.code == "time_limit"


def test_a_failure_not_caused_by_the_image_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "CHILD", ["-c", "raise KeyError('who knows')"])
    with pytest.raises(RuntimeError, match="who knows"):
        sandbox.render(encoded(corners(), "TIFF"), recipe("5x5"), **LIMITS)


def test_a_child_finds_its_code_from_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert sandbox.render(encoded(corners(), "TIFF"), recipe("5x5"), **LIMITS)


def test_a_child_uses_the_same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a child that prints its module search path
    monkeypatch.setattr(sandbox, "CHILD", ("-c", "import os, sys; sys.exit(os.environ['PYTHONPATH'])"))
    with pytest.raises(RuntimeError) as caught:
        sandbox.render(encoded(corners(), "TIFF"), recipe("5x5"), **LIMITS)
    assert str(Path(sandbox.__file__).parents[2]) in str(caught.value)


def test_a_child_has_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a child that prints its environment
    monkeypatch.setenv("AWS_SECRET_KEY_S3", "SECRET")
    say = 'import json, os; print(json.dumps({"error": ["said", " ".join(os.environ)]}))'
    monkeypatch.setattr(sandbox, "CHILD", ["-c", say])
    with pytest.raises(PermanentError) as caught:
        sandbox.render(encoded(corners(), "TIFF"), recipe("5x5"), **LIMITS)
    # Then it has none of our variables
    assert "AWS_SECRET_KEY_S3" in os.environ
    assert "AWS" not in caught.value.message
