"""SQS by libcurl: requests that are signed, answered and refused as those of boto3 are."""

from __future__ import annotations

import json
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3.session
import pytest
import trustme
from botocore import exceptions as boto
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from pipeline.clients.fast_sqs import FastSQS, with_libcurl
from tests.support.untrusted_servers import Remote, Request, always, answer, remote, stalled

URL = "https://sqs.us-east-2.amazonaws.com/123456789012/work"
ENTRIES = [{"Id": "0", "MessageBody": "body ü"}]


def client_for(server: Remote, *, token: str | None = None, counts: list[Any] | None = None) -> Any:
    """Return a client of `server`, with the id `app` of an application."""
    session = boto3.session.Session("AKIAEXAMPLE", "secret:/+", token, "us-east-2")
    config = Config(user_agent="image-pipeline", user_agent_appid="app", read_timeout=1, connect_timeout=1)
    client = session.client("sqs", endpoint_url=server.url(""), config=config)
    return FastSQS(client, session, lambda *count: (counts if counts is not None else []).append(count))


@pytest.fixture
def sqs() -> Iterator[Remote]:
    """A server that answers every request with a JSON object."""
    with remote(always(answer(200, b'{"Successful": []}', keep=True))) as server:
        yield server


def signature_by_boto3(request: Request, token: str | None) -> str:
    """Return the signature that botocore makes for the headers that a request names as signed."""
    fields = dict(part.split("=", 1) for part in (request.header("authorization") or "").split(" ", 1)[1].split(", "))
    credentials = Credentials("AKIAEXAMPLE", "secret:/+", token)
    signer = SigV4Auth(credentials, "sqs", "us-east-2")
    signed = {name: request.header(name) or "" for name in fields["SignedHeaders"].split(";")}
    made = AWSRequest("POST", f"http://{signed['host']}/", headers=signed, data=request.body)
    made.context["timestamp"] = signed["x-amz-date"]
    return str(signer.signature(signer.string_to_sign(made, signer.canonical_request(made)), made))


@pytest.mark.parametrize("token", [None, "token/+="])
def test_a_request_has_the_signature_that_boto3_makes(sqs: Remote, token: str | None) -> None:
    # When a request is made with a key, or with temporary credentials
    client_for(sqs, token=token).send_message_batch(QueueUrl=URL, Entries=ENTRIES)
    # Then it is signed as boto3 signs it, including the token and the operation
    (request,) = sqs.requests
    authorization = request.header("authorization") or ""
    assert authorization.startswith("AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/")
    assert authorization.endswith(f"Signature={signature_by_boto3(request, token)}")
    assert request.header("x-amz-security-token") == token
    signed = authorization.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    assert {"host", "x-amz-date", "x-amz-target", *(["x-amz-security-token"] if token else [])} <= set(signed)


def test_a_request_names_its_operation_and_its_sender(sqs: Remote) -> None:
    counts: list[Any] = []
    answered = client_for(sqs, counts=counts).send_message_batch(QueueUrl=URL, Entries=ENTRIES)
    (request,) = sqs.requests
    assert json.loads(request.body) == {"QueueUrl": URL, "Entries": ENTRIES}
    assert request.header("x-amz-target") == "AmazonSQS.SendMessageBatch"
    agent = (request.header("user-agent") or "").split()
    assert (agent[0], agent[-1]) == ("image-pipeline", "app/app")
    assert (answered, counts) == ({"Successful": []}, [("SendMessageBatch", 200)])


def test_requests_one_after_another_share_a_connection(sqs: Remote) -> None:
    client = client_for(sqs)
    for _ in range(3):
        client.delete_message_batch(QueueUrl=URL, Entries=[])
    assert (len(sqs.requests), sqs.connections) == (3, 1)


def test_without_credentials_nothing_is_sent(sqs: Remote) -> None:
    client = client_for(sqs)
    client._session = SimpleNamespace(get_credentials=lambda: None)
    with pytest.raises(boto.NoCredentialsError):
        client.receive_message(QueueUrl=URL)
    assert sqs.requests == []


class TestRefusals:
    @pytest.mark.parametrize("name", ["com.amazonaws.sqs#QueueDoesNotExist", "QueueDoesNotExist:http://internal/"])
    def test_a_refusal_has_the_class_that_it_has_in_boto3(self, name: str) -> None:
        body = json.dumps({"__type": name, "message": "It does not exist."}).encode()
        counts: list[Any] = []
        with remote(always(answer(400, body))) as server:
            client = client_for(server, counts=counts)
            with pytest.raises(client.exceptions.QueueDoesNotExist) as caught:
                client.receive_message(QueueUrl=URL)
        assert caught.value.response["Error"]["Code"] == "QueueDoesNotExist"
        assert "It does not exist." in str(caught.value)
        assert counts == [("ReceiveMessage", 400)]

    def test_a_refusal_without_json_has_its_status_as_code(self) -> None:
        with remote(always(answer(503, b"<html>"))) as server, pytest.raises(boto.ClientError) as caught:
            client_for(server).receive_message(QueueUrl=URL)
        assert caught.value.response["Error"]["Code"] == "503"

    @pytest.mark.parametrize("body", [b"<html>", b"[]", b""])
    def test_a_success_without_an_object_is_an_error(self, body: bytes) -> None:
        with remote(always(answer(200, body))) as server, pytest.raises(boto.HTTPClientError, match="JSON"):
            client_for(server).receive_message(QueueUrl=URL)

    @pytest.mark.parametrize(
        ("body", "answered"),
        [
            (b'{"Messages": null}', {}),
            (b'{"Messages": [{"Body": "null", "Attributes": null}]}', {"Messages": [{"Body": "null"}]}),
        ],
    )
    def test_nulls_are_left_out_as_in_boto3(self, body: bytes, answered: dict[str, Any]) -> None:
        with remote(always(answer(200, body))) as server:
            assert client_for(server).receive_message(QueueUrl=URL) == answered


