"""Each process in a container of its own, as its manifest for Kubernetes starts it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from pipeline.local.demo.board import READY
from pipeline.local.supervisor import command_line
from pipeline.settings import Settings
from tests.container.build import IMAGE
from tests.container.podman import PODMAN, ROOT, inspect, limits, podman

DEPLOYMENTS = ROOT / "deploy/kubernetes/deployments.yml"
PROCESS = ROOT / "deploy/kubernetes/process.yml"

#: The containers share the network of this machine, so each gets ports of its own for metrics and health.
FIRST_PORT, PORTS = 21_000, 100

#: No file is writable but shared memory, which Python's locks between processes need.
HARDENED = (
    *("--read-only", "--read-only-tmpfs=false", "--tmpfs=/dev/shm", "--cap-drop=all"),
    *("--security-opt=no-new-privileges", "--network=host", "--http-proxy=false"),
)

NOBODY = "65534"

#: The folders of file systems that hold no files.
KERNELS = ("/proc", "/dev", "/sys")


@dataclass(frozen=True)
class Facts:
    """The findings about a running container."""

    seconds: float  #: from its creation until the process was ready
    megabytes: float  #: resident memory of all its processes
    wrong: tuple[str, ...]


def deployments() -> dict[str, dict[str, Any]]:
    """Return the container of each Deployment, by process."""
    found = {}
    for each in yaml.safe_load_all(DEPLOYMENTS.read_text(encoding="utf-8")):
        template = each["spec"]["template"]
        (found[template["metadata"]["labels"]["process"]],) = template["spec"]["containers"]
    return found


def grace() -> float:
    """Return the seconds between SIGTERM and SIGKILL of each Deployment."""
    pod = yaml.safe_load(PROCESS.read_text(encoding="utf-8"))["spec"]["template"]["spec"]
    return float(pod["terminationGracePeriodSeconds"])


def write_procfile(folder: Path) -> Path:
    """Write a Procfile whose processes are containers, and return its path."""
    names = [name.upper() for name in Settings.model_fields]
    variables = [f"--env={name}" for name in [*names, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]]
    lines = []
    for index, (process, container) in enumerate(deployments().items()):
        memory = container["resources"]["limits"]["memory"].removesuffix("i").lower()
        options = (f"--name={process}", "--replace", f"--memory={memory}", *HARDENED, *limits(), *variables)
        own = (f"--env=METRICS_PORT={FIRST_PORT + PORTS * index}", "--env=METRICS_HOST=127.0.0.1")
        run = command_line(*PODMAN, "run", *options, *own, IMAGE, *container["command"])
        lines.append(f"{process}: {run}\n")
    path = folder / "Procfile.containers"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def examine(process: str) -> Facts:
    """Examine the running container of a process."""
    about = inspect(process)
    return Facts(_start(process, about), _memory(process), tuple(_wrong(process, about)))


def _start(process: str, about: dict[str, Any]) -> float:
    lines = podman("logs", "--timestamps", process, errors=subprocess.STDOUT).splitlines()
    ready = next(line.split()[0] for line in lines if READY.search(line))
    return (datetime.fromisoformat(ready) - datetime.fromisoformat(about["Created"])).total_seconds()


def _pids(process: str) -> list[int]:
    return [int(pid) for pid in podman("top", process, "hpid").split()[1:]]


def _memory(process: str) -> float:
    total = 0
    for pid in _pids(process):
        with suppress(FileNotFoundError):
            status = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
            total += int(re.search(r"^Pss:\s+(\d+)", status, re.MULTILINE)[1])  # type: ignore[index]
    return total / 1000


def _wrong(process: str, about: dict[str, Any]) -> Iterator[str]:
    """Yield each difference between the kernel's view of the container and the hardening that is promised."""
    for pid in _pids(process):
        try:
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        except FileNotFoundError:
            continue
        program = f"{process}: {status['Name']} ({pid})"
        if set(status["Uid"].split()) != {NOBODY}:
            yield f"{program} runs as user {status['Uid']}"
        if int(status["CapEff"], 16) or int(status["CapBnd"], 16):
            yield f"{program} has capabilities {status['CapEff']}, and may gain {status['CapBnd']}"
        if (status["NoNewPrivs"], status["Seccomp"]) != ("1", "2"):
            yield f"{program} may gain privileges, or its system calls are not filtered"
        writable = {line.split()[4] for line in mounts if "rw" in line.split()[5].split(",")}
        if unexpected := [path for path in sorted(writable) if not path.startswith(KERNELS)]:
            yield f"{program} may write to {', '.join(unexpected)}"
    if about["RestartCount"]:
        yield f"{process} was restarted {about['RestartCount']} times"
    try:
        podman("healthcheck", "run", process)
    except subprocess.CalledProcessError:
        yield f"{process} is not healthy"


def endings() -> Iterator[str]:
    """Yield each container that did not end by itself after SIGTERM, and remove all."""
    for each in json.loads(podman("ps", "--all", "--format=json")):
        (name,) = each["Names"]
        if each["State"] != "exited" or each["ExitCode"]:
            yield f"{name} is {each['State']}, with status {each['ExitCode']}, after it was asked to stop"
    podman("rm", "--all", "--force", "--time=0")
