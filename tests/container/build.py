"""Builds the base from Debian's packages, and the image from the Dockerfile."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.container.podman import PODMAN, ROOT, limits, podman

IMAGE = "localhost/image-pipeline"

#: Stands for the image that the Dockerfile begins with, which a machine without a registry cannot get.
BASE = "localhost/image-pipeline-base"

#: The release of Debian that has the Python of the base.
SUITE = "trixie"
PACKAGES = "python3,python3-venv,ca-certificates"

#: Settings that pip may need to reach an index, and whether their value is a file.
PIP_SETTINGS = {
    **dict.fromkeys(["index-url", "extra-index-url", "trusted-host", "proxy", "default-timeout", "timeout"], False),
    "cert": True,
}


def build_base() -> None:
    """Make the base from Debian's packages, unless an earlier run has made it."""
    if subprocess.run([*PODMAN, "image", "exists", BASE], check=False, cwd=ROOT).returncode == 0:
        return
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "base.tar"
        options = ("--quiet", "--mode=root", "--variant=minbase", f"--include={PACKAGES}")
        subprocess.run(["mmdebstrap", *options, SUITE, archive], check=True)
        podman("import", "--quiet", archive, BASE)


def build_image() -> None:
    """Build the image of the service."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True)
    arguments = {"VERSION": version, "REVISION": revision.stdout.strip() or "unknown"}
    with pip_secrets() as secrets:
        podman(
            *("build", "--quiet", "--format=docker", "--pull=never", "--isolation=chroot", "--network=host"),
            *limits(),
            f"--from={BASE}",
            *(f"--secret=id={path.name},src={path}" for path in secrets),
            *(f"--build-arg={name}={value}" for name, value in arguments.items()),
            *("--tag", IMAGE, "."),
        )


@contextmanager
def pip_secrets() -> Iterator[list[Path]]:
    """Write what pip is configured with on this machine to files, for the build alone."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    found = {key: value for _, key, value in re.findall(r"^(global|:env:)\.([\w-]+)='(.*)'$", listed, re.MULTILINE)}
    with tempfile.TemporaryDirectory() as folder:
        config, certificates = Path(folder) / "pip.conf", Path(folder) / "pip.pem"
        lines = ["[global]"]
        for name, is_file in PIP_SETTINGS.items():
            if name in found and is_file:
                certificates.write_bytes(Path(found[name]).read_bytes())
                lines.append(f"{name} = /run/secrets/{certificates.name}")
            elif name in found:
                lines.append(f"{name} = {found[name]}")
        config.write_text("\n".join(lines), encoding="utf-8")
        yield [path for path in (config, certificates) if path.exists()]
