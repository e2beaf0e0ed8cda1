"""Receives postbacks. Run `python receiver.py`, after `pip install standardwebhooks`.

The types are those of docs/schema/postback.json, as far as they are used.
"""

import os
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TypedDict

from standardwebhooks import Webhook, WebhookVerificationError

webhook = Webhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")  # POSTBACK_SIGNING_SECRET
seen: set[str] = set()  # in production: a unique key in your database, in one transaction with the work

MAX_BODY = 2 * 1024 * 1024


class Rendition(TypedDict):
    url: str
    bucket_path: str


class ImageError(TypedDict):
    stage: str
    code: str
    message: str


class Postback(TypedDict, total=False):
    image_url_info: dict[str, Rendition] | None
    image_url_error: ImageError
    itunes_image_info: dict[str, Rendition] | None
    itunes_image_error: ImageError


class Receiver(BaseHTTPRequestHandler):
    timeout = 30  # seconds that a connection may be silent

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        status = self.take(self.rfile.read(int(length))) if length.isdigit() and int(length) <= MAX_BODY else 413
        self.send_response(status)
        self.end_headers()

    def take(self, raw: bytes) -> int:
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            postback: Postback = webhook.verify(raw, headers)  # the raw bytes as received, signed in the last 5 minutes
        except (WebhookVerificationError, ValueError):
            return 401
        if headers["webhook-id"] not in seen:
            work(headers["webhook-id"], postback)
            seen.add(headers["webhook-id"])
        return 204  # for repeats too: any other answer is retried


def work(job_id: str, postback: Postback) -> None:
    images = (
        (postback.get("image_url_info"), postback.get("image_url_error")),
        (postback.get("itunes_image_info"), postback.get("itunes_image_error")),
    )
    for info, error in images:
        for name, rendition in (info or {}).items():
            print(job_id, name, rendition["url"], flush=True)
        if error:
            print(job_id, error["code"], error["message"], flush=True)


if __name__ == "__main__":
    HTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8000"))), Receiver).serve_forever()
