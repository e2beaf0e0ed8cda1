"""Installs the decoders and the corpora in a folder that git ignores, from packages with pinned hashes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

HERE = Path(__file__).parent
FOLDER: Final = HERE.parents[2] / ".corpora"
#: The packages whose source distributions contain images.
CORPORA: Final = HERE / "corpora.txt"
#: The packages of the decoders.
DECODERS: Final = HERE / "decoders.lock"


def decoders() -> Path:
    """Return the Python that has the decoders."""
    venv = FOLDER / "decoders"
    python = venv / "bin/python"
    if not _is_made(venv, DECODERS):
        _run(sys.executable, "-m", "venv", "--clear", venv)
        _run(python, *_PIP, "install", "--require-hashes", "-r", DECODERS)
        _set_made(venv, DECODERS)
    return python


def images() -> Path:
    """Return the folder of the unpacked packages, each in a folder with its name."""
    folder = FOLDER / "files"
    if not _is_made(folder, CORPORA):
        shutil.rmtree(folder, ignore_errors=True)
        packages = FOLDER / "packages"
        names = re.findall(r"^([\w-]+)==", CORPORA.read_text(encoding="utf-8"), re.MULTILINE)
        # pip runs the packages' build tools for their names and versions. It builds nothing else.
        options = ["--no-deps", "--no-binary", ",".join(names), "--require-hashes", "--dest", packages]
        _run(sys.executable, *_PIP, "download", *options, "-r", CORPORA)
        for archive in sorted(packages.glob("*.tar.gz")):
            name = archive.name.rpartition("-")[0].replace("_", "-")
            if name in names:
                _unpack(archive, folder / name)
        _set_made(folder, CORPORA)
    return folder


_PIP: Final = ("-m", "pip", "--quiet", "--disable-pip-version-check")


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (top,) = folder.iterdir()  # NAME-VERSION
    for path in top.iterdir():
        path.rename(folder / path.name)
    top.rmdir()


def _is_made(folder: Path, lock: Path) -> bool:
    marker = folder / ".made"
    return marker.exists() and marker.read_bytes() == lock.read_bytes()


def _set_made(folder: Path, lock: Path) -> None:
    shutil.copy(lock, folder / ".made")
