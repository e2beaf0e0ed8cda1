"""Proves that a built wheel works in a fresh environment: `make smoke`."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

from pipeline.local.embedded import SERVERS
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "actors")

#: Runs in the fresh environment, which cannot import anything from the checkout.
PROGRAM = """
import io
from PIL import Image
import pipeline, pipeline.actors
from pipeline.images import codecs, sandbox
from pipeline.recipe import Recipe
assert "site-packages" in pipeline.__file__, pipeline.__file__
for name in ("PNG", "WEBP", "JPEG", "AVIF"):
    source = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(source, name)
    recipe = Recipe.decode({"renditions": ["50x50", "250X250"], "fit": "cover"})
    made = sandbox.render(source.getvalue(), recipe, max_pixels=10**6, max_decoded_pixels=10**6)
    assert Image.open(io.BytesIO(made["250X250"])).size == (250, 250)
print(", ".join(f"{work} by {library}" for work, library in codecs.fast_paths().items()))
"""


ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run a command without our environment variables and return its output."""
    environment = ENVIRONMENT | variables
    done = subprocess.run(command, cwd=cwd, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def files() -> set[str]:
    """Return all files of our packages."""
    found = {path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()}
    return {str(path.relative_to(ROOT)) for path in found if "__pycache__" not in path.parts}


def build(folder: Path) -> Path:
    """Build the wheel from a copy, because files of an earlier build would be packed again."""
    copy = folder / "copy"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, copy, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def refuses(program: Path, cwd: Path) -> None:
    """Check that the commands that need the embedded servers say in one line how to install them."""
    for command in ("demo", "local"):
        done = subprocess.run((program, command), cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        lines = done.stderr.strip().splitlines()
        if done.returncode != 2 or len(lines) != 1 or not all(name in lines[0] for name in SERVERS):
            sys.exit(f"image-pipeline {command} does not name the servers that it needs, but prints: {done.stderr}")


def serves(program: Path, cwd: Path) -> str:
    """Run `local`; check it and send a cover through it, ingest included. Returns the status of the cover's job."""
    env_file, log = cwd / ".data/local.env", cwd / "local.log"
    with log.open("w") as output:
        service = subprocess.Popen((program, "local"), cwd=cwd, env=ENVIRONMENT, stdout=output, stderr=output)
    try:
        cover = wait_for(lambda: re.search(r"submit --wait (\S+)", log.read_text()), timeout=120)[1]
        pairs = (line.split("=", 1) for line in env_file.read_text().splitlines())
        variables = {name: value.strip("'") for name, value in pairs}
        run(program, "check", cwd=cwd, **variables)
        lines = run(program, "submit", "--wait", "--json", cover, cwd=cwd, **variables).splitlines()
        result = json.loads(lines[-1])
        if set(result["result"]["image_url_info"]) != {"50x50", "250X250", "800x800"}:
            sys.exit(f"the service of the wheel answers {result}")
        return str(result["status"])
    except BaseException:
        print(log.read_text(), file=sys.stderr)  # noqa: T201
        raise
    finally:
        service.send_signal(signal.SIGINT)
        service.wait(60)


def main() -> None:
    """Build, inspect, install and use the wheel."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build(folder)
        packed = set(zipfile.ZipFile(wheel).namelist())
        if missing := files() - packed:
            sys.exit(f"not in the wheel: {', '.join(sorted(missing))}")
        venv.create(folder / "venv", with_pip=True)
        binaries = folder / "venv/bin"
        install = (binaries / "python", "-m", "pip", "--disable-pip-version-check", "--quiet", "install")
        run(*install, "--require-hashes", "-r", ROOT / "requirements/base.lock", cwd=folder)
        run(*install, "--no-deps", wheel, cwd=folder)
        run(binaries / "python", "-m", "pip", "check", cwd=folder)
        if "sweep" not in run(binaries / "image-pipeline", "--help", cwd=folder):
            sys.exit("image-pipeline --help does not name its commands")
        fast = run(binaries / "python", "-c", PROGRAM, cwd=folder).strip()
        refuses(binaries / "image-pipeline", folder)
        (folder / "venv/servers").symlink_to(Path(sys.prefix) / "servers")
        status = serves(binaries / "image-pipeline", folder)
        python = ".".join(map(str, sys.version_info[:3]))
        print(f"{wheel.name} works on Python {python}: {len(files())} files, {fast}; a cover is {status}")  # noqa: T201


if __name__ == "__main__":
    main()
