"""obstore clients of S3, for all reads and writes of objects. They need a tenth of boto3's CPU."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import boto3.session
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.store import S3Store

from pipeline.clients.aws import credentials, s3_endpoint
from pipeline.clients.lazy import Lazy
from pipeline.errors import RetryableError
from pipeline.settings import Settings, get_settings

if TYPE_CHECKING:
    from obstore.store import RetryConfig, S3Credential

#: How long obstore reuses credentials: boto3 returns temporary credentials that are valid for at least 10 minutes.
#: https://github.com/boto/botocore/blob/develop/botocore/credentials.py (RefreshableCredentials)
CREDENTIALS_TTL = timedelta(minutes=5)

_STORE_RETRIES: RetryConfig = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=30),
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=2), "base": 2},
}


@Lazy
def store(bucket: str, acl: str = "") -> S3Store:
    """Create obstore's client of a bucket. Objects put with it get the canned `acl`, if given.

    All options are explicit, because obstore would read environment variables otherwise. Its timeout covers the whole
    response.
    """
    settings, endpoint = get_settings(), s3_endpoint()
    return S3Store(
        bucket,
        aws_endpoint_url_s3=endpoint,
        region=settings.region_of_s3,
        virtual_hosted_style_request=False,
        skip_signature=False,
        # TLS protects the body, and hashing 1.5 MB takes 0.9 ms. boto3 does not sign bodies under TLS either.
        unsigned_payload=not endpoint.startswith("http:"),
        disable_bulk_delete=True,  # S3 bills DeleteObjects like a PUT; DELETE is free
        credential_provider=_store_credentials(settings),
        retry_config=_STORE_RETRIES,
        client_options={
            "allow_http": endpoint.startswith("http:"),
            "connect_timeout": timedelta(seconds=5),
            "timeout": timedelta(seconds=30),
            "default_headers": {"x-amz-acl": acl} if acl else {},
        },
    )


def _store_credentials(settings: Settings) -> Callable[[], S3Credential]:
    keys = credentials(settings.aws_access_key_s3, settings.aws_secret_key_s3)
    session = boto3.session.Session(region_name=settings.region_of_s3, **keys)
    try:
        return Boto3CredentialProvider(session, ttl=CREDENTIALS_TTL)
    except ValueError:
        raise RetryableError(
            "s3_error", "S3 credentials are missing: AWS_ACCESS_KEY_S3 is not set, and boto3 finds none."
        ) from None
