"""Build the image, and run the demo with every process in a container: `make image`."""

from __future__ import annotations

import json
import shutil
import sys
import time

from packaging.requirements import Requirement
from rich.console import Console

from pipeline.local.demo.run import run
from pipeline.local.embedded import EmbeddedStackError
from tests.container import build, processes
from tests.container.build import BASE, IMAGE
from tests.container.podman import ROOT, STORE, inspect, limits, podman

TOOLS = ("podman", "runc", "mmdebstrap")

#: Only installing needs them, so the image does without.
LEFT_OUT = {"setuptools"}

SANDBOX = "from pipeline.images.sandbox import why_unfiltered; print(why_unfiltered() or 'filtered')"


def main() -> None:
    """Build, examine and use the image."""
    if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
        sys.exit(f"{', '.join(missing)} must be installed: apt-get install --no-install-recommends {' '.join(TOOLS)}")
    console = Console()
    started = time.monotonic()
    build.build_base()
    console.print(f"Base {BASE}: {_megabytes(BASE):.0f} MB, {time.monotonic() - started:.0f} s")
    started = time.monotonic()
    build.build_image()
    console.print(f"Image {IMAGE}: {_megabytes(IMAGE):.0f} MB with its base, {time.monotonic() - started:.0f} s")
    wrong = [*_wrong_contents(console), *_wrong_processes(console)]
    if wrong:
        sys.exit("\n".join(["The image does not keep its promises:", *wrong]))
    console.print("Every process works in a container, as a user without rights, with a read-only root.")


def _megabytes(image: str) -> float:
    return int(inspect(image)["Size"]) / 1_000_000


def _in_container(*command: str) -> str:
    return podman("run", "--rm", *processes.HARDENED, *limits(), IMAGE, *command)


def _wrong_contents(console: Console) -> list[str]:
    """Return each difference between the image and its promises: packages, sandbox and labels."""
    listed = json.loads(_in_container("cat", "/usr/share/doc/image-pipeline/sbom.cdx.json"))
    names = {each["name"].lower().replace("_", "-") for each in listed["components"]}
    locked = (ROOT / "requirements/base.lock").read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line.rstrip("\\ ")) for line in locked if line[:1].isalpha()]
    applying = {each.name for each in requirements if not each.marker or each.marker.evaluate()}
    console.print(f"SBOM: {len(names)} packages")
    wrong = [f"The SBOM lacks {name}" for name in sorted(applying - LEFT_OUT - names)]
    if (answer := _in_container("python", "-c", SANDBOX)) != "filtered":
        wrong.append(f"The sandbox has no filter of system calls: {answer}")
    labels = inspect(IMAGE)["Labels"]
    wrong += [
        f"The label {name} is empty"
        for name in ("version", "revision")
        if not labels[f"org.opencontainers.image.{name}"]
    ]
    return wrong


def _wrong_processes(console: Console) -> list[str]:
    """Run the demo in containers, and return each broken promise."""
    wrong: list[str] = []

    def examine() -> None:
        for process in processes.deployments():
            facts = processes.examine(process)
            wrong.extend(facts.wrong)
            console.print(
                f"  {process:<11} ready after {facts.seconds:4.1f} s, {facts.megabytes:4.0f} MB", highlight=False
            )

    try:
        procfile = processes.write_procfile(STORE)
        # A supervisor that loses its patience kills podman's clients, while the containers run on.
        folder, grace = ROOT / ".data/containers/demo", processes.grace()
        if not run(folder, console, procfile=procfile, when_ready=examine, stop_timeout=grace):
            wrong.append("Some outcomes of the demo's jobs are wrong")
    except EmbeddedStackError as error:
        wrong.append(str(error))
    finally:
        wrong += processes.endings()
    return wrong


if __name__ == "__main__":
    main()
