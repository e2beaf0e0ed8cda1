"""The permissions that each process needs, as data and as minimal IAM policies.

`check` tests these permissions, and `check --iam` prints them.
Actions and ARNs: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonsqs.html and
https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlsplit

from pipeline.settings import Settings
from pipeline.stages import (
    FETCH,
    INGEST_DEAD_LETTER_QUEUE,
    NOTIFY,
    RESIZE,
    STAGES,
    SWEEP_QUEUES,
    UPLOAD,
    Lane,
    Stage,
    dead_letter_queue_of,
)

#: Placeholder for an unknown account, from AWS's own examples.
ANY_ACCOUNT: Final = "123456789012"

#: Placeholder for the input queue if QUEUE_URL is not set.
ANY_INPUT_QUEUE: Final = "ImageQueue.fifo"

#: Examples of redirect queues, if the setting REDIRECT_QUEUES lists none: then only producers know their names.
REDIRECT_QUEUES: Final = ("ChannelImages", "EpisodeImages.fifo")

_SQS_URL = re.compile(r"sqs\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?")
_FIND = "sqs:GetQueueUrl"
_SEND = "sqs:SendMessage"
_COUNT = "sqs:GetQueueAttributes"
_CONSUME = ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility")


class Location(StrEnum):
    """A location in S3."""

    BUCKET = "bucket"  #: S3_BUCKET itself
    RENDITIONS = "renditions"  #: the objects under S3_PREFIX
    STAGING = "staging"  #: the objects under STAGING_URL, if it is in S3
    STAGING_KEYS = "keys of staging"  #: the list of these objects
    STAGING_BUCKET = "staging bucket"  #: the bucket of STAGING_URL


@dataclass(frozen=True)
class Grant:
    """One statement of a policy: actions on queues, or on a location in S3."""

    sid: str
    actions: tuple[str, ...]
    queues: tuple[str, ...] = ()  #: the service's own, without the namespace; may contain `*`
    theirs: tuple[str, ...] = ()  #: other queues, with their full names
    on_input: bool = False  #: also on the input queue
    location: Location | None = None


@dataclass(frozen=True)
class InputQueue:
    """The input queue, as far as QUEUE_URL identifies it."""

    name: str
    region: str | None  #: None if the endpoint is not AWS
    account: str | None


def _stage(stage: Stage, *onward: Stage, storage: tuple[Grant, ...]) -> tuple[Grant, ...]:
    """Return the grants of a stage's workers: to consume their queues, retry, pass on, quarantine and give up."""
    sends = [queue for each in STAGES if each in {stage, *onward} for queue in each.queues]
    return (
        Grant("Consume", (_FIND, *_CONSUME), queues=stage.queues),
        Grant("RetryPassOnGiveUp", (_FIND, _SEND), queues=(*sends, stage.quarantine_queue, stage.dead_letter_queue)),
        *storage,
    )


#: With this permission, S3 answers 404 instead of 403 for a missing object, and the job can start again at fetch.
_TELL_MISSING = Grant("TellMissingFromForbidden", ("s3:ListBucket",), location=Location.STAGING_KEYS)
_STAGING = (
    Grant("Staging", ("s3:GetObject", "s3:PutObject", "s3:DeleteObject"), location=Location.STAGING),
    _TELL_MISSING,
)
_LOOK = Grant("LookForRenditions", ("s3:GetObject",), location=Location.RENDITIONS)
_PUBLISH = Grant("Publish", ("s3:GetObject", "s3:PutObject", "s3:PutObjectAcl"), location=Location.RENDITIONS)
_REDIRECT = (
    Grant("FindRedirectQueues", (_FIND,), theirs=("*",)),
    Grant("Redirect", (_SEND,), theirs=REDIRECT_QUEUES, queues=("submit_*",)),
)
_DEAD_SWEEPS = tuple(dead_letter_queue_of(queue) for queue in SWEEP_QUEUES)
_DEAD = (*(stage.dead_letter_queue for stage in STAGES), INGEST_DEAD_LETTER_QUEUE, *_DEAD_SWEEPS)
_QUARANTINE = tuple(stage.quarantine_queue for stage in STAGES)
_WORK = (*(queue for stage in STAGES for queue in stage.queues), *SWEEP_QUEUES)
_OPERATOR = (
    Grant("ReadAndDeleteDeadLetters", (_FIND, _COUNT, *_CONSUME), queues=_DEAD),
    Grant("SendThroughAgain", (_FIND, _SEND), queues=_WORK),
    Grant("SendInputAgain", (_SEND,), on_input=True),
    Grant("CountMessages", (_FIND, _COUNT), queues=(*_WORK, *_QUARANTINE), on_input=True),
    Grant("ReadLongPayloads", ("s3:GetObject",), location=Location.STAGING),
    _TELL_MISSING,
)

