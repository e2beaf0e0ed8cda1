"""The SQS requests that every message needs, by libcurl: each takes a third of the CPU that boto3 takes.

A boto3 client stays in charge of everything else: its other methods, credentials, endpoint, exceptions, and the event
`before-call`. libcurl sends, and signs with AWS Signature Version 4. If a connection that was kept open ends before a
byte of an answer, libcurl sends once more on a new one. Where pycurl is missing, boto3 makes all requests.

The protocol: https://smithy.io/2.0/aws/protocols/aws-json-1_0-protocol.html
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from botocore import exceptions as boto

if TYPE_CHECKING:
    import pycurl
    from boto3.session import Session
    from mypy_boto3_sqs import SQSClient

#: Operations by the names of boto3's methods.
OPERATIONS: Final[Mapping[str, str]] = {
    "receive_message": "ReceiveMessage",
    "send_message_batch": "SendMessageBatch",
    "delete_message_batch": "DeleteMessageBatch",
    "change_message_visibility_batch": "ChangeMessageVisibilityBatch",
}

#: Codes that boto3 calls by another name than the answer's body does.
_CODES: Final = {"QueueDoesNotExist": "AWS.SimpleQueueService.NonExistentQueue"}

#: Called with the operation and the HTTP status of each answer, or None if there was none.
Count = Callable[[str, int | None], None]


def with_libcurl(client: SQSClient, session: Session, count: Count) -> SQSClient:
    """Return a client whose `OPERATIONS` are requested by libcurl, or `client` itself where pycurl is missing.

    Args:
        client: A client of boto3.
        session: The session with its credentials.
        count: Counts the requests.
    """
    fast: Any = FastSQS(client, session, count) if find_spec("pycurl") else client
    return fast  # type: ignore[no-any-return]


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
        return getattr(self._client, name)

    def close(self) -> None:
        """Close all connections that are not in use."""
        while self._idle:
            self._idle.pop().close()
        self._client.close()

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
        raise failures.from_code(answer["Error"].get("QueryErrorCode") or answer["Error"]["Code"])(answer, operation)

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
        import pycurl  # noqa: PLC0415 - a process that only sends single messages does not need it

        credentials = self._session.get_credentials()
        if credentials is None:
            raise boto.NoCredentialsError
        key = credentials.get_frozen_credentials()
        if key.token:
            headers["X-Amz-Security-Token"] = key.token
        curl = self._idle.pop() if self._idle else self._connection()
        received = BytesIO()
        curl.setopt(pycurl.USERNAME, key.access_key)
        curl.setopt(pycurl.PASSWORD, key.secret_key)
        curl.setopt(pycurl.HTTPHEADER, [*(f"{name}: {value}" for name, value in headers.items()), "Accept:", "Expect:"])
        curl.setopt(pycurl.POSTFIELDS, body)
        curl.setopt(pycurl.WRITEDATA, received)
        try:
            curl.perform()
        except pycurl.error as error:
            self._count(operation, None)
            raise self._failure(*error.args[:2]) from None
        status = curl.getinfo(pycurl.RESPONSE_CODE)
        self._idle.append(curl)
        self._count(operation, status)
        return status, _parsed(received.getvalue(), status)

    def _connection(self) -> pycurl.Curl:
        import pycurl  # noqa: PLC0415

        curl = pycurl.Curl()
        for option, value in self._options.items():
            curl.setopt(option, value)
        return curl

    @cached_property
    def _options(self) -> Mapping[int, Any]:
        """The options of libcurl that all requests share: what boto3 would do."""
        import certifi  # noqa: PLC0415
        import pycurl  # noqa: PLC0415
        import requests  # noqa: PLC0415
        from botocore.session import get_session  # noqa: PLC0415

        meta: Any = self._client.meta
        url, config = meta.endpoint_url, meta.config
        application = f" app/{config.user_agent_appid}" if config.user_agent_appid else ""
        variables = requests.Session().merge_environment_settings(url, {}, None, None, None)
        authorities = get_session().get_config_variable("ca_bundle") or variables["verify"]
        return {
            pycurl.URL: f"{url.rstrip('/')}/",
            pycurl.AWS_SIGV4: f"aws:amz:{meta.region_name}:sqs",
            pycurl.USERAGENT: f"{config.user_agent}{application}",
            pycurl.PROXY: variables["proxies"].get(urlsplit(url).scheme, ""),  # empty: libcurl looks for none
            pycurl.CAINFO: certifi.where() if authorities is True else authorities,
            pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
            pycurl.CONNECTTIMEOUT: int(config.connect_timeout),
            pycurl.TIMEOUT: int(config.read_timeout),
            pycurl.TCP_KEEPALIVE: 1,
            pycurl.NOSIGNAL: 1,  # with several threads
        }

    def _failure(self, code: int, message: str) -> boto.BotoCoreError:
        """Return boto3's error for a request without an answer."""
        import pycurl  # noqa: PLC0415

        match code:
            case pycurl.E_COULDNT_RESOLVE_HOST | pycurl.E_COULDNT_RESOLVE_PROXY | pycurl.E_COULDNT_CONNECT:
                kind: Any = boto.EndpointConnectionError
            case pycurl.E_OPERATION_TIMEDOUT:
                kind = boto.ReadTimeoutError
            case pycurl.E_PEER_FAILED_VERIFICATION | pycurl.E_SSL_CONNECT_ERROR | pycurl.E_SSL_CACERT_BADFILE:
                kind = boto.SSLError
            case _:
                kind = boto.ConnectionClosedError
        failure: boto.BotoCoreError = kind(endpoint_url=self._client.meta.endpoint_url, error=message)
        return failure


def _parsed(body: bytes, status: int) -> Any:
    """Return the parsed body of an answer. That of an error gets the form that it has in boto3.

    Raises:
        HTTPClientError: a success without a JSON object.
    """
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        if status < 300:
            raise boto.HTTPClientError(error="the answer is not a JSON object")
        answer = {}
    if status < 300:
        return answer
    name = str(answer.get("__type") or status).rpartition("#")[2]
    message = str(answer.get("message") or answer.get("Message") or "")
    error = {"Code": _CODES.get(name, name), "QueryErrorCode": name, "Message": message}
    return {"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}}
