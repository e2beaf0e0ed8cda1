"""The metrics in docs/monitoring.md, the Grafana dashboard and the alert rules agree with the code."""

from __future__ import annotations

import itertools
import json
import logging
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from dramatiq import Worker
from dramatiq.brokers.stub import StubBroker
from prometheus_client.metrics import MetricWrapperBase

from pipeline import metrics
from pipeline.images import codecs
from pipeline.settings import Settings
from pipeline.worker.instrumentation import Instrumentation
from tests.unit.test_docs import PROCESSES, codes_in

ROOT = Path(__file__).parents[3]
MONITORING = (ROOT / "docs/monitoring.md").read_text(encoding="utf-8")
OPERATING = ROOT / "docs/operating.md"
RULES = ROOT / "deploy/prometheus/alerts.yml"
DASHBOARD = json.loads((ROOT / "deploy/grafana/image-pipeline.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

#: The address in alerts.yml that an operator replaces. Links in a notification have no page to be relative to.
RUNBOOKS = "https://image-pipeline.example/docs"

#: Metrics of the client library, with the labels that Prometheus adds.
FOREIGN = {"process_cpu_seconds_total": set(), "process_resident_memory_bytes": set()}
ADDED = {"instance", "job"}


def ours() -> dict[str, MetricWrapperBase]:
    """Return every metric by its name in a scrape, without the prefix."""
    found = {}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            suffix = "_total" if metric._type == "counter" else ""
            found[f"{metric._name}{suffix}".removeprefix(f"{metrics.PREFIX}_")] = metric
    return found


def series() -> dict[str, set[str]]:
    """Return the labels of every series that a scrape can contain, by its full name."""
    known: dict[str, set[str]] = dict(FOREIGN)
    for name, metric in ours().items():
        labels = set(metric._labelnames)
        if metric._type == "histogram":
            known |= {f"{metrics.PREFIX}_{name}_{suffix}": labels for suffix in ("sum", "count")}
            known[f"{metrics.PREFIX}_{name}_bucket"] = labels | {"le"}
        else:
            known[f"{metrics.PREFIX}_{name}"] = labels
    return known


def tables(heading: str) -> Iterator[list[str]]:
    """Return the rows of the tables below a second-level heading, by the lines above the tables."""
    section = re.split(r"^## ", MONITORING.split(f"\n## {heading}\n")[1], flags=re.MULTILINE)[0]
    lines = section.splitlines()
    for before, line in itertools.pairwise(lines):
        if line.startswith("|") and before.startswith("|") and not line.startswith("|-"):
            yield [cell.strip() for cell in line.split("|")[1:-1]]


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def check_query(query: str) -> None:
    """Check that a query can be parsed and uses existing metrics and labels."""
    known, labels = series(), set[str]()
    named: list[str] = []

    def visit(part: Any) -> None:
        if isinstance(part, promql_parser.VectorSelector):
            assert part.name in known, f"{part.name} does not exist: {query}"
            of_this = known[part.name] | ADDED
            for matcher in part.matchers.matchers:
                assert matcher.name in of_this, f"{part.name} has no label {matcher.name}"
            labels.update(of_this)
        elif isinstance(part, promql_parser.AggregateExpr) and part.modifier:
            named.extend(part.modifier.labels)
        elif isinstance(part, promql_parser.BinaryExpr) and part.modifier and part.modifier.matching:
            named.extend(part.modifier.matching.labels)

    promql_parser.walk(promql_parser.parse(query), visit)
    assert labels >= set(named), f"{set(named) - labels} are not labels in {query}"


# The documents.


def test_every_metric_is_documented_with_its_labels_and_every_documented_one_exists() -> None:
    documented: dict[str, tuple[str, tuple[str, ...]]] = {}
    for names, kind, labels, meaning in tables("Metrics"):
        assert meaning
        for name in codes_in(names):
            assert name not in documented, f"{name} is documented twice"
            documented[name] = (kind, tuple(codes_in(labels)))
    assert documented == {name: (metric._type, tuple(metric._labelnames)) for name, metric in ours().items()}


def test_names_follow_the_conventions() -> None:
    for name, metric in ours().items():
        assert re.fullmatch("[a-z][a-z_]*", name)
        assert not re.search("_(milliseconds|ms|minutes|kb|mb|kilobytes)(_|$)", name), "base units only"
        assert metric._documentation.endswith(".")
        if metric._type == "histogram":
            assert name.endswith("_seconds")


def test_every_alert_is_documented_and_every_documented_one_exists() -> None:
    documented = {codes_in(name)[0]: severity for name, severity, when in tables("Alerts") if when}
    assert documented == {rule["alert"]: rule["labels"]["severity"] for rule in alerts()}


# The alert rules.


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_uses_existing_metrics_and_has_a_hint(rule) -> None:
    check_query(rule["expr"])
    assert rule["labels"]["severity"] in {"critical", "warning"}
    annotations = rule["annotations"]
    assert re.fullmatch(rf"{re.escape(RUNBOOKS)}/operating\.md#[a-z0-9-]+", annotations["runbook_url"])
    assert annotations["summary"].endswith(".")
    shown = set(re.findall(r"\$labels\.(\w+)", annotations["summary"]))
    kept = {label for names in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in names.split(", ")}
    assert shown <= (kept or set().union(*series().values()) | ADDED), "it shows labels that the expression drops"


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_the_response_to_each_alert_is_documented(rule) -> None:
    text = OPERATING.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-"): heading for heading in headings}
    heading = anchors[rule["annotations"]["runbook_url"].partition("#")[2]]
    assert f"`{rule['alert']}`" in re.split(r"^#+ ", text.split(f" {heading}\n")[1], flags=re.MULTILINE)[0]


def test_one_command_sets_the_address_of_all_runbooks() -> None:
    text = RULES.read_text(encoding="utf-8")
    (command,) = re.findall(r"^# +sed -i 's#([^#]+)#([^#]+)#' alerts\.yml$", text, flags=re.MULTILINE)
    assert command[0] == RUNBOOKS
    assert f"sed -i 's#{command[0]}#{command[1]}#'" in MONITORING


def test_the_alert_about_processes_names_them_all() -> None:
    (rule,) = [rule for rule in alerts() if rule["alert"] == "ImagePipelineNoneReady"]
    assert tuple(re.findall(r'absent\(image_pipeline_ready{process="(\w+)"}\)', rule["expr"])) == PROCESSES


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize(
    "command",
    [
        ["check", "rules", "deploy/prometheus/alerts.yml"],
        ["check", "config", "deploy/prometheus/prometheus.yml"],
        ["test", "rules", "tests/unit/monitoring/alerts.test.yml"],
    ],
    ids=" ".join,
)
def test_promtool_accepts_the_rules_and_they_fire_when_they_should(command: list[str]) -> None:
    run = subprocess.run(["promtool", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_prometheus_loads_the_rules_next_to_its_configuration() -> None:
    path = ROOT / "deploy/prometheus/prometheus.yml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert [path.with_name(name) for name in config["rule_files"]] == [RULES]
    (job,) = config["scrape_configs"]
    assert job["static_configs"][0]["targets"][0] == "127.0.0.1:9191"


# The dashboard.


def expressions(panel: dict[str, Any]) -> list[str]:
    """Return the queries of a panel with values for the variables."""
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    values = {name: each.get("allValue") or each["current"].get("value") for name, each in variables.items()}
    values["__rate_interval"] = "1m"
    return [re.sub(r"\$(\w+)", lambda match: str(values[match[1]]), target["expr"]) for target in panel["targets"]]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_panels_query_existing_metrics(panel: dict[str, Any]) -> None:
    for query in expressions(panel):
        check_query(query)
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for target in panel["targets"]:
        assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert ("range" if panel["type"] == "timeseries" else "instant") in target
        kept = {label for names in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in names.split(", ")}
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= kept


def test_panels_do_not_overlap_and_have_unique_ids() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        left, top, width, height = (panel["gridPos"][name] for name in "xywh")
        assert left + width <= 24, panel["title"]
        cells = {(x, y) for x in range(left, left + width) for y in range(top, top + height)}
        assert not taken & cells, f"{panel['title']} covers another panel"
        taken |= cells


def test_the_dashboard_shows_every_metric_that_changes_over_time() -> None:
    shown = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])
    assert {name for name in ours() if f"{metrics.PREFIX}_{name}" not in shown} == {"live"}


@pytest.mark.parametrize(("queue", "is_said"), [("resize", True), ("resize_bulk", True), ("fetch", False)])
def test_a_resize_worker_logs_its_image_codecs(
    caplog: pytest.LogCaptureFixture, queue: str, is_said: bool, no_variables: None
) -> None:
    broker = StubBroker()
    with caplog.at_level(logging.INFO, "pipeline"):
        Instrumentation(Settings(metrics_port=0)).after_worker_boot(broker, Worker(broker, queues={queue}))
    expected = ", ".join(f"{work} by {library}" for work, library in codecs.fast_paths().items())
    assert (f"Images: {expected}" in caplog.text) is is_said
