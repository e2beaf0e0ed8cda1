"""Renders files with this project, has the renditions measured by the decoders, and judges the differences."""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final, NamedTuple

from pipeline.errors import PipelineError
from pipeline.images import sandbox
from pipeline.images.identify import READERS, identify
from pipeline.images.signatures import format_of
from pipeline.recipe import Recipe, RenditionSize
from pipeline.settings import get_settings

HERE = Path(__file__).parent
#: PSNR in decibels below which pictures differ. Equal pictures that two libraries resized have 25 or more.
THRESHOLD: Final = 22.0
#: The longest side in pixels that is compared.
SIDE: Final = 256
#: Codes of refusals by rules that docs/images.md lists. They need no explanation.
BY_RULE: Final = frozenset({"unsupported_format", "too_large"})


class Rendered(StrEnum):
    """Who rendered a file."""

    BOTH = "both"
    OURS = "this project only"
    THEIRS = "the decoders only"
    NONE = "nobody"


class Comparison(NamedTuple):
    """How a file was rendered."""

    name: str
    format: str
    decibels: float | None = None  #: if both rendered it
    code: str = ""  #: why this project refused it
    error: str = ""  #: why the decoders refused it

    @property
    def by(self) -> Rendered:
        """Who rendered it."""
        ours = Rendered.OURS if self.error else Rendered.BOTH
        return ours if not self.code else Rendered.NONE if self.error else Rendered.THEIRS

    @property
    def differs(self) -> bool:
        """Whether the pictures differ, or the file is called broken although it can be decoded."""
        if self.by is Rendered.THEIRS:
            return self.code not in BY_RULE
        return self.decibels is not None and self.decibels < THRESHOLD


class Explanation(NamedTuple):
    """Why files differ."""

    reason: str
    files: tuple[str, ...]  #: patterns of their names


def explanations() -> list[Explanation]:
    """Read explained.toml."""
    data = tomllib.loads((HERE / "explained.toml").read_text(encoding="utf-8"))
    return [Explanation(each["reason"], tuple(each["files"])) for each in data["difference"]]


def reason_for(name: str, known: Iterable[Explanation]) -> str:
    """Return why a file may differ; an empty string if nothing is known."""
    return next((each.reason for each in known if any(fnmatch(name, pattern) for pattern in each.files)), "")


def unexplained(results: Sequence[Comparison], known: Iterable[Explanation]) -> list[Comparison]:
    """Return the files that differ for no known reason, worst first."""
    known = list(known)
    found = [each for each in results if each.differs and not reason_for(each.name, known)]
    return sorted(found, key=lambda each: each.decibels or 0)


def stale(results: Sequence[Comparison], known: Iterable[Explanation]) -> list[str]:
    """Return the patterns of explanations that no differing file needs."""
    names = [each.name for each in results if each.differs]
    patterns = [pattern for each in known for pattern in each.files]
    return [pattern for pattern in patterns if not any(fnmatch(name, pattern) for name in names)]


def counts(results: Iterable[Comparison]) -> Counter[Rendered]:
    """Return the number of files by who rendered them."""
    return Counter(each.by for each in results)


def sources(folder: Path, pattern: str = "*") -> Iterator[tuple[str, Path]]:
    """Yield the name and path of each different file in an accepted format."""
    seen = set()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        name, data = path.relative_to(folder).as_posix(), path.read_bytes()
        if (
            fnmatch(name, pattern)
            and format_of(data) in READERS
            and (digest := hashlib.sha256(data).digest()) not in seen
        ):
            seen.add(digest)
            yield name, path


@dataclass
class Decoders:
    """A process of reference.py, started again if a file ends it."""

    python: Path
    _process: subprocess.Popen[str] | None = None

    def ask(self, **request: str) -> Mapping[str, Any]:
        """Send a request and return the answer."""
        if self._process is None:
            command = [self.python, "-P", HERE / "reference.py"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self._process = subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]
        process = self._process
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        if line := process.stdout.readline():
            return dict(json.loads(line))
        self._process = None
        return {"error": f"the decoder ended with status {process.wait()}"}

    def close(self) -> None:
        """End the process."""
        if self._process and self._process.stdin:
            self._process.stdin.close()
            self._process.wait()


class Comparer:
    """Compares files in threads: while one waits for the sandbox, another waits for its decoders."""

    def __init__(self, python: Path, pictures: Path, threads: int = 2) -> None:
        self._python, self._pictures, self._threads = python, pictures, threads
        self._local = threading.local()
        self._started: list[Decoders] = []
        pictures.mkdir(parents=True, exist_ok=True)

    def run(self, todo: Sequence[tuple[str, Path]]) -> Iterator[Comparison]:
        """Yield the result of each file in their order."""
        try:
            with ThreadPoolExecutor(self._threads) as pool:
                yield from pool.map(lambda each: self._compare(*each), todo)
        finally:
            for each in self._started:
                each.close()

    def picture(self, name: str) -> Path:
        """Return the PNG of a file: theirs and ours on white, then both on black."""
        return self._pictures / f"{name.replace('/', '__')}.png"

    def _decoders(self) -> Decoders:
        if not hasattr(self._local, "decoders"):
            self._local.decoders = Decoders(self._python)
            self._started.append(self._local.decoders)
        decoders: Decoders = self._local.decoders
        return decoders

    def _compare(self, name: str, path: Path) -> Comparison:
        data = path.read_bytes()
        found = Comparison(name, format_of(data) or "")
        size = self._decoders().ask(source=str(path))
        made = _rendered(data, size.get("size", (SIDE, SIDE)))
        if isinstance(made, str) or "error" in size:
            return found._replace(code=made if isinstance(made, str) else "", error=size.get("error", ""))
        rendition = self._pictures / f"rendition-{threading.get_ident()}"
        rendition.write_bytes(made)
        picture = self.picture(name)
        measured = self._decoders().ask(source=str(path), rendition=str(rendition), picture=str(picture))
        rendition.unlink()
        return found._replace(decibels=measured.get("decibels"), error=measured.get("error", ""))


def _rendered(source: bytes, size: tuple[int, int]) -> bytes | str:
    """Render as fetch and resize do, without cropping; returns the rendition or the code of an error."""
    scale = min(1.0, SIDE / max(size))
    width, height = (max(1, round(side * scale)) for side in size)
    rendition = RenditionSize(f"{width}x{height}", width, height)
    settings = get_settings()
    limits = {"max_pixels": settings.max_source_pixels, "max_decoded_pixels": settings.max_decoded_pixels}
    try:
        identify(source, max_pixels=settings.max_source_pixels)
        return sandbox.render(source, Recipe((rendition,), "fill"), **limits)[rendition.name]
    except PipelineError as error:
        return error.code
