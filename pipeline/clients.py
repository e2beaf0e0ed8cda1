"""Lazy clients, one of each kind per process, shared by its threads. Nothing is opened at import."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

import boto3
import pymongo
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.store import S3Store
from pymongo import MongoClient, ReadPreference
from pymongo.errors import PyMongoError

from pipeline.errors import RetryableError
from pipeline.guard import GuardedSession
from pipeline.metrics import count_request
from pipeline.settings import Settings, SettingsError, get_settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient
    from obstore.store import RetryConfig, S3Credential
    from pydantic import SecretStr
    from pymongo.database import Database

    Client = TypeVar("Client", S3Client, SQSClient)

#: Connections kept open to one service: more than the threads of any process in the Procfile.
POOL_SIZE = 64

#: How long obstore uses what boto3 gave it: boto3 hands out temporary credentials that are good for 10 minutes or more.
#: https://github.com/boto/botocore/blob/develop/botocore/credentials.py (RefreshableCredentials)
CREDENTIALS_TTL = timedelta(minutes=5)

#: Seconds in which MongoDB has to answer to what is no long work.
MONGO_ANSWERS = 10.0


_STORE_RETRIES: RetryConfig = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=30),
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=2), "base": 2},
}
_DEFAULTS: dict[str, Any] = {"read_timeout": 20, "retries": {"mode": "standard", "total_max_attempts": 3}}


P = ParamSpec("P")
T = TypeVar("T")


class _Shared(Generic[P, T]):
    """A function whose result is made once for each set of arguments, however many threads ask first: `functools.cache`
    has each of them make one, and the last replaces the others."""

    def __init__(self, make: Callable[P, T]) -> None:
        self._make = make
        self._made: dict[Any, T] = {}
        self._lock = threading.Lock()
        update_wrapper(self, make)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        made, key = self._made, (args, tuple(kwargs.items()))
        if key not in made:
            with self._lock:
                if key not in made:
                    made[key] = self._make(*args, **kwargs)
        return made[key]

    def forget(self) -> list[T]:
        """Drop what was made, and return it."""
        with self._lock:
            made, self._made = list(self._made.values()), {}
        return made


def aws_config(settings: Settings, **more: Any) -> Config:
    """What every AWS client shares. Times are in seconds; a caller that must be prompt may shorten them."""
    return Config(
        region_name=settings.aws_region,
        user_agent="image-pipeline",  # else botocore works it out for each request, a tenth of the CPU of one to SQS
        max_pool_connections=POOL_SIZE,
        connect_timeout=5,
        tcp_keepalive=True,
        **_DEFAULTS | more,
    )


def _credentials(key: SecretStr | None, secret: SecretStr | None) -> dict[str, Any]:
    if not (key and secret):
        return {}
    return {"aws_access_key_id": key.get_secret_value(), "aws_secret_access_key": secret.get_secret_value()}


@_Shared
def s3() -> S3Client:
    """The S3 client."""
    settings = get_settings()
    client = boto3.session.Session().client(
        "s3",
        **_credentials(settings.aws_access_key_s3, settings.aws_secret_key_s3),
        endpoint_url=settings.s3_endpoint,
        config=aws_config(settings, s3={"addressing_style": "path"} if settings.s3_endpoint else {}),
    )
    return _counted(client, "s3")


@_Shared
def store(bucket: str, acl: str = "") -> S3Store:
    """The bucket to obstore; what is put there gets the canned `acl`, if one is named.

    Everything is said, so that it asks no variables of its own. Its time limit holds for the whole of an answer.
    """
    settings = get_settings()
    return S3Store(
        bucket,
        aws_endpoint_url_s3=settings.s3_endpoint or f"https://s3.{settings.aws_region}.amazonaws.com",
        region=settings.aws_region,
        virtual_hosted_style_request=False,
        skip_signature=False,
        # TLS guards the body, which takes 0.9 ms to hash for a source of 1.5 MB. boto3 signs none under TLS either.
        unsigned_payload=not (settings.s3_endpoint or "").startswith("http:"),
        disable_bulk_delete=True,  # S3 bills for DeleteObjects as for a PUT, and not for DELETE
        credential_provider=_store_credentials(settings),
        retry_config=_STORE_RETRIES,
        client_options={
            "allow_http": bool(settings.s3_endpoint),
            "connect_timeout": timedelta(seconds=5),
            "timeout": timedelta(seconds=30),
            "default_headers": {"x-amz-acl": acl} if acl else {},
        },
    )


def _store_credentials(settings: Settings) -> Callable[[], S3Credential]:
    keys = _credentials(settings.aws_access_key_s3, settings.aws_secret_key_s3)
    session = boto3.session.Session(region_name=settings.aws_region, **keys)
    try:
        return Boto3CredentialProvider(session, ttl=CREDENTIALS_TTL)
    except ValueError:
        raise RetryableError(
            "s3_error", "There are no credentials for S3: no AWS_ACCESS_KEY_S3 is set, and boto3 finds none."
        ) from None


@_Shared
def sqs() -> SQSClient:
    """The SQS client.

    It tries once only: a send that was applied but whose answer was lost would be sent again by botocore, and the queue
    layer retries by itself. It waits for an answer longer than the longest poll (20 s).
    """
    settings = get_settings()
    client = boto3.session.Session().client(
        "sqs",
        **_credentials(settings.aws_access_key_sqs, settings.aws_secret_key_sqs),
        endpoint_url=settings.sqs_endpoint,
        config=aws_config(settings, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 1}),
    )
    return _counted(client, "sqs")


def _counted(client: Client, service: str) -> Client:
    """The client, with each attempt of a request counted."""

    def count(event_name: str, response_dict: Mapping[str, Any] | None, **_: Any) -> None:
        status = None if response_dict is None else response_dict["status_code"]
        count_request(service, event_name.rpartition(".")[2], status)

    client.meta.events.register(f"response-received.{service}", count)
    return client


def aws_code(error: ClientError) -> str:
    """The service's own name for what it refused: `NoSuchKey`, `AccessDenied`, ..."""
    return str(error.response.get("Error", {}).get("Code", "Unknown"))