#: Grants by process: the processes of the Procfile, then other users of the queues.
GRANTS: Final[Mapping[str, tuple[Grant, ...]]] = {
    "fetch": (
        *_stage(FETCH, RESIZE, UPLOAD, NOTIFY, storage=(*_STAGING, _LOOK)),
        Grant("SendLettersOfIngest", (_FIND, _SEND), queues=(INGEST_DEAD_LETTER_QUEUE,)),  # that it refused for a time
    ),
    "resize": _stage(RESIZE, FETCH, UPLOAD, NOTIFY, storage=(*_STAGING, _LOOK)),
    "upload": _stage(UPLOAD, FETCH, NOTIFY, storage=(*_STAGING, _PUBLISH)),
    "notify": _stage(NOTIFY, storage=(*_REDIRECT, *_STAGING)),
    "quarantine": (
        Grant("Consume", (_FIND, *_CONSUME), queues=_QUARANTINE),
        Grant(
            "RetryPassOnGiveUp",
            (_FIND, _SEND),
            queues=(
                *(queue for stage in STAGES for queue in (*stage.queues, stage.dead_letter_queue)),
                *_QUARANTINE,
            ),
        ),
        *_REDIRECT,
        *_STAGING,
        _PUBLISH,
    ),
    "sweep": (
        Grant("Consume", (_FIND, *_CONSUME), queues=SWEEP_QUEUES),
        Grant("NextPageAndHandOver", (_FIND, _SEND), queues=(*SWEEP_QUEUES, FETCH.queue(Lane.BULK))),
        Grant("GiveUp", (_FIND, _SEND), queues=_DEAD_SWEEPS),
        *_STAGING,
    ),
    "ingest": (
        Grant("TakeInput", _CONSUME, on_input=True),
        Grant("HandOverOrRefuse", (_FIND, _SEND), queues=(FETCH.queue(), INGEST_DEAD_LETTER_QUEUE)),
        Grant("StageLongPayloads", ("s3:PutObject",), location=Location.STAGING),
        Grant("CountWhatWaits", (_FIND, _COUNT), queues=("*",), on_input=True),
    ),
    "scheduler": (Grant("SendPeriodicMessages", (_FIND, _SEND), queues=SWEEP_QUEUES),),
    "provision": (
        Grant(
            "Queues",
            (_FIND, "sqs:CreateQueue", _COUNT, "sqs:SetQueueAttributes"),
            queues=("*",),
        ),
        Grant(
            "LifecycleRule",
            ("s3:GetLifecycleConfiguration", "s3:PutLifecycleConfiguration"),
            location=Location.STAGING_BUCKET,
        ),
        Grant(
            "OnlyForCreateBucket",
            ("s3:ListBucket", "s3:CreateBucket", "s3:PutBucketOwnershipControls", "s3:PutBucketPublicAccessBlock"),
            location=Location.BUCKET,
        ),
    ),
    "producer": (
        Grant("SendMessage", (_SEND,), on_input=True),
        Grant("OnlyForFetchImageSend", (_FIND, _SEND), queues=(FETCH.queue(),)),
        Grant(
            "OnlyForSubmitWait",
            ("sqs:CreateQueue", "sqs:ReceiveMessage", "sqs:DeleteQueue"),
            queues=("submit_*",),
        ),
    ),
    "operator": _OPERATOR,
    "dashboard": (
        *_OPERATOR,
        Grant("ShowThumbnails", ("s3:GetObject",), location=Location.RENDITIONS),
    ),
}

