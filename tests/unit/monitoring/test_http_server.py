"""The HTTP server of a process, and the ports that many processes share."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address

import pytest
import requests
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as families

from pipeline import metrics
from pipeline.monitoring import http_server as ops_server
from pipeline.monitoring.http_server import OpsServer
from pipeline.settings import Settings
from tests.support.waiting import wait_for


class Patient:
    """A process health that a test sets."""

    def __init__(self) -> None:
        self.ails: list[str] = []
        self.waits: list[str] = []

    def not_live(self) -> list[str]:
        return self.ails

    def not_ready(self) -> list[str]:
        return self.waits


@pytest.fixture(autouse=True)
def _created(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prometheus_client.metrics._use_created", True)  # The server disables it.


def free_port() -> int:
    """Find a port that most likely has free ones above it."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def serving(port: int, health: Patient | None = None, **more) -> Iterator[int | None]:
    server = OpsServer("fetch", ["fetch", "fetch_bulk"], health or Patient(), **more)
    try:
        yield server.start(Settings(metrics_port=port))
    finally:
        server.close()


def get(port: int | None, path: str, **headers: str) -> requests.Response:
    return requests.get(f"http://127.0.0.1:{port}{path}", headers=headers, timeout=10)


def test_the_metrics_can_be_parsed_in_both_formats() -> None:
    with serving(free_port()) as port:
        plain = get(port, "/metrics")
        modern = get(port, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert plain.headers["Content-Type"].startswith("text/plain; version=")
    assert modern.headers["Content-Type"].startswith("application/openmetrics-text")
    names = {family.name for family in families(plain.text)}
    assert names == {family.name for family in openmetrics(modern.text)}
    assert {f"{metrics.PREFIX}_jobs", f"{metrics.PREFIX}_stage_seconds", "process_cpu_seconds"} <= names
    assert "_created" not in plain.text
    (info,) = [f for f in families(plain.text) if f.name == f"{metrics.PREFIX}_process_info"]
    assert {"fetch"} <= {s.labels["process"] for s in info.samples if s.labels["queues"] == "fetch,fetch_bulk"}


def test_health_is_a_status_and_a_reason() -> None:
    patient = Patient()
    with serving(free_port(), patient) as port:
        assert (get(port, "/livez").status_code, get(port, "/readyz").text) == (200, "ok\n")
        patient.waits = ["fetch: no answer from SQS", "it stops"]
        answer = get(port, "/readyz")
        assert (answer.status_code, answer.text) == (503, "fetch: no answer from SQS\nit stops\n")
        assert get(port, "/livez").status_code == 200
        patient.ails = ["a thread has ended"]
        assert get(port, "/livez?verbose").status_code == 503
        samples = {s.name: s.value for f in families(get(port, "/metrics").text) for s in f.samples}
        assert (samples["image_pipeline_live"], samples["image_pipeline_ready"]) == (0, 0)


def test_other_paths_do_not_exist() -> None:
    with serving(free_port()) as port:
        answer = get(port, "/")
        assert (answer.status_code, answer.headers["Server"]) == (404, "image-pipeline")
        assert requests.post(f"http://127.0.0.1:{port}/metrics", timeout=10).status_code == 501


def test_processes_with_the_same_first_port_take_consecutive_ports() -> None:
    first = free_port()
    with ExitStack() as stack:
        ports = [stack.enter_context(serving(first)) for _ in range(5)]
        assert len(set(ports)) == 5
        assert all(first <= port < first + ops_server.PORTS for port in ports if port)
        assert all(get(port, "/livez").ok for port in ports)


def test_a_process_that_finds_no_port_logs_it_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ops_server, "PORTS", 1)
    with socket.create_server(("127.0.0.1", 0)) as taken, serving(taken.getsockname()[1]) as port:
        assert port is None
    assert "no port from" in caplog.text


def test_a_foreign_address_is_logged_and_the_process_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    server = OpsServer("fetch", [], Patient())
    assert server.start(Settings(metrics_port=9191, metrics_host=ip_address("192.0.2.1"))) is None
    assert "METRICS_HOST=192.0.2.1" in caplog.text


