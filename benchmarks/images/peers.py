"""Installs the peers in a folder that git ignores; normal use needs none of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE.parent / ".peers"

#: The Debian package with the photographs for the inputs.
PHOTOGRAPHS = "budgie-backgrounds"


class Peers:
    """The installed peers; `missing` names what the others lack."""

    def __init__(self) -> None:
        FOLDER.mkdir(exist_ok=True)
        self.missing: dict[str, str] = {}

    @cached_property
    def python(self) -> Path:
        """Return the Python that has pyvips and Wand; it also runs the measurements and the report."""
        python = FOLDER / "venv/bin/python"
        lock = HERE / "peers.lock"
        if not is_made(FOLDER / "venv", lock):
            run(sys.executable, "-m", "venv", "--clear", FOLDER / "venv")
            pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
            run(*pip, "install", "--require-hashes", "-r", lock)
            set_made(FOLDER / "venv", lock)
        return python

    @cached_property
    def node(self) -> str | None:
        """Return the Node that has sharp."""
        node, npm = shutil.which("node"), shutil.which("npm")
        if not node or not npm:
            self.missing["sharp"] = "it needs node and npm"
            return None
        lock, modules = HERE / "package-lock.json", FOLDER / "node_modules"
        if not is_made(modules, lock):
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / name, FOLDER)
            try:
                run(npm, "ci", "--no-audit", "--no-fund", "--silent", cwd=FOLDER)
            except subprocess.CalledProcessError:
                self.missing["sharp"] = "npm could not install it"
                return None
            set_made(modules, lock)
        return node

    @cached_property
    def has_imagemagick(self) -> bool:
        """Return whether Wand finds ImageMagick, which comes from the system."""
        if subprocess.run([self.python, "-c", "import wand.image"], capture_output=True, check=False).returncode:  # noqa: S603
            self.missing["ImageMagick"] = "apt-get install imagemagick"
            return False
        return True

    @cached_property
    def photographs(self) -> Path:
        """Return the folder of the photographs, from a Debian package that is unpacked but not installed."""
        unpacked = FOLDER / "photographs"
        if not unpacked.exists():
            if not shutil.which("apt-get"):
                raise SystemExit(f"The photographs come from Debian's package {PHOTOGRAPHS}: apt-get is needed.")
            run("apt-get", "download", "-qq", "--option", "APT::Sandbox::User=root", PHOTOGRAPHS, cwd=FOLDER)
            run("dpkg-deb", "--extract", next(FOLDER.glob(f"{PHOTOGRAPHS}_*.deb")), unpacked)
        return unpacked / "usr/share/backgrounds/budgie"

    @cached_property
    def sources(self) -> Path:
        """Return the folder of the inputs."""
        folder, script = FOLDER / "sources", HERE / "sources.py"
        if not is_made(folder, script):
            folder.mkdir(exist_ok=True)
            run(self.python, script, self.photographs, folder)
            set_made(folder, script)
        return folder


def run(*command: str | Path, cwd: Path | None = None) -> None:
    """Run a command; its output is for people."""
    subprocess.run(command, check=True, cwd=cwd, stdout=sys.stderr)  # noqa: S603


def is_made(folder: Path, *recipes: Path) -> bool:
    """Return whether `folder` was made from the current versions of these files."""
    mark = folder / ".made-of"
    return mark.exists() and mark.read_bytes() == _joined(recipes)


def set_made(folder: Path, *recipes: Path) -> None:
    """Record that `folder` is made from these files."""
    (folder / ".made-of").write_bytes(_joined(recipes))


def _joined(recipes: Iterable[Path]) -> bytes:
    return b"".join(recipe.read_bytes() for recipe in recipes)


#: One thread each, for every library that reads such a variable.
ONE_THREAD = dict.fromkeys(
    ("VIPS_CONCURRENCY", "UV_THREADPOOL_SIZE", "OMP_NUM_THREADS", "MAGICK_THREAD_LIMIT", "RAYON_NUM_THREADS"), "1"
)


def commands(peers: Peers) -> dict[str, list[str | Path]]:
    """Return the command of each available contender, by name."""
    script = HERE / "contenders.py"
    found: dict[str, list[str | Path]] = {"this project": [sys.executable, script]}
    if peers.node:
        found |= {name: [peers.node, HERE / "sharp.mjs"] for name in ("sharp", "sharp, size by size")}
    found |= {"pyvips": [peers.python, script], "Pillow": [sys.executable, script]}
    if peers.has_imagemagick:
        found["ImageMagick"] = [peers.python, script]
    return {name: [*command, name] for name, command in found.items()}


def environ() -> dict[str, str]:
    """Return the environment of the contenders."""
    return os.environ | ONE_THREAD | {"PEERS": str(FOLDER)}
