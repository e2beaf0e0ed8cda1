"""Provisions queues, the lifecycle rule of staging, the indexes in MongoDB and, on request, the bucket.

It is safe to repeat: `plan` compares what exists with what the service needs, and yields only the missing changes. Each
change is made when its `apply` is called.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from pipeline.clients import aws, mongo
from pipeline.monitoring.job_log import writer as job_log_writer
from pipeline.settings import Settings
from pipeline.sqs.queues import QueueSpec, ensure_queue, find_queue, queue_arn
from pipeline.stages import DEAD_LETTER_QUEUES, STAGES, SWEEP_QUEUES, dead_letter_queue_of
from pipeline.storage.staging import EXPIRY_DAYS
from pipeline.storage.stores import NOT_IMPLEMENTED
from pipeline.sweeps import indexes, run_state, sources

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import (
        LifecycleRuleTypeDef,
        OwnershipControlsTypeDef,
        PublicAccessBlockConfigurationTypeDef,
    )
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType

#: The ID of this service's rule among the lifecycle rules of the bucket.
LIFECYCLE_RULE = "image-pipeline-staging"

#: The settings with which a new bucket accepts ACLs, and public ones. The defaults of S3 refuse both.
ACLS_ALLOWED: OwnershipControlsTypeDef = {"Rules": [{"ObjectOwnership": "BucketOwnerPreferred"}]}
PUBLIC_ACLS_ALLOWED: PublicAccessBlockConfigurationTypeDef = {
    "BlockPublicAcls": False,
    "IgnorePublicAcls": False,
    "BlockPublicPolicy": True,
    "RestrictPublicBuckets": True,
}

#: Codes of S3 for a missing bucket.
NOT_FOUND = frozenset({"404", "NoSuchBucket"})


class UnsupportedChange(Exception):
    """The store cannot make a change. The message tells a person what to do instead."""


@dataclass(frozen=True)
class Change:
    """One change: its description for people, and the function that makes it."""

    message: str
    apply: Callable[[], Any]


def queue_specs(settings: Settings) -> list[QueueSpec]:
    """Return all queues of the service, each dead-letter queue before the queues that use it."""
    full = settings.full_queue_name
    dead = [QueueSpec(full(queue)) for queue in DEAD_LETTER_QUEUES.values()]
    consumed = [*(queue for stage in STAGES for queue in (*stage.queues, stage.quarantine_queue)), *SWEEP_QUEUES]
    return [*dead, *(QueueSpec(full(queue), dead_letters=full(dead_letter_queue_of(queue))) for queue in consumed)]


def plan(settings: Settings, *, create_bucket: bool = False) -> Iterator[Change]:
    """Yield the missing changes. Each part is compared only when the iterator reaches it.

    Args:
        settings: The settings with the names of queues, buckets and databases.
        create_bucket: Whether to create S3_BUCKET too.

    Raises:
        RetryableError: AWS or MongoDB could not be asked; the message names the request.
    """
    with aws.aws_errors("sqs", "inspect the queues"):
        for spec in queue_specs(settings):
            yield from _queue_changes(spec)
    if create_bucket:
        with aws.aws_errors("s3", "inspect the bucket"):
            yield from _bucket_changes(settings)
    parts = urlsplit(settings.staging)
    if parts.scheme == "s3":
        with aws.aws_errors("s3", "read the bucket's lifecycle rules"):
            yield from lifecycle_changes(parts.netloc, parts.path.lstrip("/"))
    if settings.database_url:
        mongo.reach()
        yield from _index_changes()
    if settings.jobs_mongo_url:
        mongo.reach(mongo.job_database)
        for collection, by, options, purpose in job_log_writer.missing_indexes():
            yield Change(
                f"index {collection} in the MongoDB of the job log by {by}: it {purpose}",
                partial(job_log_writer.create_index, collection, by, options),
            )


def _queue_changes(spec: QueueSpec) -> Iterator[Change]:
    client = aws.sqs()
    url = find_queue(client, spec.name)
    if url is None:
        yield Change(f"create queue {spec.name}", lambda: ensure_queue(client, spec))
    elif wrong := differences(client, spec, url):
        message = f"set {', '.join(sorted(wrong))} of queue {spec.name}"
        yield Change(message, lambda: client.set_queue_attributes(QueueUrl=url, Attributes=wrong))


def _bucket_changes(settings: Settings) -> Iterator[Change]:
    """Yield the creation of the bucket. The access settings of an existing one are its owner's."""
    try:
        aws.s3().head_bucket(Bucket=settings.s3_bucket)
    except ClientError as error:
        if aws.aws_code(error) not in NOT_FOUND:
            raise
        accepts = "" if settings.s3_acl == "none" else f", which accepts S3_ACL={settings.s3_acl}"
        yield Change(f"create bucket {settings.s3_bucket}{accepts}", partial(_create_bucket, settings))