#: The processes of the Procfile.
PROCESSES: Final = ("fetch", "resize", "upload", "notify", "quarantine", "sweep", "ingest", "scheduler")


def input_queue(settings: Settings) -> InputQueue | None:
    """Parse QUEUE_URL; return None if it is not set."""
    if not settings.queue_url:
        return None
    parts = urlsplit(settings.queue_url)
    *_, account, name = ["", *parts.path.strip("/").split("/")]
    aws = _SQS_URL.fullmatch(parts.hostname or "")
    return InputQueue(name, aws["region"] if aws else None, account if re.fullmatch(r"\d{12}", account) else None)


def policy(process: str, settings: Settings) -> dict[str, Any]:
    """Build the minimal policy of a process.

    The account is that of QUEUE_URL, or `ANY_ACCOUNT`. Statements that do not apply are omitted: staging in a folder,
    and ACLs with `S3_ACL=none`.

    Args:
        process: A key of `GRANTS`.
        settings: The settings with the names of queues and buckets.

    Returns:
        The policy as a JSON object.
    """
    statements = []
    for grant in GRANTS[process]:
        resources = list(_resources(grant, settings))
        actions = [name for name in grant.actions if settings.s3_acl != "none" or name != "s3:PutObjectAcl"]
        if resources:
            one_or_all = resources[0] if len(resources) == 1 else resources
            statements.append(
                {"Sid": grant.sid, "Effect": "Allow", "Action": actions, "Resource": one_or_all}
                | _condition(grant, settings)
            )
    return {"Version": "2012-10-17", "Statement": statements}


def _condition(grant: Grant, settings: Settings) -> dict[str, Any]:
    """Return the condition that restricts a list to a prefix. S3 applies it to the key of a missing object too."""
    if grant.location is not Location.STAGING_KEYS:
        return {}
    return {"Condition": {"StringLike": {"s3:prefix": f"{urlsplit(settings.staging).path.lstrip('/')}*"}}}


def _resources(grant: Grant, settings: Settings) -> Iterator[str]:
    given = input_queue(settings)
    account = (given and given.account) or ANY_ACCOUNT
    partition = _partition(settings.aws_region)
    sqs = f"arn:{partition}:sqs:{settings.aws_region}:{account}"
    if grant.on_input:
        region = (given and given.region) or settings.aws_region
        yield f"arn:{partition}:sqs:{region}:{account}:{given.name if given else ANY_INPUT_QUEUE}"
    theirs = settings.redirect_queues if grant.theirs == REDIRECT_QUEUES and settings.redirect_queues else grant.theirs
    yield from (f"{sqs}:{name}" for name in theirs)
    yield from (f"{sqs}:{settings.full_queue_name(name)}" for name in grant.queues)
    staging = urlsplit(settings.staging)
    s3 = f"arn:{partition}:s3:::"
    if grant.location is Location.BUCKET:
        yield f"{s3}{settings.s3_bucket}"
    elif grant.location is Location.RENDITIONS:
        yield f"{s3}{settings.s3_bucket}/{settings.s3_prefix.strip('/')}/*"
    elif grant.location and staging.scheme == "s3":
        yield f"{s3}{staging.netloc}" + (f"{staging.path}*" if grant.location is Location.STAGING else "")


def _partition(region: str) -> str:
    """Return the AWS partition of a region, as used in ARNs."""
    prefixes = {"cn-": "aws-cn", "us-gov-": "aws-us-gov"}
    return next((name for prefix, name in prefixes.items() if region.startswith(prefix)), "aws")
