"""Objects in S3 on every image's way: stored, read, looked for and deleted by obstore.

A request costs it 0.1 ms of CPU, and boto3 1 ms. It gets everything from `clients`: credentials, endpoint and limits
are those that boto3 would use, whatever variables of its own the environment holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError

from pipeline.clients.object_store import store
from pipeline.errors import RetryableError
from pipeline.metrics import count_request

#: What S3 names in the body of a refusal.
_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d{3})")


class S3Error(RetryableError):
    """S3 refused, or could not be reached."""

    def __init__(self, doing: str, said: str, *, is_absent: bool) -> None:
        super().__init__("s3_error", f"Could not {doing}: s3 said {said}.")
        self.said = said  #: S3's own name for it, as `AccessDenied`; or what is known in its place
        self.is_absent = is_absent  #: there is no such object, or S3 does not say: the caller may not list the bucket


def put(
    bucket: str, key: str, data: bytes, *, doing: str, headers: Mapping[str, str] | None = None, acl: str = ""
) -> None:
    """Store `data` under `key`, with HTTP `headers`, and a canned `acl` if one is named.

    `doing` says for people what the request is for. Raises S3Error.
    """
    with _request("PutObject", doing):
        obstore.put(store(bucket, acl), key, data, attributes=dict(headers or {}), use_multipart=False)


def get(bucket: str, key: str, *, doing: str) -> bytes:
    """The bytes under `key`; raises S3Error."""
    with _request("GetObject", doing):
        return bytes(obstore.get(store(bucket), key).bytes())


def exists(bucket: str, key: str, *, doing: str) -> bool:
    """Whether there is an object under `key`; raises S3Error if S3 could not be asked."""
    try:
        with _request("HeadObject", doing):
            obstore.head(store(bucket), key)
    except S3Error as error:
        if error.is_absent:
            return False
        raise
    return True


def delete(bucket: str, keys: Sequence[str], *, doing: str) -> None:
    """Delete objects, side by side, those already gone included; raises S3Error."""
    with _request("DeleteObject", doing, requests=len(keys)):
        obstore.delete(store(bucket), list(keys))


@contextmanager
def _request(operation: str, doing: str, requests: int = 1) -> Iterator[None]:
    """Counts what is asked inside, by the name that S3 has for it, and turns what goes wrong into an S3Error."""
    try:
        yield
        count_request("s3", operation, 200, requests)
    except (BaseError, FileNotFoundError) as error:  # their text holds the whole exchange
        count_request("s3", operation, _status(error), requests)
        said = _said(str(error))
        is_absent = isinstance(error, FileNotFoundError | PermissionDeniedError) and said != "NoSuchBucket"
        raise S3Error(doing, said, is_absent=is_absent) from None


def _status(error: Exception) -> int | None:
    """The status of the answer, as far as the client tells it."""
    match error:
        case FileNotFoundError():
            return 404
        case PermissionDeniedError():
            return 403
    status = _STATUS.search(str(error))
    return int(status[1]) if status else None


def _said(text: str) -> str:
    """S3's own name for what it refused; else the status of its answer; else that there was none."""
    if named := _CODE.search(text):
        return named[1]
    status = _STATUS.search(text)
    return f"status {status[1]}" if status else "nothing that could be understood, or could not be reached"
