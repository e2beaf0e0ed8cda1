"""Checks of S3 and of staging: makes each request of the service with a small object, and deletes it again."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

import requests

from pipeline.clients import aws
from pipeline.errors import RetryableError
from pipeline.ops.checks.aws_answers import ELSEWHERE, Answer, ask, meaning, unexpected
from pipeline.ops.checks.model import Check, Context, Row, fail, ok, skip, warn
from pipeline.ops.iam import Location
from pipeline.ops.provision import lifecycle_changes
from pipeline.settings import Settings
from pipeline.storage import s3
from pipeline.storage.staging import EXPIRY_DAYS, trouble_with
from pipeline.storage.stores import ACL_REFUSALS, R2_REGIONS, is_r2

#: The test key under the final prefix. It is constant because upload may write there, but not delete.
PROBE: Final = "image-pipeline-check.txt"
_BODY: Final = b"image-pipeline check\n"

#: Timeout of a request to a public URL, in seconds.
TIMEOUT: Final = 10

_NOT_FOUND = frozenset({"404", "NoSuchKey", "NotFound"})


def _staging_bucket(settings: Settings) -> tuple[str, str] | None:
    """Return bucket and prefix of staging, or None if it is not in S3."""
    parts = urlsplit(settings.staging)
    return (parts.netloc, parts.path.lstrip("/")) if parts.scheme == "s3" else None


def _answers(context: Context) -> Iterator[Row]:
    """Read a missing object, to test endpoint, region, credentials and bucket."""
    settings = context.settings
    locations = {settings.s3_bucket: f"{settings.s3_prefix}/"} if context.actions_in(Location.RENDITIONS) else {}
    if (staging := _staging_bucket(settings)) and context.actions_in(Location.STAGING):
        locations.setdefault(*staging)
    if not locations:
        yield skip("S3", "The processes do not need it.")
    for bucket, prefix in locations.items():
        yield _bucket(context, bucket, f"{prefix}image-pipeline-check-{secrets.token_hex(4)}")


def _store(context: Context) -> Iterator[Row]:
    """Check the settings that Cloudflare R2 needs, if the endpoint is its own."""
    settings = context.settings
    if not is_r2(settings.s3_endpoint):
        return
    if settings.region_of_s3 not in R2_REGIONS:
        yield fail(
            f"region {settings.region_of_s3}",
            "Cloudflare R2 refuses requests that are signed for this region.",
            f"Set S3_REGION={R2_REGIONS[0]}.",
        )
    if not settings.public_base_url:
        yield warn(
            "public URL",
            f"Cloudflare R2 never serves {settings.s3_endpoint} to the public, so no one can read the URLs in results.",
            "Set PUBLIC_BASE_URL to the bucket's public domain.",
        )


def _bucket(context: Context, bucket: str, absent: str) -> Row:
    settings = context.settings
    name = f"bucket {bucket}"
    answer = ask(lambda: aws.s3().get_object(Bucket=bucket, Key=absent))
    if answer.skew is not None:
        context.skews["S3"] = answer.skew
    if wrong := meaning(answer, "S3", settings):
        return fail(name, *wrong)
    if answer.code == "NoSuchBucket":
        variable = "S3_BUCKET" if bucket == settings.s3_bucket else "STAGING_URL"
        return fail(
            name,
            "The bucket does not exist.",
            f"Check {variable}; `image-pipeline provision --create-bucket` creates S3_BUCKET.",
        )
    head = ask(lambda: aws.s3().head_bucket(Bucket=bucket))  # returns the region even with an error
    region = head.headers.get("x-amz-bucket-region") or answer.headers.get("x-amz-bucket-region")
    if (region and region != settings.region_of_s3) or answer.code in ELSEWHERE:
        where = region or "another region"
        return fail(
            name,
            f"It is in {where}, but S3's region is {settings.region_of_s3}: nothing can be stored, and no URL works.",
            f"Set S3_REGION={region}, or AWS_REGION={region} if the queues are there too."
            if region
            else "Set S3_REGION to the bucket's region.",
        )
    if answer.error and not answer.denied and answer.code not in _NOT_FOUND:
        return fail(name, *unexpected(answer, "S3", "read from it"))
    try:  # the requests above use boto3 for its error codes, but images use another client
        s3.head(bucket, absent, doing="look for an object")
    except RetryableError as error:
        return fail(
            name,
            f"boto3 reaches S3, but the client that transfers images does not. {error.message}",
            "It trusts public certificate authorities and uses https_proxy and no_proxy: check them and AWS_REGION.",
        )
    source = "AWS_ACCESS_KEY_S3" if settings.aws_access_key_s3 else "boto3's chain"
    where = settings.s3_endpoint or f"region {settings.region_of_s3}"
    return ok(name, f"S3 answers ({where}) and accepts the credentials of {source}.")


def _renditions(context: Context) -> Iterator[Row]:
    """Write a test object as upload does, and read it as the public does."""
    settings = context.settings
    key = f"{settings.s3_prefix}/{PROBE}"
    if "s3:PutObject" not in context.actions_in(Location.RENDITIONS):
        yield skip("renditions", "Writing them is not needed, and was not tested.")
        return
    acl = {} if settings.s3_acl == "none" else {"ACL": settings.s3_acl}
    answer = _put(settings.s3_bucket, key, **acl)
    if acl and (answer.denied or answer.code in ACL_REFUSALS):
        refusal, answer = answer, _put(settings.s3_bucket, key)
        if not answer.error:
            yield _without_acl(settings, refusal)
    if answer.error:
        yield _refused(context, answer, "renditions", f"s3://{settings.s3_bucket}/{settings.s3_prefix}/")
        return
    try:
        yield _readable(context, key)
        yield _public(settings, key)
    finally:
        gone = ask(lambda: aws.s3().delete_object(Bucket=settings.s3_bucket, Key=key))
    if gone.error:  # upload does not need the permission to delete
        yield skip("renditions", f"The small object {key} remains because deleting is not permitted, nor needed.")


def _without_acl(settings: Settings, refusal: Answer) -> Row:
    """Explain why an object can be stored only without its ACL."""
    if refusal.denied:
        return fail(
            "renditions",
            f"They can be written, but not with S3_ACL={settings.s3_acl}: Block Public Access is on, or "
            "s3:PutObjectAcl is missing.",
            "Set S3_ACL=none and use a bucket policy or a CDN, or allow public ACLs and s3:PutObjectAcl.",
        )
    return warn(
        "renditions",
        f"The bucket takes no ACLs ({refusal.code}), so S3_ACL={settings.s3_acl} has no effect; "
        "renditions are stored without.",
        "Set S3_ACL=none, and make the prefix public with a bucket policy or a CDN.",
    )


def _readable(context: Context, key: str) -> Row:
    answer = ask(lambda: aws.s3().head_object(Bucket=context.settings.s3_bucket, Key=key))
    if answer.denied:
        where = "for renditions: each cover would be rendered and stored again every time"
        return context.denied("renditions", ["s3:GetObject"], where)
    if answer.error:
        return fail("renditions", *unexpected(answer, "S3", "look for one"))
    return ok("renditions", f"They can be written and looked for, under {context.settings.s3_prefix}/.")


def _public(settings: Settings, key: str) -> Row:
    """Check that the public can read the URLs in results."""
    url = f"{settings.public_url_base}/{quote(key)}"
    subject = "public URL"
    status = _status(url)
    if status == requests.codes.ok:
        return ok(subject, f"{settings.public_url_base}/… is publicly readable.")
    if status is None:
        return warn(
            subject,
            f"{settings.public_url_base} cannot be reached from here.",
            "Check PUBLIC_BASE_URL; if only this host has no access to it, ignore this.",
        )
    if (
        settings.s3_acl in {"private", "authenticated-read", "bucket-owner-full-control"}
        and not settings.public_base_url
    ):
        return ok(subject, f"An anonymous request gets {status}, as S3_ACL={settings.s3_acl} requires.")
    return warn(
        subject,
        f"An anonymous request to {settings.public_url_base}/… gets {status}: the covers are not public.",
        "Make the prefix public: with a bucket policy, with S3_ACL, or with a CDN as PUBLIC_BASE_URL.",
    )


def _status(url: str) -> int | None:
    """Return the status of a request without credentials; None without an answer."""
    try:
        with requests.get(url, timeout=TIMEOUT, stream=True) as response:
            return response.status_code
    except requests.RequestException:
        return None


def _staging(context: Context) -> Iterator[Row]:
    """Writes, reads and deletes an object, and reads it anonymously."""
    location = _staging_bucket(context.settings)
    if location is None:
        return
    bucket, prefix = location
    where, key, needed = f"s3://{bucket}/{prefix}", prefix + secrets.token_hex(16), context.actions_in(Location.STAGING)
    if "s3:PutObject" not in needed:
        yield skip("staging", "Writing there is not needed, and was not tested.")
        return
    answer = _put(bucket, key)
    if answer.error:
        yield _refused(context, answer, "staging", where)
        return
    refused = []
    if "s3:GetObject" in needed and ask(lambda: aws.s3().get_object(Bucket=bucket, Key=key)).error:
        refused.append("s3:GetObject")
    public = _open_to_all(context.settings, bucket, key)
    gone = ask(lambda: aws.s3().delete_object(Bucket=bucket, Key=key))
    if "s3:DeleteObject" in needed and gone.error:
        refused.append("s3:DeleteObject")
    if refused:
        yield context.denied("staging", refused, f"in {where}")
    if public:
        yield fail(
            "staging",
            f"The objects in {where} are publicly readable.",
            "Restrict the bucket policy to the final prefix, or use another bucket for STAGING_URL.",
        )
    if not (refused or public):
        yield ok("staging", f"Objects in {where} can be written, read and deleted, and are private.")
    absent = prefix + secrets.token_hex(16)
    tells_missing = "s3:ListBucket" in context.actions_in(Location.STAGING_KEYS)
    if tells_missing and not refused and ask(lambda: aws.s3().get_object(Bucket=bucket, Key=absent)).denied:
        consequence = "does not start again at fetch: it is retried by RETRY_DELAYS and then fails"
        yield warn(
            "staging",
            f"S3 answers 403 for a missing object, so a job whose staged bytes are missing {consequence}.",
            "Allow s3:ListBucket on the prefix; `image-pipeline check --iam` prints the policy.",
        )


def _open_to_all(settings: Settings, bucket: str, key: str) -> bool:
    """Return whether an anonymous request can read a staged object.

    An endpoint that lists the bucket anonymously is an emulator without access control, which proves nothing.
    """
    endpoint = aws.s3_endpoint().rstrip("/")
    if _status(f"{endpoint}/{bucket}/{quote(key)}") != requests.codes.ok:
        return False
    return not settings.s3_endpoint or _status(f"{endpoint}/{bucket}?list-type=2&max-keys=1") != requests.codes.ok


def _folder(context: Context) -> Iterator[Row]:
    """Check that a staging folder is writable, by the service alone."""
    parts = urlsplit(context.settings.staging)
    if parts.scheme != "file":
        return
    folder = Path(unquote(parts.path))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix="check-") as file:
            file.write(_BODY)
        problem = trouble_with(folder)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        yield fail(
            str(folder),
            f"The staging folder is not writable: {error.strerror}.",
            "Give it to the user of the processes (`chown`), or set another folder in STAGING_URL.",
        )
        return
    if problem:
        hint = "Create it for the user of the processes alone: `install -d -o USER -m 700 FOLDER`."
        yield fail(str(folder), f"It {problem}.", hint)
    else:
        yield ok(str(folder), f"The staging folder is writable, and has {free / 1e9:,.1f} GB free.")


def _expiry(context: Context) -> Iterator[Row]:
    """Read the bucket's lifecycle rules."""
    location = _staging_bucket(context.settings)
    if location is None:
        return
    answer = ask(lambda: list(lifecycle_changes(*location)))
    if answer.denied:
        yield skip(
            "expiry",
            "These credentials do not permit reading the bucket's lifecycle rules.",
            "A worker does not need that; run `check` with the credentials of `provision` too.",
        )
    elif answer.error:
        yield fail("expiry", *unexpected(answer, "S3", "return the bucket's lifecycle rules"))
    elif answer.value:
        yield warn(
            "expiry",
            "No lifecycle rule expires objects in staging, and their old versions, so it may keep growing.",
            "`image-pipeline provision` sets the rule, and keeps the other rules of the bucket. If it has no such "
            "rules, expire the objects by its own means.",
        )
    else:
        yield ok("expiry", f"Objects in staging expire after {EXPIRY_DAYS} days.")


def _put(bucket: str, key: str, **more: Any) -> Answer:
    return ask(
        lambda: aws.s3().put_object(
            Bucket=bucket, Key=key, Body=_BODY, ContentType="text/plain", CacheControl="no-store", **more
        )
    )


def _refused(context: Context, answer: Answer, subject: str, where: str) -> Row:
    if answer.denied:
        return context.denied(subject, ["s3:PutObject"], f"in {where}")
    return fail(subject, *(meaning(answer, "S3", context.settings) or unexpected(answer, "S3", "write")))


_LOOKS = frozenset({"fetch", "resize", "upload", "quarantine"})
_STAGES = _LOOKS | {"notify", "sweep", "ingest"}

CHECKS = (
    Check("S3", "store", _store, _STAGES),
    Check("S3", "answers", _answers, opens=True),
    Check("S3", "renditions", _renditions, _LOOKS),
    Check("S3", "staging", _staging, _STAGES | {"producer"}),
    Check("S3", "expiry", _expiry, _STAGES | {"provision"}),
)

HOST_CHECKS = (Check("This host", "folder", _folder, _STAGES | {"producer"}),)