def test_port_0_disables_it() -> None:
    with serving(0) as port:
        assert port is None


def test_it_listens_on_loopback_by_default(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with serving(free_port()) as port:
        assert f"fetch: metrics and health at http://127.0.0.1:{port}" in caplog.text
        with socket.socket() as elsewhere:  # Another address of this machine is free on the same port.
            elsewhere.bind(("127.0.0.2", port))


def test_a_failed_refresh_does_not_break_a_scrape(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[str] = []

    def broken() -> None:
        raise RuntimeError("a secret")

    with serving(free_port(), refresh=[broken, lambda: asked.append("the next")]) as port:
        assert get(port, "/metrics").status_code == 200
    assert asked == ["the next"]
    assert "RuntimeError" in caplog.text
    assert "a secret" not in caplog.text


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("127.0.0.1:9191", True),
        ("[::1]:9191", True),
        ("10.0.0.5:9191", True),
        ("localhost:9191", True),
        ("fetch:9191", True),  # a service's name among containers
        (f"{socket.gethostname()}:9191", True),
        ("rebound.example.org:9191", False),
        ("127.0.0.1.example.org", False),
        ("localhost.example.org", False),
        ("", False),
        ("[::1", False),
    ],
)
def test_a_name_that_anyone_could_point_here_is_refused(host: str, known: bool) -> None:
    assert ops_server.knows(host) is known


def test_this_hosts_own_full_name_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda: "worker-1.example.org")
    ops_server._own_names.cache_clear()
    assert ops_server.knows("Worker-1.example.org:9191")
    assert not ops_server.knows("worker-2.example.org:9191")
    ops_server._own_names.cache_clear()


def test_a_foreign_host_name_gets_no_metrics() -> None:
    with serving(free_port()) as port:
        for path in ("/metrics", "/livez", "/readyz"):
            answer = get(port, path, Host="rebound.example.org")
            assert answer.status_code == 421
            assert metrics.PREFIX not in answer.text


def test_a_drip_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops_server, "LONGEST_CONNECTION", 0.0)
    with serving(free_port()) as port, peer(port) as drip:
        drip.sendall(b"GET / HTTP/1.1\r\n")
        assert drip.recv(1) == b""


@pytest.mark.parametrize("number_of_addresses", [1, 24])
@pytest.mark.parametrize("request_", [b"", b"GET /livez HTTP/1.1\r\nX: ", b"GET /metrics HTTP/1.1\r\n\r\n"])
def test_peers_that_neither_send_nor_read_shut_out_no_probe(request_: bytes, number_of_addresses: int) -> None:
    with serving(free_port()) as port, ExitStack() as held:
        # Given more peers than there are places, which send nothing, a drip, or read no answer
        for number in range(3 * ops_server.MAX_CONNECTIONS):
            client = held.enter_context(peer(port, f"127.0.0.{2 + number % number_of_addresses}"))
            client.sendall(request_)
            # Then each probe is answered,
            assert get(port, "/livez").status_code == 200
        # and the oldest of them lost their places.
        wait_for(
            lambda: "".join(each.name for each in threading.enumerate()).count(THREAD) <= ops_server.MAX_CONNECTIONS
        )


def test_scrapes_that_wait_for_each_other_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops_server, "MAX_SCRAPES", 1)
    # Given as many scrapes as may wait, which take long, for example because SQS does not answer
    begun, goes_on = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        goes_on.wait(60)

    with serving(free_port(), refresh=[slow]) as port, peer(port) as scrape:
        scrape.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert begun.wait(60)
        # When there is another, then it is refused at once, probes are answered,
        assert get(port, "/metrics").status_code == 503
        assert get(port, "/livez").ok
        # and the first ends.
        goes_on.set()
        assert b" 200 OK" in scrape.recv(100)


#: Part of the name of a thread that answers a request.
THREAD = "process_request_thread"


def peer(port: int | None, address: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port or 0), timeout=10, source_address=(address, 0))
