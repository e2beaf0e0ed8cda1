"""One contract for every staging backend."""

from __future__ import annotations

import os
import resource
import stat
import time
from pathlib import Path

import pytest

from pipeline.clients import aws
from pipeline.errors import Retry, RetryableError, StagedMissing
from pipeline.settings import get_settings
from pipeline.storage.staging import CLEAN_UP_INTERVAL, EXPIRY_DAYS, PARTIAL, LocalStaging, Staging, staging
from tests.integration.storage.conftest import EMBEDDED, SECOND, on_second_store


@pytest.fixture(params=["file", EMBEDDED, SECOND])
def store(
    request: pytest.FixtureRequest, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Staging:
    """The staging selected by the settings."""
    if request.param == "file":
        monkeypatch.setenv("STAGING_URL", f"{(tmp_path / 'st ging').as_uri()}/")
        get_settings.cache_clear()
    elif request.param == SECOND:
        on_second_store(request, environment, monkeypatch)
    return staging()


def test_an_object_can_be_read_until_it_is_deleted(store: Staging) -> None:
    # Given two objects
    first, second = store.put(b"first"), store.put(b"\0" * 3_000_000)
    # Then each can be read by its key any number of times,
    assert store.get(first) == store.get(first) == b"first"
    assert store.get(second) == b"\0" * 3_000_000
    # and once it is deleted, only the other is left.
    store.delete([first])
    with pytest.raises(StagedMissing):
        store.get(first)
    assert len(store.get(second)) == 3_000_000


def test_equal_bytes_have_different_unguessable_keys(store: Staging) -> None:
    keys = {store.put(b"same") for _ in range(20)}
    assert len(keys) == 20
    assert all(len(key) == 32 and set(key) <= set("0123456789abcdef") for key in keys)


def test_an_empty_object_can_be_stored(store: Staging) -> None:
    assert store.get(store.put(b"")) == b""


def test_deleting_missing_objects_or_none_is_harmless(store: Staging) -> None:
    key = store.put(b"x")
    store.delete([key])
    store.delete([key, "0" * 32])
    store.delete([])


@pytest.mark.parametrize("key", ["", "0" * 32, "../../etc/passwd", "0" * 31 + "/", "A" * 32, "0" * 33])
def test_a_key_that_is_not_ours_is_missing(store: Staging, key: str) -> None:
    with pytest.raises(StagedMissing):
        store.get(key)


def test_a_key_that_is_not_ours_deletes_nothing(store: Staging) -> None:
    with pytest.raises(StagedMissing):
        store.delete(["../x"])


def test_objects_are_private_and_under_the_prefix(environment: dict[str, str]) -> None:
    key = staging().put(b"private")
    grants = aws.s3().get_object_acl(Bucket=environment["S3_BUCKET"], Key=f"pipeline-staging/{key}")["Grants"]
    assert [grant["Grantee"].get("URI") for grant in grants] == [None]


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o702])
def test_a_folder_that_other_users_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    # Given a folder that someone else has prepared, and a file in it
    folder = tmp_path / "staging"
    key = LocalStaging(folder).put(b"private")
    folder.chmod(mode)
    # Then it is neither written nor read, and the error says why.
    store = LocalStaging(folder)
    for use in (lambda: store.put(b"x"), lambda: store.get(key)):
        with pytest.raises(RetryableError, match=r"staging_error.*writable for other users"):
            use()
    # Once its owner has corrected that, it is used.
    folder.chmod(0o755)
    assert store.get(key) == b"private"


@pytest.mark.parametrize("others", ["folder", "link"])
def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: str) -> None:
    # Given a folder, or a link to it, that belongs to another user
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir(mode=0o700)
    link.symlink_to(folder)
    us, real = os.geteuid(), Path.lstat if others == "link" else Path.stat

    def owned_by_another(path: Path, **options: bool) -> os.stat_result:
        status = real(path, **options)
        return os.stat_result((*status[:4], us + 1, *status[5:]))

    monkeypatch.setattr(Path, real.__name__, owned_by_another)
    # Then it is not used.
    with pytest.raises(RetryableError, match=r"staging_error.*another user"):
        LocalStaging(link).put(b"private")