@_Shared
def http() -> GuardedSession:
    """The session for URLs that strangers name; its requests belong inside `exchange()`."""
    return GuardedSession(POOL_SIZE)


@_Shared
def _mongo() -> MongoClient[dict[str, Any]]:
    url = get_settings().database_url
    if url is None:
        raise RetryableError("mongo_error", "No MongoDB variable is set.")
    return MongoClient(
        url.get_secret_value(),
        appname="image-pipeline",
        tz_aware=True,
        datetime_conversion="DATETIME_AUTO",  # a date or a text that is none in Python keeps from reading no others
        unicode_decode_error_handler="replace",
        maxPoolSize=POOL_SIZE,
        serverSelectionTimeoutMS=5000,
        connectTimeoutMS=5000,
    )


def database() -> Database[dict[str, Any]]:
    """The MongoDB database that the sweeps work on; reads go to the primary, whatever its URL says."""
    return _mongo().get_default_database(read_preference=ReadPreference.PRIMARY)


@_Shared
def _jobs_mongo() -> MongoClient[dict[str, Any]]:
    url = get_settings().jobs_mongo_url
    if url is None:
        raise SettingsError("JOBS_MONGO_URL is not set: name there the MongoDB database that is to hold the job log.")
    return MongoClient(
        url.get_secret_value(),
        appname="image-pipeline-jobs",
        tz_aware=True,
        maxPoolSize=8,  # one thread of a process writes; a dashboard's few read
        serverSelectionTimeoutMS=5000,
        connectTimeoutMS=5000,
    )


def job_database() -> Database[dict[str, Any]]:
    """The MongoDB database of the job log.

    Raises:
        SettingsError: JOBS_MONGO_URL is not set.
    """
    return _jobs_mongo().get_default_database(read_preference=ReadPreference.PRIMARY)


@contextmanager
def mongo_trouble(
    doing: str, *, timeout: float | None = None, where: Callable[[], Database[dict[str, Any]]] = database
) -> Iterator[None]:
    """Turns what pymongo raises into a RetryableError `mongo_error` that says what was being done.

    All that is inside may take `timeout` seconds together, by default `MONGO_ANSWERS`. Where that is long, the database
    `where` it is done is asked first whether it is there: pymongo would look for it all that time.
    """
    timeout = timeout or MONGO_ANSWERS
    try:
        if timeout > MONGO_ANSWERS:
            with pymongo.timeout(MONGO_ANSWERS):
                where().command("ping")
        with pymongo.timeout(timeout):
            yield
    except PyMongoError as error:  # its text may hold hosts and documents
        raise RetryableError("mongo_error", f"Could not {doing}: MongoDB gave {type(error).__name__}.") from error


@contextmanager
def aws_trouble(service: str, doing: str) -> Iterator[None]:
    """Turns what boto3 raises into a RetryableError `<service>_error` that says what was being done."""
    try:
        yield
    except ClientError as error:
        raise RetryableError(f"{service}_error", f"Could not {doing}: {service} said {aws_code(error)}.") from error
    except BotoCoreError as error:
        raise RetryableError(f"{service}_error", f"Could not {doing}: {type(error).__name__}.") from error


def forget() -> None:
    """Drop every client and the settings, so that the next use reads the environment again (for tests)."""
    for mongo in (*_mongo.forget(), *_jobs_mongo.forget()):
        mongo.close()
    for shared in (s3, store, sqs, http):
        shared.forget()
    get_settings.cache_clear()
