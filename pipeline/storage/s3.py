"""S3 requests made for every image: put, get, head and delete, with obstore.

A request costs obstore 0.1 ms of CPU and boto3 1 ms. `clients` gives it the credentials, endpoint and timeouts that
boto3 would use, so obstore reads no environment variables of its own.

The argument `doing` of each function completes the sentence "Could not ..." of the S3Error that
it raises if S3 refuses or cannot be reached.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError

from pipeline.clients.object_store import store
from pipeline.errors import RetryableError
from pipeline.metrics import count_request

#: The error code in the body of an S3 response.
_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d{3})")

#: Statuses of HEAD for a missing object.
_ABSENT = frozenset({403, 404})


class S3Error(RetryableError):
    """S3 refused, or could not be reached.

    Attributes:
        reason: S3's error code, such as `AccessDenied`, or a description if there is none.
        status: the HTTP status, or None without a response.
    """

    def __init__(self, doing: str, reason: str, status: int | None) -> None:
        super().__init__("s3_error", f"Could not {doing}: S3 answered {reason}.")
        self.reason = reason
        self.status = status

    @property
    def is_absent(self) -> bool:
        """Whether the object does not exist.

        A 403 proves nothing: unknown credentials, a wrong clock and a changed policy cause it too.
        """
        return self.reason == "NoSuchKey"


def put(
    bucket: str, key: str, data: bytes, *, doing: str, headers: Mapping[str, str] | None = None, acl: str = ""
) -> None:
    """Store an object with HTTP `headers` and, if given, a canned `acl`."""
    with _request("PutObject", doing):
        obstore.put(store(bucket, acl), key, data, attributes=dict(headers or {}), use_multipart=False)


def get(bucket: str, key: str, *, doing: str) -> bytes:
    """Read an object."""
    with _request("GetObject", doing):
        return bytes(obstore.get(store(bucket), key).bytes())


class Stored(NamedTuple):
    """An object that exists."""

    size: int  #: in bytes
    metadata: Mapping[str, str]  #: with its headers, such as Content-Type


def head(bucket: str, key: str, *, doing: str) -> Stored | None:
    """Return the size and the metadata of an object, or None if it is absent, as far as S3 reveals it.

    The response to HEAD has no body and so no error code, and a caller that may not list the bucket gets 403 for a
    missing object. Both count as absent.
    """
    try:
        with _request("HeadObject", doing):
            found = obstore.get(store(bucket), key, options={"head": True})
            return Stored(found.meta["size"], {str(name): value for name, value in found.attributes.items()})
    except S3Error as error:
        if error.status in _ABSENT:
            return None
        raise


def delete(bucket: str, keys: Sequence[str], *, doing: str) -> None:
    """Delete objects in parallel. Missing objects are ignored."""
    with _request("DeleteObject", doing, requests=len(keys)):
        obstore.delete(store(bucket), list(keys))


@contextmanager
def _request(operation: str, doing: str, requests: int = 1) -> Iterator[None]:
    """Count the requests made inside the context, and translate errors to S3Error."""
    try:
        yield
        count_request("s3", operation, 200, requests)
    except (BaseError, FileNotFoundError) as error:  # their messages contain the whole response
        status = _status(error)
        count_request("s3", operation, status, requests)
        raise S3Error(doing, _reason(str(error)), status) from None


def _status(error: Exception) -> int | None:
    match error:
        case FileNotFoundError():
            return 404
        case PermissionDeniedError():
            return 403
    status = _STATUS.search(str(error))
    return int(status[1]) if status else None


def _reason(text: str) -> str:
    """Return the S3 error code in an error message; else the status; else that there was no response."""
    if named := _CODE.search(text):
        return named[1]
    status = _STATUS.search(text)
    return f"status {status[1]}" if status else "nothing that could be understood, or could not be reached"
