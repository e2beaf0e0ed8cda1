"""The AsyncAPI document of the channels that others send to or receive from: https://www.asyncapi.com/docs/reference."""

from __future__ import annotations

import json
from typing import Any, Final

from pipeline.job import ID
from pipeline.ops.schema.messages import PARTS, Schema, message, postback, result
from pipeline.settings import Settings
from pipeline.sqs.queues import MAX_MESSAGE_BYTES
from pipeline.stages import DEAD_LETTER_QUEUES
from pipeline.version import version

#: Meanings of the message attributes of a dead letter (`wire.Reason.attributes`).
_ATTRIBUTES: Final = {
    "stage": "The queue or stage that gave the message up.",
    "error_code": "One of docs/errors.md.",
    "error_message": "One sentence for people.",
    "attempts": "The number of attempts, in decimal digits.",
    "first_at": "When the message was first sent.",
    "last_at": "When it was given up.",
    "staging_key": "The key of the body in staging, if it was too large for SQS. The body of the letter is then {}.",
}


def asyncapi() -> Schema:
    """Return the document. It contains all schemas, and refers to no other file."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "image-pipeline",
            "version": version(),
            "description": (
                "Podcast covers from any feed to every size your apps need. A message names images and receivers. The "
                "service stores renditions in S3, and reports their URLs to the receivers. Delivery is at least once, "
                "in any order."
            ),
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": _servers(),
        "channels": _channels(),
        "operations": _operations(),
        "components": {"messages": _messages(), "schemas": _schemas()},
    }


def _servers() -> Schema:
    region = str(Settings.model_fields["aws_region"].default)
    return {
        "sqs": {
            "host": "sqs.{region}.amazonaws.com",
            "protocol": "sqs",
            "description": "Amazon SQS, or AWS_ENDPOINT_URL_SQS.",
            "variables": {"region": {"description": "AWS_REGION", "default": region}},
        },
        "receiver": {
            "host": "{host}",
            "protocol": "https",
            "description": "The host in the postback_url of a message. http is allowed unless POSTBACK_HTTPS_ONLY=on.",
            "variables": {"host": {"description": "The receiver's host.", "default": "example.com"}},
        },
    }


def _channel(server: str, address: str | None, description: str, name: str, **more: Any) -> Schema:
    return {
        "address": address,
        "servers": [{"$ref": f"#/servers/{server}"}],
        "description": description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        **more,
    }


def _channels() -> Schema:
    namespace = str(Settings.model_fields["queue_namespace"].default)
    return {
        "input": _channel(
            "sqs",
            "{input_queue}",
            "The queue QUEUE_URL, standard or FIFO. Order is not preserved.",
            "message",
            parameters={"input_queue": {"description": "The name in QUEUE_URL.", "examples": ["ImageQueue.fifo"]}},
        ),
        "redirect": _channel(
            "sqs",
            "{redirect_queue}",
            "The queue that a message names. If it does not exist, the result is not sent there.",
            "result",
            parameters={
                "redirect_queue": {
                    "description": "The name in the message, letter for letter. Its result repeats it.",
                    "location": "$message.payload#/redirect_queue",
                }
            },
        ),
        "postback": _channel(
            "receiver", None, "The postback_url of a message: a webhook. Its result repeats the URL.", "postback"
        ),
        "dead_letters": _channel(
            "sqs",
            "{namespace}_{stage}_dlq",
            "Messages that were rejected or given up, each with its reason. SQS deletes them after 14 days.",
            "dead_letter",
            parameters={
                "namespace": {"description": "QUEUE_NAMESPACE", "default": namespace},
                "stage": {"description": "What gave the message up.", "enum": list(DEAD_LETTER_QUEUES)},
            },
        ),
    }


def _operation(action: str, channel: str, name: str, summary: str, **more: Any) -> Schema:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"}],
        "summary": summary,
        **more,
    }


def _operations() -> Schema:
    post = {"bindings": {"http": {"method": "POST", "bindingVersion": "0.3.0"}}}
    return {
        "receive_message": _operation("receive", "input", "message", "Takes a message that names images."),
        "send_result": _operation("send", "redirect", "result", "Sends the result to the queue in redirect_queue."),
        "send_postback": _operation("send", "postback", "postback", "Posts the result to the postback_url.", **post),
        "send_dead_letter": _operation(
            "send", "dead_letters", "dead_letter", "Keeps a message that was rejected or given up, with its reason."
        ),
    }


def _messages() -> Schema:
    return {
        "message": {
            "title": "Message",
            "summary": f"Asks for the renditions of one or two images. At most {MAX_MESSAGE_BYTES} bytes.",
            "payload": {"$ref": "#/components/schemas/Message"},
        },
        "result": {
            "title": "Result",
            "summary": "The message and the outcome of its images. On a FIFO queue job_id is the deduplication id too.",
            "headers": _headers({"job_id": _id("A message attribute. The same on every repeat.")}, ["job_id"]),
            "payload": {"$ref": "#/components/schemas/Result"},
        },
        "postback": {
            "title": "Postback",
            "summary": "Answer 2xx. 410 ends the delivery. Any other answer is retried for about three days.",
            "headers": _postback_headers(),
            "payload": {"$ref": "#/components/schemas/Postback"},
        },
        "dead_letter": {
            "title": "Dead letter",
            "summary": "A letter without message attributes was moved by SQS, after its workers had died.",
            "headers": _headers(
                {name: {"type": "string", "description": text} for name, text in _ATTRIBUTES.items()}, []
            ),
            "payload": {
                "description": (
                    "The message as it was received. It may be anything, even invalid JSON, in the queue of ingest. In "
                    "those of the stages it is a message between stages, whose layout may change with any release."
                )
            },
        },
    }


def _headers(properties: Schema, required: list[str]) -> Schema:
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def _id(description: str) -> Schema:
    pattern = rf"^{ID.pattern}(\.r[1-9][0-9]*)?$"
    return {"type": "string", "pattern": pattern, "description": f"The job's id. {description}"}


def _postback_headers() -> Schema:
    signed = "Only if POSTBACK_SIGNING_SECRET is set; see https://www.standardwebhooks.com."
    headers = {
        "content-type": {"type": "string", "const": "application/json"},
        "webhook-id": _id("The same on every retry, so that a receiver can drop duplicates."),
        "webhook-timestamp": {"type": "string", "pattern": "^[0-9]+$", "description": f"Unix seconds. {signed}"},
        "webhook-signature": {
            "type": "string",
            "pattern": "^v1,[A-Za-z0-9+/=]+( v1,[A-Za-z0-9+/=]+)*$",
            "description": f"A signature by each secret. {signed}",
        },
    }
    return _headers(headers, ["content-type", "webhook-id"])


def _schemas() -> Schema:
    schemas = {schema["title"]: schema for schema in (message(), result(), postback())} | PARTS
    embedded: Schema = json.loads(json.dumps(schemas).replace("#/$defs/", "#/components/schemas/"))
    return embedded
