"""Set-ups that are broken, each in one way, and what `check` must say of them."""

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
    """A set-up that is broken, and what must be said of it: all of it, and of nothing else."""

    name: str
    says: tuple[tuple[str, str, str], ...]  #: status, subject, and a part of the sentences; {variables} are filled in
    variables: dict[str, str] = field(default_factory=dict)
    change: Callable[[dict[str, str]], Any] | None = None  #: made with the service's variables
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


def refuses_public_acls(request: Request) -> Refusal | None:
    return Refusal(403, "AccessDenied") if request.headers.get("x-amz-acl") == "public-read" else None


def refuses_deletes(request: Request) -> bytes | None:
    if "?delete" not in request.path:
        return None
    return b"<DeleteResult><Error><Key>k</Key><Code>AccessDenied</Code></Error></DeleteResult>"


def lets_strangers_read_objects_but_not_list(request: Request) -> Refusal | None:
    return Refusal(403, "AccessDenied") if not request.is_signed and "list-type" in request.path else None


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


def disable_acls(service: dict[str, str]) -> None:
    aws.s3().put_bucket_ownership_controls(
        Bucket=service["S3_BUCKET"], OwnershipControls={"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    )


def delete_lifecycle(service: dict[str, str]) -> None:
    aws.s3().delete_bucket_lifecycle(Bucket=service["S3_BUCKET"])


BUCKET = "bucket {S3_BUCKET}"
BROKEN = [
    Broken(
        "two variables with wrong values",
        variables={"RESIZE_FIT": "crop", "MAX_SOURCE_BYTES": "many"},
        says=(
            ("fail", "RESIZE_FIT='crop'", "'cover', 'contain' or 'fill'. Every process stops"),
            ("fail", "MAX_SOURCE_BYTES='many'", "integer"),
        ),
    ),
    Broken(
        "SQS that nobody answers for",
        variables={"AWS_ENDPOINT_URL_SQS": f"http://{closed_port()}"},
        says=(("fail", "SQS", "cannot be reached at http://127.0.0.1:"),),
    ),
    Broken(
        "an access key that SQS does not know",
        sqs=sqs_refuses("InvalidClientTokenId"),
        says=(("fail", "SQS", "does not know the access key. Check whether AWS_ACCESS_KEY_SQS was deleted"),),
    ),
    Broken(
        "a secret key of S3 that is wrong",
        process="upload",
        s3=s3_refuses("SignatureDoesNotMatch"),
        says=(("fail", BUCKET, "the secret key does not match the access key. Set AWS_SECRET_KEY_S3 again"),),
    ),
    Broken(
        "credentials that have expired",
        s3=s3_refuses("ExpiredToken", status=400),
        sqs=sqs_refuses("ExpiredTokenException"),
        says=(("fail", "SQS", "have expired"), ("fail", BUCKET, "have expired")),
    ),
    Broken(
        "a clock ten minutes behind",
        date=timedelta(minutes=10),
        says=(
            ("fail", "clock (SQS)", "s behind SQS: receivers reject signed postbacks"),
            ("fail", "clock (S3)", "Set the clock"),
        ),
    ),
    Broken(
        "a clock two minutes ahead",
        date=timedelta(minutes=-2),
        says=(("warn", "clock (SQS)", "s ahead of SQS"), ("warn", "clock (S3)", "s ahead of S3")),
    ),
    Broken(
        "a clock so wrong that S3 refuses",
        process="upload",
        s3=s3_refuses("RequestTimeTooSkewed"),
        says=(("fail", BUCKET, "clock is wrong"),),
    ),
    Broken(
        "a queue that is missing",
        change=delete_queue("resize_bulk"),
        says=(
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
        says=(("fail", "elsewhere_*", "None of the 17 queues exists"),),
    ),
    Broken(
        "a queue without redrive policy",
        change=set_attribute("upload", "RedrivePolicy", ""),
        says=(("fail", "{QUEUE_NAMESPACE}_upload", "The redrive policy to {QUEUE_NAMESPACE}_upload_dlq is missing"),),
    ),
    Broken(
        "a queue that is set up otherwise",
        change=set_attribute("notify", "MessageRetentionPeriod", "3600"),
        says=(("warn", "{QUEUE_NAMESPACE}_notify", "MessageRetentionPeriod is not 1209600"),),
    ),
    Broken(
        "a queue that may not be sent to",
        sqs=sqs_refuses("AccessDenied", "SendMessage", "_resize"),
        process="fetch",
        says=(
            (
                "fail",
                "{QUEUE_NAMESPACE}_resize",
                "do not permit sqs:SendMessage here. Allow it; `image-pipeline check --iam fetch`",
            ),
        ),
    ),
    Broken(
        "a queue that may not be consumed",
        sqs=lambda request: (
            sqs_refuses("AccessDeniedException", "ReceiveMessage", "_fetch")(request)
            or sqs_refuses("AccessDeniedException", "DeleteMessage", "_fetch")(request)
        ),
        says=(("fail", "{QUEUE_NAMESPACE}_fetch", "do not permit sqs:DeleteMessage and sqs:ReceiveMessage here"),),
    ),
    Broken(
        "queues that may not be counted",
        sqs=sqs_refuses("AccessDenied", "GetQueueAttributes", "_fetch_dlq"),
        process="operator",
        says=(
            ("fail", "{QUEUE_NAMESPACE}_fetch_dlq", "do not permit sqs:GetQueueAttributes on it"),
            ("fail", "{QUEUE_NAMESPACE}_fetch", "do not permit sqs:GetQueueAttributes on it"),
            ("fail", "{QUEUE_NAMESPACE}_fetch_bulk", "do not permit sqs:GetQueueAttributes on it"),
        ),
    ),
    Broken(
        "an input queue that is not there",
        process="ingest",
        variables={"QUEUE_URL": "http://127.0.0.1/000000000000/nowhere"},
        says=(("fail", "QUEUE_URL", "There is no such queue."),),
    ),
    Broken(
        "an input queue that is a stage's",
        process="ingest",
        variables={"QUEUE_URL": "http://127.0.0.1/000000000000/{QUEUE_NAMESPACE}_fetch"},
        says=(("fail", "QUEUE_URL", "a queue of the service itself"),),
    ),
    Broken(
        "a bucket that is not there",
        process="upload",
        variables={"S3_BUCKET": "no-such-bucket-here"},
        says=(("fail", "bucket no-such-bucket-here", "There is no such bucket. Check S3_BUCKET"),),
    ),
    Broken(
        "a bucket of another region",
        process="upload",
        s3=s3_refuses("PermanentRedirect", status=301, x_amz_bucket_region="eu-west-1"),
        says=(("fail", BUCKET, "It is in eu-west-1, but AWS_REGION=us-east-2"),),
    ),
    Broken(
        "a way to S3 that is boto3's alone",
        process="upload",
        s3=lambda request: (
            None if "boto" in request.headers.get("user-agent", "boto").lower() else Refusal(407, "Proxy")
        ),
        says=(("fail", BUCKET, "boto3 reaches S3, but the client that transfers images does not."),),
    ),
    Broken(
        "a bucket that has ACLs disabled",
        process="upload",
        change=disable_acls,
        says=(
            (
                "warn",
                "renditions",
                "S3_ACL=public-read has no effect; renditions are stored without. Set S3_ACL=none",
            ),
        ),
    ),
    Broken(
        "a bucket that blocks public ACLs",
        process="upload",
        s3=refuses_public_acls,
        says=(("fail", "renditions", "not with S3_ACL=public-read: Block Public Access"),),
    ),
    Broken(
        "renditions that may not be written",
        process="upload",
        s3=s3_refuses("AccessDenied", "PUT", "/images-resized/"),
        says=(("fail", "renditions", "do not permit s3:PutObject in s3://{S3_BUCKET}/images-resized/"),),
    ),
    Broken(
        "renditions that may not be looked for",
        process="upload",
        s3=s3_refuses("AccessDenied", "HEAD", "image-pipeline-check"),
        says=(("fail", "renditions", "rendered and stored again every time. Allow s3:GetObject"),),
    ),
    Broken(
        "renditions that nobody may read",
        process="upload",
        variables={"S3_ACL": "none"},
        s3=lambda request: None if request.is_signed else Refusal(403, "AccessDenied"),
        says=(("warn", "public URL", "gets 403: the covers are not public"),),
    ),
    Broken(
        "a public address that leads nowhere",
        process="upload",
        variables={"PUBLIC_BASE_URL": f"http://{closed_port()}/covers"},
        says=(("warn", "public URL", "cannot be reached from here. Check PUBLIC_BASE_URL"),),
    ),
    Broken(
        "staging that nothing expires",
        process="upload",
        change=delete_lifecycle,
        says=(("warn", "expiry", "No lifecycle rule expires objects in staging"),),
    ),
    Broken(
        "staging that may not be read",
        process="upload",
        s3=lambda request: (
            (request.is_signed and s3_refuses("AccessDenied", "GET", "/pipeline-staging/")(request)) or None
        ),
        says=(("fail", "staging", "do not permit s3:GetObject in s3://{S3_BUCKET}/pipeline-staging/"),),
    ),
    Broken(
        "staging that may not be emptied",
        process="upload",
        s3=refuses_deletes,
        says=(("fail", "staging", "do not permit s3:DeleteObject"),),
    ),
    Broken(
        "staging that strangers may read",
        process="upload",
        s3=lets_strangers_read_objects_but_not_list,
        says=(("fail", "staging", "/pipeline-staging/ are publicly readable"),),
    ),
    Broken(
        "a staging folder that cannot be written",
        process="upload",
        variables={"STAGING_URL": "file:///dev/null/staging"},
        says=(("fail", "/dev/null/staging", "is not writable: Not a directory"),),
    ),
    Broken(
        "a MongoDB that is down",
        process="sweep",
        variables={"MONGO_URL": f"mongodb://user:secret@{closed_port()}/images"},
        says=(("fail", "MongoDB", "does not answer, or has no primary"),),
    ),
    Broken(
        "a job log that is down",
        process="fetch",
        variables={"JOBS_MONGO_URL": f"mongodb://user:secret@{closed_port()}/jobs"},
        says=(("warn", "image_pipeline_jobs", "does not answer, or has no primary"),),
    ),
    Broken(
        "every stranger's URL let in",
        process="notify",
        variables={"ALLOWED_NETWORKS": "0.0.0.0/0"},
        says=(("warn", "ALLOWED_NETWORKS", "0.0.0.0/0 lets untrusted URLs reach everything"),),
    ),
]
