"""Checks of S3 and of staging: each request of the service, tried with an object of a few bytes, deleted again."""

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
from pipeline.ops.checks.aws_answers import ELSEWHERE, Answer, ask, meaning, unforeseen
from pipeline.ops.checks.model import Check, CheckStatus, Context, Row
from pipeline.ops.iam import Place
from pipeline.ops.provision import lifecycle_steps
from pipeline.settings import Settings
from pipeline.storage import s3 as objects
from pipeline.storage.publish import ACLS_DISABLED
from pipeline.storage.staging import EXPIRY_DAYS

#: The key under the final prefix that is written: always the same, for who may write may not delete there.
PROBE: Final = "image-pipeline-check.txt"
_BODY: Final = b"image-pipeline check\n"

#: Seconds that a public URL may take.
TIMEOUT: Final = 10

#: Bytes that should be free in a staging folder: twenty covers of the largest size that is accepted by default.
FREE: Final = 1_000_000_000

_NOT_FOUND = frozenset({"404", "NoSuchKey", "NotFound"})


def _staging_bucket(settings: Settings) -> tuple[str, str] | None:
    """Bucket and prefix of staging, where it is in S3."""
    parts = urlsplit(settings.staging)
    return (parts.netloc, parts.path.lstrip("/")) if parts.scheme == "s3" else None


def _answers(context: Context) -> Iterator[Row]:
    settings = context.settings
    places = {settings.s3_bucket: f"{settings.s3_prefix}/"} if context.may(Place.RENDITIONS) else {}
    if (staging := _staging_bucket(settings)) and context.may(Place.STAGING):
        places.setdefault(*staging)
    if not places:
        yield Row(CheckStatus.SKIP, "S3", "Nothing of it is needed.")
    for bucket, prefix in places.items():
        yield _bucket(context, bucket, f"{prefix}image-pipeline-check-{secrets.token_hex(4)}")


def _bucket(context: Context, bucket: str, absent: str) -> Row:
    settings = context.settings
    name = f"bucket {bucket}"
    answer = ask(lambda: aws.s3().get_object(Bucket=bucket, Key=absent))
    if answer.skew is not None:
        context.skews["S3"] = answer.skew
    if wrong := meaning(answer, "S3", settings):
        return Row(CheckStatus.FAIL, name, *wrong)
    if answer.code == "NoSuchBucket":
        variable = "S3_BUCKET" if bucket == settings.s3_bucket else "STAGING_URL"
        return Row(
            CheckStatus.FAIL,
            name,
            "There is no such bucket.",
            f"Look at {variable}; `image-pipeline provision --create-bucket` creates S3_BUCKET.",
        )
    head = ask(lambda: aws.s3().head_bucket(Bucket=bucket))  # tells the region, even where it is refused
    region = head.headers.get("x-amz-bucket-region") or answer.headers.get("x-amz-bucket-region")
    if (region and region != settings.aws_region) or answer.code in ELSEWHERE:
        where = region or "another region"
        return Row(
            CheckStatus.FAIL,
            name,
            f"It is in {where}, and AWS_REGION={settings.aws_region}: nothing can be stored, and URLs lead nowhere.",
            f"Set AWS_REGION={region}, with the queues there too." if region else "Set AWS_REGION to the bucket's.",
        )
    if answer.error and not answer.denied and answer.code not in _NOT_FOUND:
        return Row(CheckStatus.FAIL, name, *unforeseen(answer, "S3", "read from it"))
    try:  # everything so far was asked by boto3, for its names of what is wrong; images go another way
        objects.exists(bucket, absent, doing="look for an object")
    except RetryableError as error:
        return Row(
            CheckStatus.FAIL,
            name,
            f"boto3 reaches S3, and the client that moves images does not. {error.message}",
            "It trusts public authorities and obeys https_proxy and no_proxy: look at those, and at AWS_REGION.",
        )
    source = "AWS_ACCESS_KEY_S3" if settings.aws_access_key_s3 else "boto3's chain"
    where = settings.s3_endpoint or f"region {settings.aws_region}"
    return Row(CheckStatus.OK, name, f"S3 answers ({where}) and takes the credentials of {source}.")