def _create_bucket(settings: Settings) -> None:
    client, bucket = aws.s3(), settings.s3_bucket
    here = {"LocationConstraint": settings.region_of_s3}
    where: dict[str, Any] = {} if settings.region_of_s3 == "us-east-1" else {"CreateBucketConfiguration": here}
    client.create_bucket(Bucket=bucket, **where)
    try:
        if settings.s3_acl != "none":
            client.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls=ACLS_ALLOWED)
        if settings.s3_acl == "public-read":
            client.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=PUBLIC_ACLS_ALLOWED)
    except ClientError as error:
        if aws.aws_code(error) not in NOT_IMPLEMENTED:  # a store without these settings needs none
            raise


def lifecycle_changes(bucket: str, prefix: str) -> Iterator[Change]:
    """Yield the change that adds the rule of staging. It keeps the other rules, which S3 replaces all at once."""
    client = aws.s3()
    rule: LifecycleRuleTypeDef = {
        "ID": LIFECYCLE_RULE,
        "Status": "Enabled",
        "Filter": {"Prefix": prefix},
        "Expiration": {"Days": EXPIRY_DAYS},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 1},  # in a versioned bucket, deleting frees nothing by itself
    }
    found: dict[str, Any] = {"Rules": []}
    try:
        found |= client.get_bucket_lifecycle_configuration(Bucket=bucket)  # some stores answer without any rules
    except ClientError as error:
        if aws.aws_code(error) not in {"NoSuchLifecycleConfiguration", "NoSuchBucket"} | NOT_IMPLEMENTED:
            raise
    if any(_covers(theirs, rule) for theirs in found["Rules"]):
        return
    others = [_without_base_prefix(theirs) for theirs in found["Rules"] if theirs.get("ID") != LIFECYCLE_RULE]
    kept = {name: found[name] for name in ("TransitionDefaultMinimumObjectSize",) if name in found}
    yield Change(
        f"expire s3://{bucket}/{prefix} after {EXPIRY_DAYS} days, and keep {len(others)} other lifecycle rules",
        lambda: _set_lifecycle(bucket, prefix, {"LifecycleConfiguration": {"Rules": [*others, rule]}, **kept}),
    )


def _set_lifecycle(bucket: str, prefix: str, rules: dict[str, Any]) -> None:
    try:
        aws.s3().put_bucket_lifecycle_configuration(Bucket=bucket, **rules)
    except ClientError as error:
        if aws.aws_code(error) in NOT_IMPLEMENTED:
            raise UnsupportedChange(
                f"expire s3://{bucket}/{prefix} after {EXPIRY_DAYS} days by the store's own means: it takes no "
                "lifecycle rules"
            ) from None
        raise


def _index_changes() -> Iterator[Change]:
    """Yield the missing indexes of our collections. Sweeps read channels and episodes by `_id` alone."""
    for ours in (run_state, sources):
        for by, options, purpose in indexes.missing(ours.COLLECTION, ours.INDEXES):
            yield Change(
                f"index {ours.COLLECTION} in MongoDB by {by}: it {purpose} (channels and "
                "episodes are read by _id and need no index)",
                partial(indexes.create, ours.COLLECTION, by, options),
            )


def _without_base_prefix(rule: Any) -> Any:
    """Convert a rule with a `Prefix`, an older form that S3 refuses to mix with `Filter`."""
    if "Prefix" not in rule:
        return rule
    return {name: value for name, value in rule.items() if name != "Prefix"} | {"Filter": {"Prefix": rule["Prefix"]}}


def _covers(theirs: Any, ours: LifecycleRuleTypeDef) -> bool:
    return all(theirs.get(key) == value for key, value in ours.items())


def differences(client: SQSClient, spec: QueueSpec, url: str) -> dict[QueueAttributeNameType, str]:
    """Return the attributes of the queue at `url` that differ from `spec`, with the values that they should have."""
    arn = None
    if spec.dead_letters and (dead_letters_url := find_queue(client, spec.dead_letters)):
        arn = queue_arn(client, dead_letters_url)
    present = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    wanted = spec.attributes(arn).items()
    return {name: value for name, value in wanted if _in_one_form(present.get(name)) != _in_one_form(value)}


def _in_one_form(value: str | None) -> object:
    """Return the value of an attribute. SQS returns the count in a redrive policy as a number or as text."""
    return value and json.loads(value, parse_int=str)
