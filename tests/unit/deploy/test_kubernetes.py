"""The manifests for Kubernetes, built as `kubectl apply -k` builds them, fit its schemas and the Procfile."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.unit.deploy.processes import ROOT, SECRETS, commands
from tests.unit.test_docs import rows_under

FOLDER = ROOT / "deploy/kubernetes"

#: The oldest release that is still maintained when this was written, and the newest whose schemas are known.
VERSIONS = ("1.33", kubernetes_validate.latest_version())


@pytest.fixture(scope="module")
def built() -> dict[tuple[str, str], dict[str, Any]]:
    """Every object by kind and name."""
    if not shutil.which("kustomize"):
        pytest.skip("kustomize is not installed")
    text = subprocess.run(["kustomize", "build", FOLDER], check=True, capture_output=True, text=True).stdout
    return {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(text)}


def quantity(text: str) -> float:
    """Read a quantity of Kubernetes, such as `500m` or `1Gi`."""
    number, unit = re.fullmatch(r"([\d.]+)(\w*)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"": 1, "m": 0.001, "Mi": 2**20, "Gi": 2**30}[unit]


def deployments(built: dict[tuple[str, str], dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        name.removeprefix("image-pipeline-"): each["spec"]
        for (kind, name), each in built.items()
        if kind == "Deployment"
    }


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", ["deployments", "autoscaling", "network-policies", "service-accounts"])
def test_each_file_fits_the_schemas_of_kubernetes(file: str, version: str) -> None:
    objects = list(yaml.safe_load_all((FOLDER / f"{file}.yml").read_text(encoding="utf-8")))
    assert objects
    for each in objects:
        if each["kind"] == "Deployment":
            each["spec"]["template"]["spec"]["containers"][0]["image"] = "of process.yml"
        kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_built_objects_fit_the_schemas_of_kubernetes(
    built: dict[tuple[str, str], dict[str, Any]], version: str
) -> None:
    for each in built.values():
        kubernetes_validate.validate(each, version, strict=True)


def test_a_wrong_field_does_not_fit(built: dict[tuple[str, str], dict[str, Any]]) -> None:
    wrong = built["Deployment", "image-pipeline-fetch"] | {"replicas": 1}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_there_is_a_deployment_for_each_process(built: dict[tuple[str, str], dict[str, Any]]) -> None:
    found = {}
    for name, spec in deployments(built).items():
        labels = {"app": "image-pipeline", "process": name}
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"] == labels
        (container,) = spec["template"]["spec"]["containers"]
        found[name] = container["command"]
    assert found == commands()


def test_each_process_is_hardened_probed_and_has_its_own_secrets(
    built: dict[tuple[str, str], dict[str, Any]],
) -> None:
    for name, spec in deployments(built).items():
        pod = spec["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"].startswith("registry.example.com/image-pipeline:")
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": 65534,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert (pod["automountServiceAccountToken"], pod.get("volumes")) == (False, None)
        paths = {probe: container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "liveness", "readiness")}
        assert paths == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
        secrets = {each["secretRef"]["name"] for each in container["envFrom"] if "secretRef" in each}
        assert secrets == {f"image-pipeline-{secret}" for secret in {"job-key", "job-log"} | SECRETS.get(name, set())}
        role = "image-pipeline-resize" if name == "giants" else f"image-pipeline-{name}"
        assert pod["serviceAccountName"] == role
        assert ("ServiceAccount", role) in built


def test_resize_is_scaled_and_only_resize_leaves_its_replicas_to_that(
    built: dict[tuple[str, str], dict[str, Any]],
) -> None:
    target = built["HorizontalPodAutoscaler", "image-pipeline-resize"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) in built
    assert {name for name, spec in deployments(built).items() if "replicas" not in spec} == {"resize"}


def test_the_sizes_are_those_of_the_deployment_guide(built: dict[tuple[str, str], dict[str, Any]]) -> None:
    documented = {
        process: re.search(r"([\d.]+) CPU.* ([\d.]+) GB", size).groups()  # type: ignore[union-attr]
        for process, _, size in rows_under("deploying.md", "Processes")
    }
    found = {}
    for name, spec in deployments(built).items():
        (container,) = spec["template"]["spec"]["containers"]
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert limits == {"memory": requests["memory"]}
        found[name] = (quantity(requests["cpu"]), quantity(requests["memory"]) / 2**30)
    assert found == {name: (float(cpu), float(memory)) for name, (cpu, memory) in documented.items()}


def test_the_secrets_are_those_of_the_deployment_guide() -> None:
    rows = [row for row in rows_under("deploying.md", "Kubernetes") if row[0].startswith("`image-pipeline-")]
    documented = {row[0].strip("`").removeprefix("image-pipeline-"): set(row[2].split(", ")) for row in rows}
    expected = {
        name: {process for process, names in SECRETS.items() if name in names} for name in ("postback", "mongo")
    }
    assert documented == {name: {"all"} for name in ("job-key", "job-log")} | expected
