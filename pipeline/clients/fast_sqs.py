"""The SQS requests that every message needs, made by libcurl at a third of boto3's CPU.

A boto3 client stays in charge of everything else: its other methods, credentials, endpoint, exceptions, and the event
`before-call`. libcurl sends, and signs with AWS Signature Version 4. If a connection that was kept open ends before a
byte of an answer, libcurl sends once more on a new one. Where pycurl is missing, boto3 makes all requests.

The protocol: https://smithy.io/2.0/aws/protocols/aws-json-1_0-protocol.html
"""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from botocore import exceptions as boto

if TYPE_CHECKING:
    import pycurl
    from boto3.session import Session
    from mypy_boto3_sqs import SQSClient

#: Names of operations by the names of boto3's methods.
OPERATIONS: Final[Mapping[str, str]] = {
    "receive_message": "ReceiveMessage",
    "send_message_batch": "SendMessageBatch",
    "delete_message_batch": "DeleteMessageBatch",
    "change_message_visibility_batch": "ChangeMessageVisibilityBatch",
}

#: Called with the operation and the HTTP status of each answer, or None if there was none.
Count = Callable[[str, int | None], None]

#: Credentials with other characters could add headers.
_CREDENTIAL: Final = re.compile("[!-~]*")


def with_libcurl(client: SQSClient, session: Session, count: Count) -> SQSClient:
    """Return a client whose `OPERATIONS` libcurl requests, or `client` itself where pycurl is missing or cannot sign.

    Args:
        client: A client of boto3.
        session: The session with its credentials.
        count: Counts the requests.
    """
    try:
        import pycurl  # noqa: PLC0415 - it has no wheel for musl
    except ImportError:
        return client
    fast: Any = FastSQS(client, session, count)
    return fast if hasattr(pycurl, "AWS_SIGV4") else client


