"""Set-ups that are each broken in one way, with the findings that `check` must report for them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pipeline.clients import aws
from tests.support.refusing import Refusal, Request, Rule


@dataclass(frozen=True)
class Broken:
    """A broken set-up with its expected findings: `check` reports all of them and nothing else."""

    name: str
    #: The status, the subject and a part of each message; {variables} are filled in.
    expected: tuple[tuple[str, str, str], ...]
    variables: dict[str, str] = field(default_factory=dict)
    change: Callable[[dict[str, str]], Any] | None = None  #: Called with the service's variables.
    sqs: Rule | None = None
    s3: Rule | None = None
    date: timedelta | None = None
    process: str | None = None


def sqs_refuses(code: str, action: str = "", queue: str = "", status: int = 403) -> Rule:
    def rule(request: Request) -> Refusal | None:
        meant = request.is_sqs and action in request.action and request.queue.endswith(queue)
        return Refusal(status, code) if meant else None

    return rule


def s3_refuses(code: str, method: str = "", part: str = "", status: int = 403, **headers: str) -> Rule:
    def rule(request: Request) -> Refusal | None:
        meant = not request.is_sqs and request.action.startswith(method) and part in request.path
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        return Refusal(status, code, headers=more) if meant else None

    return rule


def refuses_every_acl(status: int, code: str) -> Rule:
    return lambda request: Refusal(status, code) if "x-amz-acl" in request.headers else None


def refuses_public_acls(request: Request) -> Refusal | None:
    return Refusal(403, "AccessDenied") if request.headers.get("x-amz-acl") == "public-read" else None


def lets_anyone_read_objects_but_not_list(request: Request) -> Refusal | None:
    return Refusal(403, "AccessDenied") if not request.is_signed and "list-type" in request.path else None


def refuses_missing_objects() -> Rule:
    """Return the rule of an S3 that answers 403 for a missing object in staging, as without s3:ListBucket."""
    stored: set[str] = set()

    def rule(request: Request) -> Refusal | None:
        key = request.path.partition("?")[0]
        if request.action == "PUT":
            stored.add(key)
        missing = request.action == "GET" and "/pipeline-staging/" in key and key not in stored
        return Refusal(403, "AccessDenied") if missing else None

    return rule


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def delete_queue(name: str) -> Callable[[dict[str, str]], Any]:
    return lambda service: aws.sqs().delete_queue(QueueUrl=queue_url(service, name))


def set_attribute(name: str, attribute: Any, value: str) -> Callable[[dict[str, str]], Any]:
    return lambda service: aws.sqs().set_queue_attributes(
        QueueUrl=queue_url(service, name), Attributes={attribute: value}
    )


def queue_url(service: dict[str, str], name: str) -> str:
    return aws.sqs().get_queue_url(QueueName=f"{service['QUEUE_NAMESPACE']}_{name}")["QueueUrl"]


def delete_lifecycle(service: dict[str, str]) -> None:
    aws.s3().delete_bucket_lifecycle(Bucket=service["S3_BUCKET"])


BUCKET = "bucket {S3_BUCKET}"
BROKEN = [
    Broken(
        "an SQS that does not answer",
        variables={"AWS_ENDPOINT_URL_SQS": f"http://{closed_port()}"},
        expected=(("fail", "SQS", "cannot be reached at http://127.0.0.1:"),),
    ),
    Broken(
        "expired credentials",
        s3=s3_refuses("ExpiredToken", status=400),
        sqs=sqs_refuses("ExpiredTokenException"),
        expected=(("fail", "SQS", "have expired"), ("fail", BUCKET, "have expired")),
    ),
    Broken(
        "a clock ten minutes behind",
        date=timedelta(minutes=10),
        expected=(
            ("fail", "clock (SQS)", "s behind SQS: receivers reject signed postbacks"),
            ("fail", "clock (S3)", "Set the clock"),
        ),
    ),
    Broken(
        "a missing queue",
        change=delete_queue("resize_bulk"),
        expected=(
            (
                "fail",
                "{QUEUE_NAMESPACE}_resize_bulk",
                "is missing, or looking it up is not permitted. `image-pipeline prov",
            ),
        ),
    ),
    Broken(
        "a namespace without queues",
        variables={"QUEUE_NAMESPACE": "elsewhere"},
        expected=(("fail", "elsewhere_*", "None of the 23 queues exists"),),
    ),
    Broken(
        "a queue without redrive policy",
        change=set_attribute("upload", "RedrivePolicy", ""),
        expected=(
            ("fail", "{QUEUE_NAMESPACE}_upload", "The redrive policy to {QUEUE_NAMESPACE}_upload_dlq is missing"),
        ),
    ),
    Broken(
        "a queue with another retention period",
        change=set_attribute("notify", "MessageRetentionPeriod", "3600"),
        expected=(("warn", "{QUEUE_NAMESPACE}_notify", "MessageRetentionPeriod is not 1209600"),),
    ),
    Broken(
        "a queue without permission to send",
        sqs=sqs_refuses("AccessDenied", "SendMessage", "_resize"),
        process="fetch",
        expected=(
            (
                "fail",
                "{QUEUE_NAMESPACE}_resize",
                "do not permit sqs:SendMessage here. Allow it; `image-pipeline check --iam fetch`",
            ),
        ),
    ),
    Broken(
        "a queue without permission to consume",
        sqs=lambda request: (
            sqs_refuses("AccessDeniedException", "ReceiveMessage", "_fetch")(request)
            or sqs_refuses("AccessDeniedException", "DeleteMessage", "_fetch")(request)
        ),
        expected=(("fail", "{QUEUE_NAMESPACE}_fetch", "do not permit sqs:DeleteMessage and sqs:ReceiveMessage here"),),
    ),
    Broken(
        "queues without permission to count messages",
        sqs=sqs_refuses("AccessDenied", "GetQueueAttributes", "_fetch_dlq"),
        process="operator",
        expected=(
            ("fail", "{QUEUE_NAMESPACE}_fetch_dlq", "do not permit sqs:GetQueueAttributes on it"),
            ("fail", "{QUEUE_NAMESPACE}_fetch", "do not permit sqs:GetQueueAttributes on it"),
            ("fail", "{QUEUE_NAMESPACE}_fetch_bulk", "do not permit sqs:GetQueueAttributes on it"),
            ("fail", "{QUEUE_NAMESPACE}_fetch_quarantine", "do not permit sqs:GetQueueAttributes on it"),
        ),
    ),
    Broken(
        "a missing input queue",
        process="ingest",
        variables={"QUEUE_URL": "http://127.0.0.1/000000000000/nowhere"},
        expected=(("fail", "QUEUE_URL", "The queue does not exist."),),
    ),
    Broken(
        "a missing bucket",
        process="upload",
        variables={"S3_BUCKET": "no-such-bucket-here"},
        expected=(("fail", "bucket no-such-bucket-here", "The bucket does not exist. Check S3_BUCKET"),),
    ),
    Broken(
        "a bucket in another region",
        process="upload",
        s3=s3_refuses("PermanentRedirect", status=301, x_amz_bucket_region="eu-west-1"),
        expected=(("fail", BUCKET, "It is in eu-west-1, but S3's region is us-east-2"),),
    ),
    Broken(
        "an S3 that only boto3 can reach",
        process="upload",
        s3=lambda request: (
            None if "boto" in request.headers.get("user-agent", "boto").lower() else Refusal(407, "Proxy")
        ),
        expected=(("fail", BUCKET, "boto3 reaches S3, but the client that transfers images does not."),),
    ),
    *(
        Broken(
            f"a store that answers {code} to an ACL",
            process="upload",
            s3=refuses_every_acl(status, code),
            expected=(
                (
                    "warn",
                    "renditions",
                    f"({code}), so S3_ACL=public-read has no effect; renditions are stored without. Set S3_ACL=none",
                ),
            ),
        )
        for status, code in ((400, "AccessControlListNotSupported"), (501, "NotImplemented"), (400, "InvalidArgument"))
    ),
    Broken(
        "a store that refuses everything as it refuses ACLs",
        process="upload",
        s3=s3_refuses("InvalidArgument", "PUT", "/images-resized/", status=400),
        expected=(("fail", "renditions", "S3 refused to write: InvalidArgument."),),
    ),
    Broken(
        "a bucket with public ACLs blocked",
        process="upload",
        s3=refuses_public_acls,
        expected=(("fail", "renditions", "not with S3_ACL=public-read: Block Public Access"),),
    ),
    Broken(
        "no permission to write renditions",
        process="upload",
        s3=s3_refuses("AccessDenied", "PUT", "/images-resized/"),
        expected=(("fail", "renditions", "do not permit s3:PutObject in s3://{S3_BUCKET}/images-resized/"),),
    ),
    Broken(
        "no permission to look for renditions",
        process="upload",
        s3=s3_refuses("AccessDenied", "HEAD", "image-pipeline-check"),
        expected=(("fail", "renditions", "do not permit s3:GetObject for renditions: each cover"),),
    ),
    Broken(
        "renditions without public access",
        process="upload",
        variables={"S3_ACL": "none"},
        s3=lambda request: None if request.is_signed else Refusal(403, "AccessDenied"),
        expected=(("warn", "public URL", "gets 403: the covers are not public"),),
    ),
    Broken(
        "a public address that cannot be reached",
        process="upload",
        variables={"PUBLIC_BASE_URL": f"http://{closed_port()}/covers"},
        expected=(("warn", "public URL", "cannot be reached from here. Check PUBLIC_BASE_URL"),),
    ),
    Broken(
        "staging without a lifecycle rule",
        process="upload",
        change=delete_lifecycle,
        expected=(("warn", "expiry", "No lifecycle rule expires objects in staging"),),
    ),
    Broken(
        "no permission to list staging",
        process="upload",
        s3=refuses_missing_objects(),
        expected=(("warn", "staging", "S3 answers 403 for a missing object, so a job"),),
    ),
    Broken(
        "no permission to read staging",
        process="upload",
        s3=lambda request: (
            (request.is_signed and s3_refuses("AccessDenied", "GET", "/pipeline-staging/")(request)) or None
        ),
        expected=(("fail", "staging", "do not permit s3:GetObject in s3://{S3_BUCKET}/pipeline-staging/"),),
    ),
    Broken(
        "no permission to empty staging",
        process="upload",
        s3=s3_refuses("AccessDenied", "DELETE", "/pipeline-staging/"),
        expected=(("fail", "staging", "do not permit s3:DeleteObject"),),
    ),
    Broken(
        "staging with public access",
        process="upload",
        s3=lets_anyone_read_objects_but_not_list,
        expected=(("fail", "staging", "/pipeline-staging/ are publicly readable"),),
    ),
    Broken(
        "a staging folder that cannot be written",
        process="upload",
        variables={"STAGING_URL": "file:///dev/null/staging"},
        expected=(("fail", "/dev/null/staging", "is not writable: Not a directory"),),
    ),
    Broken(
        "a staging folder that other users can write to",
        process="upload",
        variables={"STAGING_URL": "file:///var/tmp/"},
        expected=(("fail", "/var/tmp", "replace images"),),
    ),
    Broken(
        "a MongoDB that is down",
        process="sweep",
        variables={"MONGO_URL": f"mongodb://user:secret@{closed_port()}/images"},
        expected=(("fail", "MongoDB", "does not answer, or has no primary"),),
    ),
    Broken(
        "a job log that is down",
        process="fetch",
        variables={"JOBS_MONGO_URL": f"mongodb://user:secret@{closed_port()}/jobs"},
        expected=(("warn", "image_pipeline_jobs", "does not answer, or has no primary"),),
    ),
]
