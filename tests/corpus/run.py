"""Renders every file of a folder, and broken copies of it, in children with limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from tests.corpus.child import Child, ChildResult
from tests.corpus.mutate import mutated


@dataclass(frozen=True)
class Sample:
    """A file of the corpus or a broken copy. Its name is enough to reproduce it."""

    name: str
    path: Path
    seed: str = ""  #: seed of the copy; empty for the file itself

    def read(self) -> bytes:
        """Its bytes."""
        data = self.path.read_bytes()
        return mutated(data, self.seed) if self.seed else data


def samples(folder: Path, *, copies: int = 0, seed: int = 1) -> Iterator[Sample]:
    """Yield every file below a folder in the order of names, each followed by its broken copies."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        name = path.relative_to(folder).as_posix()
        yield Sample(name, path)
        for number in range(1, copies + 1):
            yield Sample(f"{name}#{number}", path, seed=f"{seed} {name} {number}")


def run(
    todo: Sequence[Sample], *, jobs: int = 2, make_child: Callable[[], Child] = Child
) -> Iterator[tuple[Sample, ChildResult]]:
    """Render the samples, `jobs` at a time; yields the results in order."""
    children = [make_child() for _ in range(jobs)]
    idle: SimpleQueue[Child] = SimpleQueue()
    for child in children:
        idle.put(child)

    def render(sample: Sample) -> ChildResult:
        child = idle.get()
        try:
            return child.render(sample.read())
        finally:
            idle.put(child)

    try:
        with ThreadPoolExecutor(jobs) as pool:
            yield from zip(todo, pool.map(render, todo), strict=True)
    finally:
        for child in children:
            child.close()
