"""compose.yaml fits its schema, the Procfile, and the files that it mounts."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values

from pipeline.settings import Settings
from tests.unit.deploy.processes import ROOT, commands

FILE = ROOT / "compose.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SERVERS = ROOT / "deploy/compose/servers.env"


def test_it_fits_the_schema() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", FILE]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_it_starts_each_process_and_nothing_else_without_a_profile() -> None:
    assert {name: each["command"] for name, each in SERVICES.items() if "profiles" not in each} == commands()
    assert {profile for each in SERVICES.values() for profile in each.get("profiles", [])} == {
        *("servers", "monitoring", "dashboard")
    }


def test_every_container_of_ours_is_hardened() -> None:
    stages = re.findall(r"^FROM .* AS (\S+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    for name, service in SERVICES.items():
        assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
        if "build" in service:
            assert service["read_only"], name
            assert service["build"]["target"] in stages


def test_only_this_host_reaches_its_ports() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_mounted_files_exist() -> None:
    volumes = [volume.split(":") for service in SERVICES.values() for volume in service.get("volumes", [])]
    mounted = [source for source, *_ in volumes if source.startswith(".")]
    assert mounted
    assert [source for source in mounted if not (ROOT / source).is_file()] == []


def test_the_variables_of_the_stand_ins_are_valid_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    values = dict(dotenv_values(SERVERS))
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value or "")
    settings = Settings()
    assert {str(settings.aws_endpoint_url), str(settings.aws_endpoint_url_sqs)} >= {values["AWS_ENDPOINT_URL"]}
    assert values["SETTINGS"] == str(SERVERS.relative_to(ROOT))


def test_prometheus_scrapes_each_process_with_the_alerts(tmp_path: Any) -> None:
    config = yaml.safe_load((ROOT / "deploy/compose/prometheus.yml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    assert (job["job_name"], found["names"], found["port"]) == ("image-pipeline", [*commands()], 9191)
    if shutil.which("promtool"):
        for path in ("deploy/compose/prometheus.yml", "deploy/prometheus/alerts.yml"):
            shutil.copy(ROOT / path, tmp_path)
        subprocess.run(["promtool", "check", "config", tmp_path / "prometheus.yml"], check=True, capture_output=True)


def test_grafana_finds_its_data_source_and_the_dashboard() -> None:
    (source,) = yaml.safe_load((ROOT / "deploy/compose/grafana/datasources.yml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    (provider,) = yaml.safe_load((ROOT / "deploy/compose/grafana/dashboards.yml").read_text())["providers"]
    folder = provider["options"]["path"]
    assert f"./deploy/grafana/image-pipeline.json:{folder}/image-pipeline.json:ro" in SERVICES["grafana"]["volumes"]
