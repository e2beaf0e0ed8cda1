"""Staging of bytes between stages (the claim-check pattern), in S3 or a local folder. STAGING_URL selects it.

Keys cannot be guessed. Orphans expire: in S3 by a lifecycle rule that `provision` sets, in a folder by the clean-up in
`LocalStaging.put`.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from pipeline.errors import RetryableError, StagedMissing
from pipeline.settings import get_settings
from pipeline.storage import s3
from pipeline.storage.s3 import S3Error

#: Age in days at which a staged object is an orphan: SQS keeps no message longer that could refer to it.
EXPIRY_DAYS = 14

#: Seconds between two clean-ups of a local folder.
CLEAN_UP_INTERVAL = 3600

#: Prefix of files that are still being written.
PARTIAL = "staging-"

_KEY = re.compile("[0-9a-f]{32}")
_OURS = re.compile(f"{_KEY.pattern}|{PARTIAL}.*")


class Staging(Protocol):
    """Stores bytes under keys that cannot be guessed."""

    def put(self, data: bytes, key: str = "") -> str:
        """Store `data` under `key`, replacing what is there, or under a new key.

        Bytes under a given key can be made again: a crash of the host may lose or damage them. Others are durable once
        this returns.

        Returns:
            The key.
        """

    def get(self, key: str) -> bytes:
        """Read the bytes under `key`.

        Raises:
            StagedMissing: there are none.
        """

    def delete(self, keys: Sequence[str]) -> None:
        """Delete `keys`. Missing keys are ignored."""


def staging() -> Staging:
    """Return the staging selected by the settings."""
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
    """Return a key from a message, which becomes part of a path, if it has the form of our keys."""
    if not _KEY.fullmatch(key):
        raise StagedMissing(key[:64])
    return key


class LocalStaging:
    """Staging in a folder, either of a single host or of a file system that all hosts share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._prefix = str(folder)  # paths of keys are strings, because making a Path takes longer than opening a file
        self._cleaned_up = 0.0
        self._is_ours = False

    def put(self, data: bytes, key: str = "") -> str:
        is_durable, key = not key, key or _new_key()
        path = self._path(key)
        shelf = os.path.dirname(path)
        partial = f"{shelf}/{PARTIAL}{_new_key()}"
        try:
            try:
                self._check_owner()
                _write(partial, data)
            except FileNotFoundError:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._check_owner()
                Path(shelf).mkdir(mode=0o700, exist_ok=True)
                _write(partial, data)
            if is_durable:
                _sync(partial)
            os.replace(partial, path)
            if is_durable:
                _sync(shelf)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(partial)  # on a full disk, the files of all attempts would keep it full
            raise RetryableError("staging_error", f"The staging folder cannot be written: {error.strerror}.") from error
        self._clean_up_now_and_then()
        return key

    def get(self, key: str) -> bytes:
        try:
            self._check_owner()
            with open(self._path(_checked(key)), "rb", buffering=0) as file:
                return file.readall()
        except FileNotFoundError:
            raise StagedMissing(key) from None
        except OSError as error:
            raise RetryableError("staging_error", f"The staging folder cannot be read: {error.strerror}.") from error

    def delete(self, keys: Sequence[str]) -> None:
        for path in [self._path(_checked(key)) for key in keys]:
            try:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            except OSError as error:
                raise RetryableError("staging_error", f"A staged file cannot be removed: {error.strerror}.") from error

    def count_young(self) -> int:
        """Return the number of files that are younger than an hour.

        Raises:
            OSError: The folder cannot be examined.
        """
        oldest, young = time.time() - 3600, 0
        for shelf in os.scandir(self.folder):
            with contextlib.suppress(OSError):  # a file has just been deleted, or `lost+found` cannot be read
                young += sum(each.stat().st_mtime > oldest for each in os.scandir(shelf))
        return young

    def clean_up(self) -> int:
        """Remove our files older than `EXPIRY_DAYS`; return their number."""
        oldest = time.time() - EXPIRY_DAYS * 86400
        removed = 0
        for path in self.folder.glob("[0-9a-f][0-9a-f]/*"):
            if not _OURS.fullmatch(path.name):
                continue
            with contextlib.suppress(OSError):  # another process may clean up the same folder
                if path.stat().st_mtime < oldest:
                    path.unlink()
                    removed += 1
        return removed

    def _check_owner(self) -> None:
        """Check, once, that no other user of this host has prepared the folder or can write to it.

        Raises:
            RetryableError: `staging_error`.
            OSError: The folder cannot be examined.
        """
        if not self._is_ours:
            if problem := trouble_with(self.folder):
                raise RetryableError("staging_error", f"The staging folder {problem}.")
            self._is_ours = True

    def _path(self, key: str) -> str:
        return f"{self._prefix}/{key[:2]}/{key}"

    def _clean_up_now_and_then(self) -> None:
        if time.monotonic() - self._cleaned_up > CLEAN_UP_INTERVAL or not self._cleaned_up:
            self._cleaned_up = time.monotonic()
            self.clean_up()


def _write(path: str, data: bytes) -> None:
    """Write a new file that only this user can read. Threads take turns at every system call, so it makes few."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)


def _sync(path: str) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def trouble_with(folder: Path) -> str:
    """Return why other users of this host could read or replace files in a folder; empty if they cannot.

    Raises:
        OSError: The folder cannot be examined.
    """
    us, status = os.geteuid(), folder.stat()
    if folder.lstat().st_uid not in {us, 0} or status.st_uid != us:
        return "belongs to another user, who could read and replace images"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "is writable for other users, who could replace images"
    return ""


class S3Staging:
    """Staging under a prefix of an S3 bucket, for any number of hosts. Objects are private."""

    def __init__(self, *, bucket: str, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = prefix

    def put(self, data: bytes, key: str = "") -> str:
        key = key or _new_key()
        s3.put(self._bucket, self._prefix + key, data, doing="stage an object")
        return key

    def get(self, key: str) -> bytes:
        try:
            return s3.get(self._bucket, self._prefix + _checked(key), doing="read a staged object")
        except S3Error as error:
            if error.is_absent:
                raise StagedMissing(key) from None
            raise

    def delete(self, keys: Sequence[str]) -> None:
        if keys:
            ours = [self._prefix + _checked(key) for key in keys]
            s3.delete(self._bucket, ours, doing="delete staged objects")