def _renditions(context: Context) -> Iterator[Row]:
    """What upload does with a rendition, and what a reader does."""
    settings = context.settings
    key = f"{settings.s3_prefix}/{PROBE}"
    if "s3:PutObject" not in context.may(Place.RENDITIONS):
        yield _seen(settings, f"{key}-{secrets.token_hex(4)}")
        return
    acl = {} if settings.s3_acl == "none" else {"ACL": settings.s3_acl}
    answer = _put(settings.s3_bucket, key, **acl)
    if acl and answer.code == ACLS_DISABLED:
        yield Row(
            CheckStatus.WARN,
            "renditions",
            f"The bucket has ACLs disabled, so S3_ACL={settings.s3_acl} does nothing; renditions are stored without.",
            "Set S3_ACL=none, and open the prefix by a bucket policy or a CDN.",
        )
        answer = _put(settings.s3_bucket, key)
    elif acl and answer.denied:
        answer = _put(settings.s3_bucket, key)
        if not answer.error:
            yield Row(
                CheckStatus.FAIL,
                "renditions",
                f"They may be written, but not with S3_ACL={settings.s3_acl}: Block Public Access, or no "
                "s3:PutObjectAcl.",
                "Set S3_ACL=none and open the prefix by a policy or a CDN; or allow public ACLs and s3:PutObjectAcl.",
            )
    if answer.error:
        yield _refused(context, answer, "renditions", f"s3://{settings.s3_bucket}/{settings.s3_prefix}/")
        return
    try:
        yield _readable(context, key)
        yield _public(settings, key)
    finally:
        gone = ask(lambda: aws.s3().delete_object(Bucket=settings.s3_bucket, Key=key))
    if gone.error:  # upload need not be allowed to delete
        yield Row(
            CheckStatus.SKIP, "renditions", f"The small object {key} stays there: it may not be deleted, nor need be."
        )


def _seen(settings: Settings, absent: str) -> Row:
    """Whether who only looks for renditions may."""
    if ask(lambda: aws.s3().head_object(Bucket=settings.s3_bucket, Key=absent)).code in _NOT_FOUND:
        return Row(CheckStatus.OK, "renditions", "They may be looked for.")
    return Row(
        CheckStatus.SKIP,
        "renditions",
        "S3 gives 403 for an absent one, as it does without s3:ListBucket; that does not tell whether s3:GetObject is "
        "allowed.",
        "`image-pipeline check upload` tells, with credentials that have the same grant.",
    )


def _readable(context: Context, key: str) -> Row:
    answer = ask(lambda: aws.s3().head_object(Bucket=context.settings.s3_bucket, Key=key))
    if answer.denied:
        return Row(
            CheckStatus.FAIL,
            "renditions",
            "They may not be looked for: each cover would be rendered and stored anew each time.",
            f"Allow s3:GetObject; `{context.policy}` prints the policy.",
        )
    if answer.error:
        return Row(CheckStatus.FAIL, "renditions", *unforeseen(answer, "S3", "look for one"))
    return Row(
        CheckStatus.OK, "renditions", f"They may be written and looked for, under {context.settings.s3_prefix}/."
    )


def _public(settings: Settings, key: str) -> Row:
    """Whether a stranger can read what results will name."""
    url = f"{settings.public_url_base}/{quote(key)}"
    subject = "public URL"
    status = _status(url)
    if status == requests.codes.ok:
        return Row(CheckStatus.OK, subject, f"{settings.public_url_base}/… can be read by anybody.")
    if status is None:
        return Row(
            CheckStatus.WARN,
            subject,
            f"{settings.public_url_base} cannot be reached from here.",
            "Look at PUBLIC_BASE_URL; if only this host may not go there, it does no harm.",
        )
    if (
        settings.s3_acl in {"private", "authenticated-read", "bucket-owner-full-control"}
        and not settings.public_base_url
    ):
        return Row(CheckStatus.OK, subject, f"A stranger gets {status}, as S3_ACL={settings.s3_acl} says.")
    return Row(
        CheckStatus.WARN,
        subject,
        f"A stranger who asks for {settings.public_url_base}/… gets {status}: nobody will see the covers.",
        "Open the prefix: a bucket policy, an ACL that S3_ACL names, or a CDN whose address PUBLIC_BASE_URL is.",
    )


def _status(url: str) -> int | None:
    """What a request without credentials gets; None where nothing answers."""
    try:
        with requests.get(url, timeout=TIMEOUT, stream=True) as response:
            return response.status_code
    except requests.RequestException:
        return None


def _staging(context: Context) -> Iterator[Row]:
    place = _staging_bucket(context.settings)
    if place is None:
        return
    bucket, prefix = place
    where, key, needed = f"s3://{bucket}/{prefix}", prefix + secrets.token_hex(16), context.may(Place.STAGING)
    if "s3:PutObject" not in needed:
        yield Row(CheckStatus.SKIP, "staging", "To write there is not needed, and was not tried.")
        return
    answer = _put(bucket, key)
    if answer.error:
        yield _refused(context, answer, "staging", where)
        return
    refused = []
    if "s3:GetObject" in needed and ask(lambda: aws.s3().get_object(Bucket=bucket, Key=key)).error:
        refused.append("s3:GetObject")  # its lack looks like a missing object to the service
    public = _open_to_all(context.settings, bucket, key)
    gone = ask(lambda: aws.s3().delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key}]}))
    if "s3:DeleteObject" in needed and (gone.error or gone.value.get("Errors")):
        refused.append("s3:DeleteObject")
    if refused:
        yield Row(
            CheckStatus.FAIL,
            "staging",
            f"These credentials may not {' nor '.join(refused)} in {where}.",
            f"Allow it; `{context.policy}` prints the policy.",
        )
    if public:
        yield Row(
            CheckStatus.FAIL,
            "staging",
            f"Anybody can read what is staged in {where}.",
            "Narrow the bucket policy to the final prefix, or give STAGING_URL a bucket of its own.",
        )
    if not (refused or public):
        yield Row(CheckStatus.OK, "staging", f"What waits in {where} may be written, read and deleted, and is private.")


