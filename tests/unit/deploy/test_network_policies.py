"""The network policies for Kubernetes agree with the Procfile and with the guard."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import yaml
from honcho.environ import parse_procfile

from pipeline.net.guard import NOT_PUBLIC

ROOT = Path(__file__).parents[3]
POLICIES = ROOT / "deploy/kubernetes/network-policies.yml"


def policies() -> dict[str, Any]:
    return {each["metadata"]["name"]: each["spec"] for each in yaml.safe_load_all(POLICIES.read_text(encoding="utf-8"))}


def blocks(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the address blocks that a policy lets its pods reach."""
    return [peer["ipBlock"] for rule in spec["egress"] for peer in rule["to"] if "ipBlock" in peer]


def test_every_process_is_restricted_and_only_three_reach_the_web() -> None:
    everyone, web = policies()["image-pipeline"], policies()["image-pipeline-web"]
    assert everyone["podSelector"] == {"matchLabels": {"app": "image-pipeline"}}
    assert everyone["policyTypes"] == ["Ingress", "Egress"]
    assert all(ip_network(block["cidr"]).is_private for block in blocks(everyone))
    (chosen,) = web["podSelector"]["matchExpressions"]
    assert set(chosen["values"]) == {"fetch", "notify", "quarantine"}
    assert set(chosen["values"]) < set(parse_procfile((ROOT / "Procfile").read_text()).processes)


def test_the_web_excludes_what_the_guard_refuses() -> None:
    for block in blocks(policies()["image-pipeline-web"]):
        whole, excepted = ip_network(block["cidr"]), [ip_network(text) for text in block["except"]]
        documentation = {"192.0.2.0/24", "192.88.99.0/24", "198.51.100.0/24", "203.0.113.0/24"}
        documentation |= {"2001:db8::/32", "3fff::/20"}  # nothing answers there
        refused = [each for each in NOT_PUBLIC if each.version == whole.version and each.subnet_of(whole)]
        assert {str(each) for each in refused} - documentation == {str(each) for each in excepted}