class FastSQS:
    """A boto3 client whose `OPERATIONS` are requested by libcurl. Threads may share it."""

    def __init__(self, client: SQSClient, session: Session, count: Count) -> None:
        self._client = client
        self._session = session
        self._count = count
        self._idle: deque[pycurl.Curl] = deque()  # each keeps its connection open
        for method, operation in OPERATIONS.items():
            setattr(self, method, partial(self._call, operation))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._client, name)

    def close(self) -> None:
        """Close all connections that are not in use."""
        while self._idle:
            self._idle.pop().close()

    def _call(self, operation: str, **request: Any) -> Any:
        """Make one request; returns the answer in the form of boto3.

        Raises:
            ClientError: SQS refused.
            BotoCoreError: SQS did not answer, or the answer is unusable.
        """
        headers = {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": f"AmazonSQS.{operation}"}
        body = json.dumps(request).encode()
        hooked = self._hooks(operation, headers, body)
        status, answer = (hooked[0].status_code, hooked[1]) if hooked else self._request(operation, headers, body)
        if status < 300:
            return answer
        failures: Any = self._client.exceptions
        raise failures.from_code(answer["Error"]["Code"])(answer, operation)

    def _hooks(self, operation: str, headers: dict[str, str], body: bytes) -> Any:
        """Emit boto3's event `before-call`. Its handlers may raise, add headers, or answer in place of SQS."""
        meta: Any = self._client.meta
        _, answer = meta.events.emit_until_response(
            f"before-call.sqs.{operation}",
            model=meta.service_model.operation_model(operation),
            params={"headers": headers, "body": body, "context": {}},
            context={},
        )
        return answer

    def _request(self, operation: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        import pycurl  # noqa: PLC0415

        key, secret, token = self._credentials()
        if token:
            headers["X-Amz-Security-Token"] = token
        lines = [*(f"{name}: {value}" for name, value in headers.items()), "Accept:", "Expect:"]
        received = BytesIO()
        try:
            curl = self._idle.pop()
        except IndexError:
            curl = self._connection()
        curl.setopt(pycurl.USERNAME, key)
        curl.setopt(pycurl.PASSWORD, secret)
        curl.setopt(pycurl.HTTPHEADER, [line.encode() for line in lines])
        curl.setopt(pycurl.POSTFIELDS, body)
        curl.setopt(pycurl.WRITEDATA, received)
        try:
            curl.perform()
        except pycurl.error as error:
            self._count(operation, None)
            raise self._failure(*error.args[:2], connected=curl.getinfo(pycurl.CONNECT_TIME) > 0) from None
        status = curl.getinfo(pycurl.RESPONSE_CODE)
        curl.setopt(pycurl.POSTFIELDS, b"")  # frees the body
        self._idle.append(curl)
        self._count(operation, status)
        return status, _parsed(received.getvalue(), status)

    def _credentials(self) -> tuple[str, str, str]:
        """Return the key, the secret and the session token, which is empty for a key without an end."""
        credentials = self._session.get_credentials()
        if credentials is None:
            raise boto.NoCredentialsError
        key = credentials.get_frozen_credentials()
        given = (str(key.access_key), str(key.secret_key), key.token or "")
        if not all(_CREDENTIAL.fullmatch(each) for each in given):
            raise boto.HTTPClientError(error="the AWS credentials contain a blank or a character that is not ASCII")
        return given

    def _connection(self) -> pycurl.Curl:
        import pycurl  # noqa: PLC0415

        curl = pycurl.Curl()
        for option, value in self._options.items():
            curl.setopt(option, value)
        return curl

    @cached_property
    def _options(self) -> Mapping[int, Any]:
        """The options of libcurl that all requests share. Proxy and certificate authorities are those of boto3."""
        import pycurl  # noqa: PLC0415
        from botocore.httpsession import get_cert_path  # noqa: PLC0415

        client: Any = self._client
        url, config, http = client.meta.endpoint_url, client.meta.config, client._endpoint.http_session
        application = f" app/{config.user_agent_appid}" if config.user_agent_appid else ""
        return {
            pycurl.URL: url if urlsplit(url).path else f"{url}/",
            pycurl.AWS_SIGV4: f"aws:amz:{client.meta.region_name}:sqs",
            pycurl.USERAGENT: f"{config.user_agent}{application}".encode(),
            pycurl.PROXY: http._proxy_config.proxy_url_for(url) or "",  # empty: libcurl looks for none
            pycurl.CAINFO: os.fsencode(str(get_cert_path(http._verify))),
            pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
            pycurl.CONNECTTIMEOUT_MS: int(1000 * config.connect_timeout),
            pycurl.TIMEOUT_MS: int(1000 * config.read_timeout),  # of the whole request
            pycurl.TCP_KEEPALIVE: 1,
            pycurl.NOSIGNAL: 1,  # with several threads
        }

    def _failure(self, code: int, message: str, *, connected: bool) -> boto.BotoCoreError:
        """Return boto3's error for a request without an answer."""
        import pycurl  # noqa: PLC0415

        match code:
            case pycurl.E_COULDNT_RESOLVE_HOST | pycurl.E_COULDNT_RESOLVE_PROXY | pycurl.E_COULDNT_CONNECT:
                kind: Any = boto.EndpointConnectionError
            case pycurl.E_OPERATION_TIMEDOUT:
                kind = boto.ReadTimeoutError if connected else boto.ConnectTimeoutError
            case pycurl.E_PEER_FAILED_VERIFICATION | pycurl.E_SSL_CONNECT_ERROR | pycurl.E_SSL_CACERT_BADFILE:
                kind = boto.SSLError
            case _:
                kind = boto.ConnectionClosedError
        failure: boto.BotoCoreError = kind(endpoint_url=self._client.meta.endpoint_url, error=message)
        return failure


def _parsed(body: bytes, status: int) -> Any:
    """Return an answer in the form of boto3: an error as `{"Error": {"Code": …, "Message": …}}`.

    Raises:
        HTTPClientError: a success without a JSON object.
    """
    try:
        answer = json.loads(body, object_hook=_without_nulls if b"null" in body else None)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        if status < 300:
            raise boto.HTTPClientError(error="the answer is not a JSON object")
        answer = {}
    if status < 300:
        return answer
    code = str(answer.get("__type") or status).rpartition("#")[2].partition(":")[0]
    message = str(answer.get("message") or answer.get("Message") or "")
    return {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}


def _without_nulls(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