def _open_to_all(settings: Settings, bucket: str, key: str) -> bool:
    """Whether a stranger can read what is staged.

    An endpoint that lists a bucket to strangers asks nobody who they are: an emulator, of which that says nothing.
    """
    endpoint = (settings.s3_endpoint or f"https://s3.{settings.aws_region}.amazonaws.com").rstrip("/")
    if _status(f"{endpoint}/{bucket}/{quote(key)}") != requests.codes.ok:
        return False
    return not settings.s3_endpoint or _status(f"{endpoint}/{bucket}?list-type=2&max-keys=1") != requests.codes.ok


def _folder(context: Context) -> Iterator[Row]:
    """A staging folder: that it can be written, and has room."""
    parts = urlsplit(context.settings.staging)
    if parts.scheme != "file":
        return
    folder = Path(unquote(parts.path))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix="check-") as file:
            file.write(_BODY)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        yield Row(
            CheckStatus.FAIL,
            str(folder),
            f"The staging folder cannot be written: {error.strerror}.",
            "Give it to the user who runs the processes (`chown`), or name another in STAGING_URL.",
        )
        return
    if free < FREE:
        yield Row(CheckStatus.WARN, str(folder), f"Only {free / 1e6:,.0f} MB are free there.", "Make room, or use S3.")
    else:
        yield Row(CheckStatus.OK, str(folder), f"The staging folder can be written, and has {free / 1e9:,.1f} GB free.")


def _expiry(context: Context) -> Iterator[Row]:
    place = _staging_bucket(context.settings)
    if place is None:
        return
    answer = ask(lambda: list(lifecycle_steps(*place)))
    if answer.denied:
        yield Row(
            CheckStatus.SKIP,
            "expiry",
            "The bucket's lifecycle rules may not be read with these credentials.",
            "A worker need not; run `check` with the credentials of `provision` too.",
        )
    elif answer.error:
        yield Row(CheckStatus.FAIL, "expiry", *unforeseen(answer, "S3", "tell the bucket's lifecycle rules"))
    elif answer.value:
        yield Row(
            CheckStatus.WARN,
            "expiry",
            "No lifecycle rule expires what is left in staging: it grows for ever.",
            "`image-pipeline provision` adds the rule, and keeps the bucket's others.",
        )
    else:
        yield Row(CheckStatus.OK, "expiry", f"What is left in staging expires after {EXPIRY_DAYS} days.")


def _put(bucket: str, key: str, **more: Any) -> Answer:
    return ask(
        lambda: aws.s3().put_object(
            Bucket=bucket, Key=key, Body=_BODY, ContentType="text/plain", CacheControl="no-store", **more
        )
    )


def _refused(context: Context, answer: Answer, subject: str, where: str) -> Row:
    if answer.denied:
        message = f"These credentials may not s3:PutObject in {where}."
        return Row(CheckStatus.FAIL, subject, message, f"Allow it; `{context.policy}` prints the policy.")
    return Row(
        CheckStatus.FAIL, subject, *(meaning(answer, "S3", context.settings) or unforeseen(answer, "S3", "write"))
    )


_LOOKS = frozenset({"fetch", "resize", "upload"})
_STAGES = _LOOKS | {"notify", "sweep", "ingest"}

CHECKS = (
    Check(
        "S3", "answers", "Asks for an absent object: the endpoint, region, credentials, bucket.", _answers, opens=True
    ),
    Check(
        "S3", "renditions", "Writes as upload does, looks for it, reads as a stranger, deletes.", _renditions, _LOOKS
    ),
    Check(
        "S3", "staging", "Writes, reads and deletes there, and reads as a stranger.", _staging, _STAGES | {"producer"}
    ),
    Check("S3", "expiry", "Reads the bucket's lifecycle rules.", _expiry, _STAGES | {"provision"}),
)

HOST_CHECKS = (
    Check("This host", "folder", "Writes and deletes a file in the staging folder.", _folder, _STAGES | {"producer"}),
)
