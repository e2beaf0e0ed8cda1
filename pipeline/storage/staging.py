"""Where bytes wait between stages (the claim-check pattern): a local folder, or S3. `STAGING_URL` chooses.

Keys are unguessable. What a job leaves behind expires: in S3 by a lifecycle rule that `provision` sets, in
a folder by the folder's own sweep.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from pipeline.errors import RetryableError, StagedMissing
from pipeline.settings import get_settings
from pipeline.storage import s3 as objects
from pipeline.storage.s3 import S3Error

#: Days after which a staged object is an orphan: as long as SQS keeps a message that could name it.
EXPIRY_DAYS = 14

#: Seconds between two looks for orphans in a local folder.
SWEEP_INTERVAL = 3600


#: How the name of a file begins that is still being written.
PARTIAL = "staging-"

_KEY = re.compile("[0-9a-f]{32}")
_OURS = re.compile(f"{_KEY.pattern}|{PARTIAL}.*")


class Staging(Protocol):
    """Puts bytes away under a key that cannot be guessed. Deleting twice is harmless."""

    def put(self, data: bytes, key: str = "") -> str:
        """Keep `data`, under a new key or in place of what is under `key`; returns its key."""

    def get(self, key: str) -> bytes:
        """The bytes under `key`; raises StagedMissing where they are gone."""

    def delete(self, keys: Sequence[str]) -> None:
        """Forget `keys`, those already gone included."""


def staging() -> Staging:
    """The staging that the settings name."""
    return _open(get_settings().staging)


@cache
def _open(url: str) -> Staging:
    parts = urlsplit(url)
    if parts.scheme == "file":
        return LocalStaging(Path(unquote(parts.path)))
    return S3Staging(bucket=parts.netloc, prefix=parts.path.lstrip("/"))


def _new_key() -> str:
    return secrets.token_hex(16)


def _checked(key: str) -> str:
    """`key`, as it came in a message, if it has the shape of ours: it becomes part of a path."""
    if not _KEY.fullmatch(key):
        raise StagedMissing(key[:64])
    return key


class LocalStaging:
    """A folder of this host: for one host, or for a file system that all hosts share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._swept = 0.0

    def put(self, data: bytes, key: str = "") -> str:
        key = key or _new_key()
        path = self._path(key)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=PARTIAL, delete=False) as file:
                file.write(data)
            os.replace(file.name, path)
        except OSError as error:
            raise RetryableError("staging_error", f"The staging folder cannot be written: {error.strerror}.") from error
        self._sweep_now_and_then()
        return key

    def get(self, key: str) -> bytes:
        try:
            return self._path(_checked(key)).read_bytes()
        except FileNotFoundError:
            raise StagedMissing(key) from None
        except OSError as error:
            raise RetryableError("staging_error", f"The staging folder cannot be read: {error.strerror}.") from error

    def delete(self, keys: Sequence[str]) -> None:
        for path in [self._path(_checked(key)) for key in keys]:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise RetryableError("staging_error", f"A staged file cannot be removed: {error.strerror}.") from error

    def sweep(self, now: float | None = None) -> int:
        """Remove what is ours and older than `EXPIRY_DAYS`; returns how many files went."""
        oldest = (time.time() if now is None else now) - EXPIRY_DAYS * 86400
        removed = 0
        for path in self._folder.glob("[0-9a-f][0-9a-f]/*"):
            if not _OURS.fullmatch(path.name):
                continue
            with contextlib.suppress(OSError):  # another process sweeps the same folder
                if path.stat().st_mtime < oldest:
                    path.unlink()
                    removed += 1
        return removed

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / key

    def _sweep_now_and_then(self) -> None:
        if time.monotonic() - self._swept > SWEEP_INTERVAL or not self._swept:
            self._swept = time.monotonic()
            self.sweep()


class S3Staging:
    """A prefix of an S3 bucket: for any number of hosts. Objects are private."""

    def __init__(self, *, bucket: str, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = prefix

    def put(self, data: bytes, key: str = "") -> str:
        key = key or _new_key()
        objects.put(self._bucket, self._prefix + key, data, doing="stage an object")
        return key

    def get(self, key: str) -> bytes:
        try:
            return objects.get(self._bucket, self._prefix + _checked(key), doing="read a staged object")
        except S3Error as error:
            if error.is_absent:
                raise StagedMissing(key) from None
            raise

    def delete(self, keys: Sequence[str]) -> None:
        if keys:
            ours = [self._prefix + _checked(key) for key in keys]
            objects.delete(self._bucket, ours, doing="delete staged objects")
