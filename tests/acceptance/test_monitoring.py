"""The metrics and health checks of the running service, as Prometheus and probes see them."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families as families
from prometheus_client.samples import Sample

from pipeline.clients import aws
from pipeline.local.embedded import EmbeddedStack
from tests.acceptance.conftest import BRIEF_INGEST, INGEST, PROCFILE, Service, World, running_service
from tests.acceptance.test_service import picture, unique, wait_for_post
from tests.support.waiting import wait_for
from tests.unit.monitoring.test_http_server import free_port

#: How many processes of each type serve metrics. The test scales fetch; resize has one process per core.
EXPECTED = {
    "fetch": 3,
    "resize": os.cpu_count() or 1,
    "giants": 1,
    "upload": 1,
    "notify": 1,
    "quarantine": 1,
    "sweep": 1,
    "ingest": 1,
    "scheduler": 1,
}


class Watch:
    """Reads the endpoints whose ports the processes log."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def ports(self) -> list[tuple[str, int]]:
        """Return the process types with their ports."""
        found = re.findall(r"(\w+): metrics and health at http://127\.0\.0\.1:(\d+)", self.service.log)
        return [(process, int(port)) for process, port in found]

    def get(self, port: int, path: str) -> requests.Response:
        return requests.get(f"http://127.0.0.1:{port}{path}", timeout=10)

    def of(self, process: str) -> int:
        return next(port for name, port in self.ports() if name == process)

    def samples(self, port: int) -> list[Sample]:
        return [sample for family in families(self.get(port, "/metrics").text) for sample in family.samples]

    def counts(self) -> Counts:
        """Return what all processes count now."""
        return Counts([sample for _, port in self.ports() for sample in self.samples(port)])


class Counts:
    """The metrics of all processes at one time."""

    def __init__(self, samples: list[Sample]) -> None:
        self._samples = samples

    def total(self, name: str, **labels: str) -> float:
        """Return a metric's sum over all processes and all series with these labels."""
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == f"image_pipeline_{name}" and labels.items() <= sample.labels.items()
        )


@pytest.fixture(scope="module")
def watch(acceptance_stack: EmbeddedStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    procfile = tmp_path_factory.mktemp("watched") / "Procfile"
    brief = PROCFILE.read_text().replace(" pipeline.actors", " pipeline.actors tests.support.brief_polls")
    procfile.write_text(brief.replace(INGEST, BRIEF_INGEST))
    port = str(free_port())
    with running_service(acceptance_stack, procfile, concurrency={"fetch": 3}, METRICS_PORT=port) as service:
        watch = Watch(service)
        wait_for(lambda: len(watch.ports()) == sum(EXPECTED.values()), timeout=60)
        wait_for(lambda: all(watch.get(port, "/readyz").ok for _, port in watch.ports()), timeout=60)
        yield watch


def test_every_process_has_its_own_port_and_names_itself(watch: Watch) -> None:
    ports = watch.ports()
    assert Counter(process for process, _ in ports) == EXPECTED
    assert len({port for _, port in ports}) == len(ports)
    for process, port in ports:
        (info,) = [each.labels for each in watch.samples(port) if each.name == "image_pipeline_process_info"]
        assert info["process"] == process
        if process in {"fetch", "resize", "upload", "notify"}:
            assert info["queues"] == f"{process},{process}_bulk"
        assert watch.get(port, "/livez").ok, process
        wait_for(lambda port=port: watch.get(port, "/readyz").ok, timeout=30)


def test_the_counts_match_the_jobs_that_were_sent(watch: Watch, world: World) -> None:
    # Given three covers, a missing cover, and an invalid input message
    service, hook = watch.service, unique("/hook")
    covers = {unique("/cover.png"): picture("PNG", size=(40 + place, 40)) for place in range(3)}
    for path, cover in covers.items():
        world.serve(path, cover)
    gone = world.url(unique("/gone.png"))
    before = watch.counts().total("fetched_bytes_total")
    for number, url in enumerate([*map(world.url, covers), gone]):
        service.send({"image_url": url, "bucket_name": "watched", "postback_url": world.url(f"{hook}/{number}")})
    aws.sqs().send_message(
        QueueUrl=service.environ["QUEUE_URL"], MessageBody="no JSON", MessageGroupId="1", MessageDeduplicationId="1"
    )
    for number in range(4):
        wait_for_post(world, f"{hook}/{number}")
    # When a cover is submitted again, through the input queue
    again = {"image_url": world.url(next(iter(covers))), "bucket_name": "watched", "postback_url": world.url(hook)}
    aws.sqs().send_message(
        QueueUrl=service.environ["QUEUE_URL"],
        MessageBody=json.dumps(again),
        MessageGroupId="1",
        MessageDeduplicationId="2",
    )
    wait_for_post(world, hook)
    assert watch.get(watch.of("ingest"), "/readyz").ok
    # Then every process has counted exactly its own work.
    expected = {
        ("jobs_total", "stage=ingest", "outcome=done"): 1,
        ("jobs_total", "stage=ingest", "outcome=rejected"): 1,
        ("jobs_total", "stage=fetch", "outcome=done"): 4,
        ("jobs_total", "stage=fetch", "outcome=given_up"): 1,
        ("jobs_total", "stage=resize", "outcome=done"): 3,
        ("jobs_total", "stage=upload", "outcome=done"): 3,
        ("jobs_total", "stage=notify", "outcome=done"): 5,
        ("jobs_total", "lane=bulk"): 0,
        ("jobs_total", "outcome=retry"): 0,
        ("errors_total", "stage=fetch", "code=http_404"): 1,
        ("errors_total", "stage=ingest", "code=not_json"): 1,
        ("errors_total",): 2,
        ("stage_seconds_count", "stage=resize", "lane=live"): 3,
        ("stage_seconds_bucket", "stage=resize", "le=+Inf"): 3,
        ("queue_wait_seconds_count", "stage=notify", "lane=live"): 5,
        ("job_seconds_count", "lane=live", "outcome=done"): 4,
        ("job_seconds_count", "lane=live", "outcome=source"): 1,
        ("unchanged_sources_total", "lane=live"): 1,
        ("stored_renditions_total",): 9,
        ("aws_requests_total", "operation=HeadObject", "result=missing"): 3,
        ("aws_requests_total", "operation=HeadObject", "result=ok"): 3,
        ("dead_letters", "stage=ingest"): 1,
        ("dead_letters", "stage=fetch"): 1,
    }

    def counted(counts: Counts) -> dict[tuple[str, ...], float]:
        return {
            (name, *labels): counts.total(name, **dict(label.split("=") for label in labels))
            for name, *labels in expected
        }

    wait_for(lambda: counted(watch.counts()) == expected, timeout=30)
    counts = watch.counts()
    fetched = sum(map(len, covers.values())) + len(next(iter(covers.values())))
    assert counts.total("fetched_bytes_total") - before == fetched
    assert counts.total("stored_bytes_total") > 0
    # A PUT for each rendition and each staged object. Each cover has two: the original and its renditions.
    assert counts.total("aws_requests_total", operation="PutObject", result="ok") == 9 + 2 * 3


def test_metrics_contain_no_url_and_no_secret(watch: Watch) -> None:
    for _, port in watch.ports():
        text = watch.get(port, "/metrics").text
        assert "://" not in re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
        assert watch.service.environ["POSTBACK_SECRET_KEY"] not in text
