"""podman with a store of its own."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STORE = ROOT / ".data/containers"

#: runc also runs where both versions of cgroups are mounted, and its cgroups need no systemd.
PODMAN = (
    *("podman", f"--root={STORE / 'root'}", f"--runroot={STORE / 'run'}"),
    *("--runtime=runc", "--cgroup-manager=cgroupfs", "--events-backend=none"),
)


def limits() -> Iterator[str]:
    """Yield options with the limits of this process, because raising them may be forbidden."""
    for name, kind in {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}.items():
        soft, hard = resource.getrlimit(kind)
        yield f"--ulimit={name}={soft}:{hard}"


#: It still works with the first version of cgroups, and its warning would be in every log.
os.environ["PODMAN_IGNORE_CGROUPSV1_WARNING"] = "1"


def podman(*arguments: str | Path, errors: int | None = None) -> str:
    """Run podman, and return its output without the last line break.

    Args:
        arguments: Those of podman.
        errors: Where errors go, as in `subprocess.run`.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    command = [*PODMAN, *arguments]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, stderr=errors, text=True)
    return done.stdout.strip()


def inspect(name: str) -> dict[str, Any]:
    """Return what podman knows of a container or of an image."""
    (found,) = json.loads(podman("inspect", name))
    return dict(found)