class TestNoAnswer:
    @pytest.mark.parametrize(
        ("behaviour", "kind"),
        [(stalled(), boto.ReadTimeoutError), (always(b""), boto.ConnectionClosedError)],
        ids=["silence", "an end"],
    )
    def test_it_is_the_error_of_boto3(self, behaviour: Any, kind: type[Exception]) -> None:
        counts: list[Any] = []
        with remote(behaviour) as server, pytest.raises(kind):
            client_for(server, counts=counts).receive_message(QueueUrl=URL)
        assert counts == [("ReceiveMessage", None)]

    def test_a_server_that_is_gone_cannot_be_reached(self) -> None:
        with remote(always()) as server:
            client = client_for(server)
        with pytest.raises(boto.EndpointConnectionError):
            client.receive_message(QueueUrl=URL)

    def test_the_next_request_uses_a_new_connection(self) -> None:
        # Given a server that hangs up once
        answers = iter([b"", answer(200, b"{}", keep=True), answer(200, b"{}", keep=True)])
        with remote(lambda _, __: [next(answers)]) as server:
            client = client_for(server)
            with pytest.raises(boto.ConnectionClosedError):
                client.receive_message(QueueUrl=URL)
            # Then the next request succeeds
            assert client.receive_message(QueueUrl=URL) == {}

    def test_a_connection_that_ended_while_idle_is_replaced_and_the_request_sent_once_more(self) -> None:
        # Given a server that answers, and hangs up at the second request
        answers = iter([answer(200, b"{}", keep=True), b"", answer(200, b'{"by": "another"}')])
        with remote(lambda _, __: [next(answers)]) as server:
            client = client_for(server)
            client.receive_message(QueueUrl=URL)
            # Then the second request is made once more, on a new connection
            assert client.receive_message(QueueUrl=URL) == {"by": "another"}
            assert (len(server.requests), server.connections) == (3, 2)


@pytest.mark.parametrize("token", ["tok\nX-Evil: 1", "tok\r", "t\0", "tök"])
def test_credentials_cannot_add_headers_and_are_not_printed(sqs: Remote, token: str) -> None:
    with pytest.raises(boto.HTTPClientError, match="credentials") as caught:
        client_for(sqs, token=token).receive_message(QueueUrl=URL)
    assert "tok" not in str(caught.value)
    assert sqs.requests == []


class TestTLS:
    @pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
    def test_boto3s_authorities_are_trusted_and_no_others(
        self, variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        # Given a server with a certificate of an authority of its own
        monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
        authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        with remote(always(answer(200, b"{}")), tls=context) as server:
            # Then it is refused, until a variable of boto3 names that authority.
            with pytest.raises(boto.SSLError):
                client_for(server).receive_message(QueueUrl=URL)
            assert server.requests == []
            monkeypatch.setenv(variable, str(tmp_path / "ca.pem"))
            assert client_for(server).receive_message(QueueUrl=URL) == {}


def test_the_proxy_of_the_environment_is_used_unless_no_proxy_names_the_host(
    sqs: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    with remote(always(answer(200, b'{"by": "proxy"}'))) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url(""))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert client_for(sqs).receive_message(QueueUrl=URL) == {"by": "proxy"}
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert client_for(sqs).receive_message(QueueUrl=URL) == {"Successful": []}


class TestHooks:
    """Handlers of boto3's event before-call, which watch or change requests."""

    def test_a_handler_may_refuse_a_request(self, sqs: Remote) -> None:
        client = client_for(sqs)

        def refuse(**_: Any) -> None:
            raise boto.EndpointConnectionError(endpoint_url="http://down")

        client.meta.events.register("before-call.sqs.ReceiveMessage", refuse)
        with pytest.raises(boto.EndpointConnectionError):
            client.receive_message(QueueUrl=URL)
        assert sqs.requests == []

    def test_a_handler_may_add_a_header_and_read_the_body(self, sqs: Remote) -> None:
        client, bodies = client_for(sqs), []

        def change(params: dict[str, Any], **_: Any) -> None:
            params["headers"]["X-Amzn-Trace-Id"] = "Root=1"
            bodies.append(params["body"])

        client.meta.events.register("before-call.sqs", change)
        client.receive_message(QueueUrl=URL)
        (request,) = sqs.requests
        assert (request.header("x-amzn-trace-id"), [request.body]) == ("Root=1", bodies)

    @pytest.mark.parametrize("status", [200, 400])
    def test_a_handler_may_answer(self, sqs: Remote, status: int) -> None:
        client = client_for(sqs)
        answered = (SimpleNamespace(status_code=status), {"Error": {"Code": "AccessDenied", "Message": ""}})
        client.meta.events.register("before-call.sqs", lambda **_: answered)
        if status == 200:
            assert client.receive_message(QueueUrl=URL) == answered[1]
        else:
            with pytest.raises(boto.ClientError, match="AccessDenied"):
                client.receive_message(QueueUrl=URL)
        assert sqs.requests == []


def test_without_pycurl_boto3_makes_the_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    client, session = SimpleNamespace(), SimpleNamespace()
    assert isinstance(with_libcurl(client, session, print), FastSQS)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "pycurl", None)
    assert with_libcurl(client, session, print) is client  # type: ignore[arg-type,comparison-overlap]
