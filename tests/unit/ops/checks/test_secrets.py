"""Secrets that are missing, weak or published."""

from __future__ import annotations

import base64
from random import Random

import pytest

from pipeline.ops.checks.model import CheckStatus
from pipeline.ops.checks.secrets import weakness
from pipeline.setting_types import PUBLISHED_POSTBACK_SECRET
from tests.support.checked import rows, statuses

EMULATOR = "http://127.0.0.1:4566"


def signing_secret(seed: int = 1) -> str:
    return "whsec_" + base64.b64encode(Random(seed).randbytes(32)).decode()


@pytest.mark.parametrize(
    ("secret", "is_signed", "problems"),
    [
        (
            PUBLISHED_POSTBACK_SECRET,
            False,
            {"POSTBACK_SECRET_KEY": "published", "POSTBACK_SIGNING_SECRET": "not signed"},
        ),
        ("none", False, {"POSTBACK_SIGNING_SECRET": "not signed"}),
        ("none", True, {}),
        ("mine-alone-and-long", True, {}),
        ("mine-alone", True, {"POSTBACK_SECRET_KEY": "weak"}),
        ("abcd" * 8, True, {"POSTBACK_SECRET_KEY": "weak"}),
        (signing_secret(), True, {"POSTBACK_SECRET_KEY": "every receiver"}),
    ],
)
def test_a_bad_or_missing_secret_is_named_and_not_shown(secret: str, is_signed: bool, problems: dict[str, str]) -> None:
    given = {"postback_secret_key": secret} | ({"postback_signing_secret": signing_secret()} if is_signed else {})
    found = rows("secrets", **given)
    assert statuses(found) == [(CheckStatus.WARN, name) for name in problems]
    warned = [row for row in found if row.status is CheckStatus.WARN]
    assert all(problems[row.subject] in row.message for row in warned)
    assert secret == "none" or secret not in str(found)


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        (b"correct horse battery staple", "it is text"),
        (b"\xf0\xe1\xd2" * 8, "too few different bytes"),
        (base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), "public documents"),
    ],
)
def test_a_weak_signing_secret_is_named_by_its_position(key: bytes, problem: str) -> None:
    # Given a good secret and a weak one
    weak = base64.b64encode(key).decode()
    # When the settings are checked
    found = rows("secrets", postback_secret_key="none", postback_signing_secret=f"{signing_secret()} whsec_{weak}")
    # Then the second is named, and no secret is shown
    assert statuses(found) == [(CheckStatus.WARN, "POSTBACK_SIGNING_SECRET")]
    assert "Secret 2 of 2" in found[-1].message
    assert problem in found[-1].message
    assert weak not in str(found)


def test_a_rotation_to_the_same_secret_is_named() -> None:
    # With or without its prefix, it is the same secret
    both = f"{signing_secret()} {signing_secret().removeprefix('whsec_')}"
    found = rows("secrets", postback_secret_key="none", postback_signing_secret=both)
    assert statuses(found) == [(CheckStatus.WARN, "POSTBACK_SIGNING_SECRET")]
    assert "repeats secret 1" in found[-1].message


def test_random_secrets_are_never_weak() -> None:
    draw = Random(7)
    assert {weakness(draw.randbytes(size)) for size in range(24, 65) for _ in range(50)} == {""}
    assert {weakness(draw.randbytes(size).hex().encode()) for size in range(16, 33) for _ in range(50)} == {""}


def test_on_this_machine_the_published_secret_is_harmless() -> None:
    assert statuses(rows("secrets", aws_endpoint_url=EMULATOR)) == []
