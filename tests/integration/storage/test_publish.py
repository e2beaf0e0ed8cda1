"""Published objects: whether they exist, and how they are stored (contract, section 3)."""

from __future__ import annotations

import logging

import pytest
from botocore.exceptions import ClientError

from pipeline.clients import aws, lazy
from pipeline.errors import RetryableError
from pipeline.job import Content
from pipeline.local.embedded import REGION
from pipeline.recipe import Recipe, parse_rendition
from pipeline.settings import get_settings
from pipeline.storage import publish
from tests.support.broken import refuses_every_acl
from tests.support.refusing import refusing

CONTENT = Content("ab" * 16, ".webp", Recipe((parse_rendition("50x50"), parse_rendition("250X250"))))
RENDITIONS = {"50x50": b"small", "250X250": b"larger"}


@pytest.fixture(autouse=True)
def _acls_not_known_to_be_disabled() -> None:
    publish._acls_disabled.clear()


def test_an_image_is_published_once_every_rendition_is_there(each_store: dict[str, str]) -> None:
    assert not publish.find_published("F", CONTENT)
    publish.publish("F", CONTENT, {"50x50": b"small"})
    assert not publish.find_published("F", CONTENT)
    publish.publish("F", CONTENT, RENDITIONS)
    assert publish.find_published("F", CONTENT)
    assert not publish.find_published("G", CONTENT)


def test_keys_urls_and_headers_follow_the_contract(each_store: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBLIC_BASE_URL", "https://cdn.example/")
    get_settings.cache_clear()
    publish.publish("FOLDER", CONTENT, RENDITIONS)
    info = publish.image_info("FOLDER", CONTENT)
    key = f"images-resized/FOLDER/{CONTENT.id}_250X250.webp"
    assert info["250X250"] == {"url": f"https://cdn.example/{key}", "bucket_path": "images-resized/FOLDER/"}
    stored = aws.s3().get_object(Bucket=each_store["S3_BUCKET"], Key=key)
    assert stored["Body"].read() == b"larger"
    assert (stored["ContentType"], stored["CacheControl"]) == ("image/webp", "public, max-age=31536000, immutable")


def test_a_format_in_a_name_decides_over_key_and_content_type(environment: dict[str, str]) -> None:
    # Given renditions of a JPEG, some with a format of their own
    names = ("800x800", "800x800.webp", "800x800.avif", "50X50.png", "50x50.jpeg")
    content = Content("ab" * 16, ".jpeg", Recipe(tuple(map(parse_rendition, names))))
    # When they are published
    publish.publish("F", content, {name: name.encode() for name in names})
    # Then the result has them by name, and each key ends once, in the format that its content type says
    info = publish.image_info("F", content)
    stored = {}
    for name in names:
        key = publish.object_key("F", content, name)
        assert info[name]["url"].endswith(f"/{key}")
        found = aws.s3().get_object(Bucket=environment["S3_BUCKET"], Key=key)
        stored[key.partition(f"{content.id}_")[2]] = (found["ContentType"], found["Body"].read())
    assert stored == {
        "800x800.jpeg": ("image/jpeg", b"800x800"),
        "800x800.webp": ("image/webp", b"800x800.webp"),
        "800x800.avif": ("image/avif", b"800x800.avif"),
        "50X50.png": ("image/png", b"50X50.png"),
        "50x50.jpeg": ("image/jpeg", b"50x50.jpeg"),
    }
    assert publish.find_published("F", content)


def test_a_bucket_with_acls_disabled_works_with_one_warning(environment: dict[str, str], monkeypatch, caplog) -> None:
    # Given a bucket that refuses ACLs, as new S3 buckets do
    bucket = f"{environment['S3_BUCKET']}-enforced"
    aws.s3().create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    monkeypatch.setenv("S3_BUCKET", bucket)
    get_settings.cache_clear()
    with pytest.raises(ClientError, match="AccessControlListNotSupported"):
        aws.s3().put_object(Bucket=bucket, Key="x", Body=b"", ACL="public-read")
    # When renditions are stored, then they exist, and one warning was logged.
    with caplog.at_level(logging.WARNING, logger="pipeline"):
        publish.publish("F", CONTENT, RENDITIONS)
    assert publish.find_published("F", CONTENT)
    assert caplog.text.count("takes no ACLs") == 1


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (400, "InvalidArgument")])
def test_a_store_without_acls_works_with_one_warning(
    each_store: dict[str, str], monkeypatch, caplog, status: int, code: str
) -> None:
    # Given a store that answers each ACL as R2, or as Google's and Backblaze's do
    with refusing(each_store["AWS_ENDPOINT_URL_S3"], refuses_every_acl(status, code)) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        lazy.forget()
        # When renditions are stored, then they exist, and one warning names the answer.
        with caplog.at_level(logging.WARNING, logger="pipeline"):
            publish.publish("F", CONTENT, RENDITIONS)
        assert publish.find_published("F", CONTENT)
    assert caplog.text.count(f"takes no ACLs: the store answered {code}") == 1


def test_a_refusal_that_is_not_about_acls_is_an_error_and_is_not_remembered(environment, s3_that_answers) -> None:
    # Given a store that refuses the object with and without an ACL
    asked = s3_that_answers(400, "InvalidArgument")
    # Then the upload fails, and the next one tries the ACL again.
    for _ in range(2):
        with pytest.raises(RetryableError, match="InvalidArgument"):
            publish.publish("F", CONTENT, RENDITIONS)
    assert [headers.get("x-amz-acl") for _, _, headers in asked] == ["public-read", None] * 2


def test_no_acl_is_sent_if_the_settings_have_none(
    environment: dict[str, str], s3_that_answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given the setting, and renditions that are not public with it
    monkeypatch.setenv("S3_ACL", "none")
    get_settings.cache_clear()
    publish.publish("F", CONTENT, RENDITIONS)
    assert public_readers(environment) == {False}
    # When a store refuses an upload, then it was asked once, without an ACL.
    asked = s3_that_answers(400, "InvalidArgument")
    with pytest.raises(RetryableError, match="InvalidArgument"):
        publish.publish("F", CONTENT, RENDITIONS)
    assert [headers.get("x-amz-acl") for _, _, headers in asked] == [None]


def test_the_acl_of_the_settings_makes_objects_public(environment: dict[str, str]) -> None:
    publish.publish("F", CONTENT, RENDITIONS)
    assert public_readers(environment) == {True}


def public_readers(environment: dict[str, str]) -> set[bool]:
    """Return whether everybody may read the published objects."""
    keys = [f"images-resized/F/{CONTENT.id}_{name}.webp" for name in RENDITIONS]
    acls = [aws.s3().get_object_acl(Bucket=environment["S3_BUCKET"], Key=key)["Grants"] for key in keys]
    return {any("AllUsers" in grant["Grantee"].get("URI", "") for grant in grants) for grants in acls}
