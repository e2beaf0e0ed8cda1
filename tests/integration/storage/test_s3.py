"""Objects through obstore: the same as through boto3 in any environment, with our errors."""

from __future__ import annotations

from hashlib import sha256

import pytest

from pipeline.clients import aws, lazy
from pipeline.clients.object_store import store
from pipeline.storage import s3 as objects
from pipeline.storage.s3 import S3Error


def put(bucket: str, key: str, data: bytes = b"data", **more: str) -> None:
    objects.put(bucket, key, data, doing="try", **more)


@pytest.mark.parametrize(
    "name", ["plain", "a b+c", "MÜNCHEN", "per%20cent", "star*", "hash#", "what?", "tilde~", "a&b=c", "[x]"]
)
def test_a_key_is_the_same_to_boto3(each_store: dict[str, str], name: str) -> None:
    key = f"folder/{name}.jpeg"
    put(each_store["S3_BUCKET"], key)
    assert aws.s3().get_object(Bucket=each_store["S3_BUCKET"], Key=key)["Body"].read() == b"data"
    assert objects.get(each_store["S3_BUCKET"], key, doing="try") == b"data"


def test_an_object_exists_until_it_is_deleted(each_store: dict[str, str]) -> None:
    bucket = each_store["S3_BUCKET"]
    assert not objects.head(bucket, "a/b", doing="try")
    put(bucket, "a/b")
    assert objects.head(bucket, "a/b", doing="try")
    objects.delete(bucket, ["a/b", "a/never-there"], doing="try")
    with pytest.raises(S3Error) as caught:
        objects.get(bucket, "a/b", doing="try")
    assert caught.value.is_absent


def test_each_request_is_counted_by_its_result(each_store: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a recorder of all counted requests
    counted: list[tuple[object, ...]] = []
    monkeypatch.setattr(objects, "count_request", lambda *request: counted.append(request))
    bucket = each_store["S3_BUCKET"]
    # When objects are stored, read, looked up and deleted
    put(bucket, "a")
    objects.get(bucket, "a", doing="try")
    objects.head(bucket, "a", doing="try")
    objects.head(bucket, "b", doing="try")
    objects.delete(bucket, ["a", "b", "c"], doing="try")
    # Then each is counted under its S3 operation, and three deletes count as three.
    assert counted == [
        ("s3", "PutObject", 200, 1),
        ("s3", "GetObject", 200, 1),
        ("s3", "HeadObject", 200, 1),
        ("s3", "HeadObject", 404, 1),
        ("s3", "DeleteObject", 200, 3),
    ]


def test_the_librarys_environment_variables_are_ignored(
    environment, s3_that_answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given variables that would change obstore's endpoint or credentials
    asked = s3_that_answers(200)
    strange = {
        "AWS_ENDPOINT": "http://127.0.0.1:9",
        "AWS_SESSION_TOKEN": "somebody-elses",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_S3": "OURS",
        "AWS_SECRET_KEY_S3": "secret",
    }
    for variable, value in strange.items():
        monkeypatch.setenv(variable, value)
    lazy.forget()
    # when an object is stored
    put("bucket", "key", acl="public-read")
    # then endpoint, credentials, region and ACL are those of the settings
    ((method, path, headers),) = asked
    headers = {name.lower(): value for name, value in headers.items()}
    assert (method, path) == ("PUT", "/bucket/key")
    assert "Credential=OURS/" in headers["authorization"]
    assert "/us-east-2/s3/" in headers["authorization"]
    assert "x-amz-acl" in headers["authorization"]
    assert headers["x-amz-acl"] == "public-read"
    assert "x-amz-security-token" not in headers
    assert headers["x-amz-content-sha256"] == sha256(b"data").hexdigest()


@pytest.mark.parametrize(
    ("endpoint", "is_unsigned"), [("", True), ("https://s3.example.com", True), ("http://127.0.0.1:9", False)]
)
def test_a_body_is_signed_without_tls(
    environment, monkeypatch: pytest.MonkeyPatch, endpoint: str, is_unsigned: bool
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    lazy.forget()
    assert store("bucket").config["unsigned_payload"] == str(is_unsigned).lower()


@pytest.mark.parametrize(
    ("answer", "reason", "is_absent"),
    [
        ((403, "AccessDenied"), "AccessDenied", False),
        ((403, "InvalidAccessKeyId"), "InvalidAccessKeyId", False),
        ((403, "RequestTimeTooSkewed"), "RequestTimeTooSkewed", False),
        ((403, "SignatureDoesNotMatch"), "SignatureDoesNotMatch", False),
        ((403, ""), "status 403", False),
        ((404, "NoSuchKey"), "NoSuchKey", True),
        ((404, "NoSuchBucket"), "NoSuchBucket", False),
        ((400, "ExpiredToken"), "ExpiredToken", False),
        ((400, ""), "status 400", False),
        ((503, "SlowDown"), "SlowDown", False),
    ],
)
def test_a_refusal_has_s3s_error_code(environment, s3_that_answers, answer, reason: str, is_absent: bool) -> None:
    s3_that_answers(*answer)
    for request in (lambda: put("b", "k"), lambda: objects.get("b", "k", doing="try")):
        with pytest.raises(S3Error) as caught:
            request()
        assert (caught.value.code, caught.value.reason, caught.value.is_absent) == ("s3_error", reason, is_absent)
        assert str(caught.value) == f"s3_error: Could not try: S3 answered {reason}."


@pytest.mark.parametrize("status", [403, 404])
def test_a_head_that_s3_refuses_counts_as_absent(environment, s3_that_answers, status: int) -> None:
    s3_that_answers(status)
    assert not objects.head("b", "k", doing="try")


def test_a_head_that_fails_otherwise_is_an_error(environment, s3_that_answers) -> None:
    s3_that_answers(400)
    with pytest.raises(S3Error):
        objects.head("b", "k", doing="try")


def test_an_endpoint_that_is_down_is_an_error_of_s3(environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    lazy.forget()
    with pytest.raises(S3Error, match="could not be reached"):
        put("b", "k")
    with pytest.raises(S3Error, match="could not be reached"):
        objects.delete("b", ["k"], doing="try")
