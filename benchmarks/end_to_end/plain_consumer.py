"""The plain consumer: one process that handles one message after another, as the running system did.

It receives one message, downloads, resizes the whole picture three times, uploads each with a new client, posts the
result, and deletes the message. It retries, checks and stages nothing.
"""

from __future__ import annotations

import io
import json
import os
import uuid
from typing import Any

import boto3
import requests
from PIL import Image

SIZES = {"50x50": (50, 50), "250X250": (250, 250), "800x800": (800, 800)}
BUCKET, ENDPOINT = os.environ["S3_BUCKET"], os.environ["AWS_ENDPOINT_URL"]


def handle(payload: dict[str, Any]) -> None:
    """Handle one message."""
    source = requests.get(payload["image_url"], timeout=12).content
    name, path = uuid.uuid4().hex, f"images-resized/{payload['bucket_name'].upper()}/"
    info = {}
    for rendition, size in SIZES.items():
        image = Image.open(io.BytesIO(source))
        suffix = str(image.format).lower()
        made = io.BytesIO()
        image.resize(size, Image.Resampling.LANCZOS).save(made, image.format)
        key = f"{path}{name}_{rendition}.{suffix}"
        boto3.client("s3").put_object(Bucket=BUCKET, Key=key, Body=made.getvalue(), ContentType=f"image/{suffix}")
        info[rendition] = {"url": f"{ENDPOINT}/{BUCKET}/{key}", "bucket_path": path}
    result = payload | {"image_url_info": info, "postback_secret_key": "a secret"}
    requests.post(payload["postback_url"], json=result, timeout=12).raise_for_status()


def main() -> None:
    """Handle messages until a signal stops the process."""
    sqs, queue = boto3.client("sqs"), os.environ["QUEUE_URL"]
    while True:
        answer = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=1, WaitTimeSeconds=20)
        for message in answer.get("Messages", []):
            handle(json.loads(message["Body"]))
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])


if __name__ == "__main__":
    main()
