"""What the service needs to find: queues, the lifecycle rule of staging, the bucket if told, indexes in MongoDB.

Safe to repeat: what is there is compared, and only what differs is changed. `plan` looks, and returns what would be
done; each step does it when called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from pipeline.clients import aws
from pipeline.monitoring.job_log import writer as job_log_writer
from pipeline.settings import Settings
from pipeline.sqs.queues import QueueSpec, differences, ensure_queue, find_queue
from pipeline.stages import INGEST_DEAD_LETTER_QUEUE, STAGES, SWEEP_QUEUES
from pipeline.storage.staging import EXPIRY_DAYS
from pipeline.sweeps import run_state

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import LifecycleRuleTypeDef

#: The name of our rule among the bucket's own.
LIFECYCLE_RULE = "image-pipeline-staging"


#: The ownership of objects under which a bucket takes ACLs.
ACLS_ALLOWED = [{"Rules": [{"ObjectOwnership": ownership}]} for ownership in ("BucketOwnerPreferred", "ObjectWriter")]

#: How S3 says that a bucket, or a configuration of it, does not exist.
NOT_THERE = frozenset({"404", "NoSuchBucket", "OwnershipControlsNotFoundError"})


@dataclass(frozen=True)
class Change:
    """One change: what it does, for people, and the doing of it."""

    message: str
    apply: Callable[[], Any]


def queue_specs(settings: Settings) -> list[QueueSpec]:
    """Every queue of the service; dead-letter queues come before those that name them."""

    def full(queue: str) -> str:
        return f"{settings.queue_namespace}_{queue}"

    dead = [QueueSpec(full(stage.dead_letter_queue)) for stage in STAGES]
    lanes = [
        QueueSpec(full(queue), dead_letters=full(stage.dead_letter_queue)) for stage in STAGES for queue in stage.queues
    ]
    sweeps = [
        spec
        for queue in SWEEP_QUEUES
        for spec in (QueueSpec(full(f"{queue}_dlq")), QueueSpec(full(queue), dead_letters=full(f"{queue}_dlq")))
    ]
    return [*dead, *lanes, *sweeps, QueueSpec(full(INGEST_DEAD_LETTER_QUEUE))]


def plan(settings: Settings, *, create_bucket: bool = False) -> Iterator[Change]:
    """The steps that are still to be done, each looked for only when it is its turn.

    Raises:
        RetryableError: AWS or MongoDB could not be asked; its sentence says what for.
    """
    with aws.aws_errors("sqs", "look at the queues"):
        for spec in queue_specs(settings):
            yield from _queue_steps(spec)
    if create_bucket:
        with aws.aws_errors("s3", "look at the bucket"):
            yield from _bucket_steps(settings)
    parts = urlsplit(settings.staging)
    if parts.scheme == "s3":
        with aws.aws_errors("s3", "look at the bucket's lifecycle rules"):
            yield from lifecycle_steps(parts.netloc, parts.path.lstrip("/"))
    if settings.database_url:
        yield from _index_steps()
    if settings.jobs_mongo_url:
        for collection, by, options, purpose in job_log_writer.missing_indexes():
            yield Change(
                f"index {collection} in the MongoDB of the job log by {by}: it {purpose}",
                partial(job_log_writer.create_index, collection, by, options),
            )


def _queue_steps(spec: QueueSpec) -> Iterator[Change]:
    client = aws.sqs()
    url = find_queue(client, spec.name)
    if url is None:
        yield Change(f"create queue {spec.name}", lambda: ensure_queue(client, spec))
    elif wrong := differences(client, spec, url):
        message = f"set {', '.join(sorted(wrong))} of queue {spec.name}"
        yield Change(message, lambda: client.set_queue_attributes(QueueUrl=url, Attributes=wrong))


def _bucket_steps(settings: Settings) -> Iterator[Change]:
    client, bucket = aws.s3(), settings.s3_bucket
    if not _there(lambda: client.head_bucket(Bucket=bucket)):
        here = {"LocationConstraint": settings.aws_region}
        where: dict[str, Any] = {} if settings.aws_region == "us-east-1" else {"CreateBucketConfiguration": here}
        yield Change(f"create bucket {bucket}", lambda: client.create_bucket(Bucket=bucket, **where))
    if settings.s3_acl == "none":
        return
    ownership: Any = {"Rules": [{"ObjectOwnership": "BucketOwnerPreferred"}]}
    if not _there(lambda: client.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"] in ACLS_ALLOWED):
        yield Change(
            f"allow ACLs in bucket {bucket}, as S3_ACL={settings.s3_acl} needs",
            lambda: client.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls=ownership),
        )
    if settings.s3_acl != "public-read":
        return
    public: Any = {
        "BlockPublicAcls": False,
        "IgnorePublicAcls": False,
        "BlockPublicPolicy": True,
        "RestrictPublicBuckets": True,
    }
    if not _there(lambda: _acls_may_be_public(bucket)):
        yield Change(
            f"let ACLs of bucket {bucket} make objects public",
            lambda: client.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=public),
        )


def _there(look: Callable[[], Any]) -> bool:
    """Whether `look` finds what it looks for; a bucket or a configuration that is missing is none."""
    try:
        return bool(look())
    except ClientError as error:
        if aws.aws_code(error) in NOT_THERE:
            return False
        raise


def _acls_may_be_public(bucket: str) -> bool:
    try:
        block = aws.s3().get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    except ClientError as error:
        if aws.aws_code(error) == "NoSuchPublicAccessBlockConfiguration":
            return True
        raise
    return not (block["BlockPublicAcls"] or block["IgnorePublicAcls"])


def lifecycle_steps(bucket: str, prefix: str) -> Iterator[Change]:
    """Our rule, merged into the bucket's own: S3 replaces all of them at every put."""
    client = aws.s3()
    rule: LifecycleRuleTypeDef = {
        "ID": LIFECYCLE_RULE,
        "Status": "Enabled",
        "Filter": {"Prefix": prefix},
        "Expiration": {"Days": EXPIRY_DAYS},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
    }
    found: dict[str, Any] = {"Rules": []}
    try:
        found = dict(client.get_bucket_lifecycle_configuration(Bucket=bucket))
    except ClientError as error:
        if aws.aws_code(error) not in {"NoSuchLifecycleConfiguration", "NoSuchBucket"}:
            raise
    if any(_covers(theirs, rule) for theirs in found["Rules"]):
        return
    others = [_without_base_prefix(theirs) for theirs in found["Rules"] if theirs.get("ID") != LIFECYCLE_RULE]
    kept = {name: found[name] for name in ("TransitionDefaultMinimumObjectSize",) if name in found}
    yield Change(
        f"expire s3://{bucket}/{prefix} after {EXPIRY_DAYS} days, beside {len(others)} other lifecycle rules",
        lambda: client.put_bucket_lifecycle_configuration(
            Bucket=bucket, LifecycleConfiguration={"Rules": [*others, rule]}, **kept
        ),
    )


def _index_steps() -> Iterator[Change]:
    """The indexes of the runs' state. The customer's collections need none: they are walked by that of `_id`."""
    for by, options, purpose in run_state.missing_indexes():
        yield Change(
            f"index {run_state.COLLECTION} in MongoDB by {by}: it {purpose} (channels and "
            "episodes are read by _id and need no index)",
            partial(run_state.create_index, by, options),
        )


def _without_base_prefix(rule: Any) -> Any:
    """A rule in the form that S3 takes beside ours: it refuses to mix `Filter` with the `Prefix` of older rules."""
    if "Prefix" not in rule:
        return rule
    return {name: value for name, value in rule.items() if name != "Prefix"} | {"Filter": {"Prefix": rule["Prefix"]}}


def _covers(theirs: Any, ours: LifecycleRuleTypeDef) -> bool:
    return all(theirs.get(key) == value for key, value in ours.items())