def test_files_are_readable_only_by_their_owner(tmp_path: Path) -> None:
    store = LocalStaging(tmp_path / "staging")
    key = store.put(b"private")
    (path,) = (tmp_path / "staging").glob(f"*/{key}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_orphans_in_a_folder_are_deleted_after_fourteen_days(tmp_path: Path) -> None:
    # Given files of 13.9, 14.1 and 15 days
    store = LocalStaging(tmp_path)
    young, old, older = (store.put(data) for data in (b"young", b"old", b"older"))
    for key, days in ((young, EXPIRY_DAYS - 0.1), (old, EXPIRY_DAYS + 0.1), (older, EXPIRY_DAYS + 1)):
        os.utime(tmp_path / key[:2] / key, times=(time.time() - days * 86400,) * 2)
    # and other files in the same folder
    for theirs in ("documents/thesis.docx", "ab/thesis.docx", "ab/cd/thesis.docx", "thesis.docx"):
        (tmp_path / theirs).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / theirs).write_bytes(b"theirs")
        os.utime(tmp_path / theirs, times=(0, 0))
    # When the folder is cleaned up, then only the orphans older than 14 days are deleted.
    assert store.clean_up() == 2
    assert len(list(tmp_path.rglob("thesis.docx"))) == 4
    assert store.get(young) == b"young"
    with pytest.raises(StagedMissing):
        store.get(old)
    assert store.clean_up() == 0


def test_a_new_process_cleans_up_at_its_first_put(tmp_path: Path) -> None:
    orphan = tmp_path / "00" / ("0" * 32)
    orphan.parent.mkdir()
    orphan.write_bytes(b"left behind")
    os.utime(orphan, times=(0, 0))
    LocalStaging(tmp_path).put(b"new")
    assert not orphan.exists()


def test_an_unfinished_file_of_a_dead_process_is_deleted_after_fourteen_days(tmp_path: Path, monkeypatch) -> None:
    # Given a complete file that was never renamed to its key
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    store = LocalStaging(tmp_path)
    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        store.put(b"partial")
    assert store.clean_up() == 0
    # When the folder is cleaned up later, then it is deleted.
    (partial,) = tmp_path.glob(f"*/{PARTIAL}*")
    os.utime(partial, times=(time.time() - EXPIRY_DAYS * 86400 - 60,) * 2)
    assert store.clean_up() == 1


def test_a_process_cleans_up_at_most_once_an_hour(tmp_path: Path, monkeypatch) -> None:
    # Given a process that has cleaned up
    store, now = LocalStaging(tmp_path), time.monotonic()
    store.put(b"first")
    orphan = tmp_path / "00" / ("0" * 32)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"left behind")
    os.utime(orphan, times=(0, 0))
    # When it stores more within the hour, then it does not clean up again; later it does.
    monkeypatch.setattr(time, "monotonic", lambda: now + CLEAN_UP_INTERVAL - 60)
    store.put(b"second")
    assert orphan.exists()
    monkeypatch.setattr(time, "monotonic", lambda: now + CLEAN_UP_INTERVAL + 60)
    store.put(b"third")
    assert not orphan.exists()


def test_a_full_disk_leaves_no_partial_file(tmp_path: Path) -> None:
    # Given a system that refuses to write more than a thousand bytes into a file
    store, limits = LocalStaging(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        # When more is stored, then it fails, and nothing is left of it.
        with pytest.raises(RetryableError, match="cannot be written"):
            store.put(b"\0" * 2_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("call", ["put", "get", "delete"])
def test_a_file_system_error_is_retryable(tmp_path: Path, call: str) -> None:
    # Given a file that replaces the folder, or a folder that replaces the file
    store, key = LocalStaging(tmp_path), "ab" + "0" * 30
    if call == "put":
        (tmp_path / "ab").write_bytes(b"")
    else:
        (tmp_path / "ab" / key).mkdir(parents=True)
    calls = {"put": lambda: store.put(b"x", key), "get": lambda: store.get(key), "delete": lambda: store.delete([key])}
    with pytest.raises(RetryableError) as caught:
        calls[call]()
    assert (caught.value.code, caught.value.retry) == ("staging_error", Retry.SERVICE)


def test_putting_a_known_key_replaces_the_object(store: Staging) -> None:
    key = "ab" + "0" * 30
    assert store.put(b"first", key) == key
    assert store.put(b"second", key) == key
    assert store.get(key) == b"second"
    store.delete([key])
    with pytest.raises(StagedMissing, match=key):
        store.get(key)


def test_bytes_that_cannot_be_made_again_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a folder, and a record of each file or folder that is written through to the disk
    store, synced = LocalStaging(tmp_path / "staging"), []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    # When a source is staged, then nothing is: it could be fetched again.
    store.put(b"a source", "0" * 32)
    assert synced == []
    # But a payload is, before it gets its name, and then its name is.
    key = store.put(b"a payload")
    shelf = str(tmp_path / "staging" / key[:2])
    assert [Path(each).parent.name for each in synced] == [key[:2], "staging"]
    assert synced[1] == shelf
