"""Makes small changes to the code and checks that the tests notice: `make mutants`.

The changes come from mutmut, but only its operators are used, not its runner. The runner keeps all mutants of a file
in the file itself and selects one by an environment variable. Child processes with their own environment (the sandbox)
never see that variable. The runner cannot draw samples either. Here each mutant is a file in a copy of the repository,
so every process that starts there has it.

First, all unit, simulation and integration tests run once, and the lines that each test reaches are recorded. The
record is kept in .mutants until a Python file changes. Then a seeded sample of each area's mutants is tried, one at a
time. The tests that reach the changed statement run, fastest first, until one fails. Functions without decorators and
class bodies are changed; module constants are not. The exit status is 1 if fewer than `--least` percent of the mutants
were killed.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from itertools import islice, zip_longest
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import coverage
import libcst as cst
from mutmut.mutation.file_mutation import Mutation, create_mutations, deep_replace

from tests.mutants.areas import AREAS, FILES, equivalents, is_left_out

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".mutants"
TESTS = ("tests/unit", "tests/simulation", "tests/integration")

#: Maximum test time in seconds per mutant, measured without the mutant, and the time after which a mutant hangs.
BUDGET = 120.0
LIMIT = 240
#: Timeout of one test in seconds: it kills a mutant that waits forever. Tests that take a third of it without a mutant
#: are left out, because they might take all of it on a busy machine.
TEST_TIMEOUT = 30


@dataclass
class Mutant:
    file: str
    line: int
    was: str
    becomes: str
    code: str = field(repr=False)  #: The whole file.
    verdict: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}\n      - {self.was}\n      + {self.becomes}"


def sample(area: str, number: int | None, seed: int) -> list[Mutant]:
    """Draw `number` mutants of an area, or return all; `tests.mutants.areas` leaves some out."""
    found = [(source, mutation) for source in map(Source, AREAS[area]) for mutation in source.mutations]
    random.Random(f"{seed} {area}").shuffle(found)
    return list(islice(filter(None, (source.mutant(mutation) for source, mutation in found)), number))


class Source:
    """A file and the changes that mutmut would make in it."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._code = (ROOT / file).read_text(encoding="utf-8")
        self._module, mutations, _, _ = create_mutations(file, self._code)
        self._parents: dict[cst.CSTNode, cst.CSTNode] = {}
        nodes: list[cst.CSTNode] = [self._module]
        for node in nodes:  # The list grows during the loop.
            self._parents |= dict.fromkeys(node.children, node)
            nodes += node.children
        self.mutations = [each for each in mutations if each.contained_by_top_level_function]

    def mutant(self, mutation: Mutation) -> Mutant | None:
        original, mutated = mutation.original_node, mutation.mutated_node
        if is_left_out(original, mutated, self._parents):
            return None
        code: str = deep_replace(self._module, original, mutated).code  # type: ignore[union-attr]
        pairs = enumerate(zip_longest(self._code.splitlines(), code.splitlines(), fillvalue=""), start=1)
        line, was, becomes = next((n, a.strip(), b.strip()) for n, (a, b) in pairs if a != b)
        known = (self._file, was, becomes) in equivalents()
        return None if known else Mutant(self._file, line, was, becomes, code)


class Reach:
    """Maps lines to the tests that reach them."""

    def __init__(self, lines: dict[str, dict[int, list[str]]], seconds: dict[str, float]) -> None:
        self._lines = lines
        self._seconds = {name: each for name, each in seconds.items() if each < TEST_TIMEOUT / 3}

    def tests(self, mutant: Mutant) -> list[str]:
        """Return the tests of a mutant's statement, or else of its function or file, fastest first."""
        lines = self._lines.get(mutant.file, {})
        for start, end in (*_places(mutant.file, mutant.line), (0, sys.maxsize)):
            found = {name for line in lines if start <= line <= end for name in lines[line]} & self._seconds.keys()
            if found:
                break
        chosen, left = [], BUDGET
        for name in sorted(found, key=lambda name: (self._seconds[name], name)):
            left -= self._seconds[name]
            if left < 0 and chosen:
                break
            chosen.append(name)
        return chosen


@cache
def _tree(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


def _places(file: str, line: int) -> list[tuple[int, int]]:
    """Find the statement around a line, without nested statements, and the function around it.

    Returns:
        The first and last lines of both. None outside a function and for a function's head, because these ran when some
        test imported the module.
    """
    around = [n for n in ast.walk(_tree(file)) if isinstance(n, ast.stmt) and n.lineno <= line <= (n.end_lineno or 0)]
    around.sort(key=lambda node: (node.end_lineno or 0) - node.lineno)
    function = next((node for node in around if isinstance(node, ast.FunctionDef)), None)
    if not function:
        return []
    statement, whole = around[0], (function.body[0].lineno, function.end_lineno or 0)
    if statement is function:
        return [whole]
    body = getattr(statement, "body", None)
    end = max(statement.lineno, body[0].lineno - 1) if body else statement.end_lineno or 0
    return [(statement.lineno, end), whole]


def reach(processes: int) -> Reach:
    """Run the tests without a mutant, or load the record of their last run on the same files."""
    names = ["pipeline/*.py", "actors/*.py", "tests/unit", "tests/integration", "tests/support"]
    files = subprocess.run(["git", "ls-files", "-z", *names], cwd=ROOT, capture_output=True, check=True).stdout
    contents = b"".join((ROOT / name).read_bytes() for name in files.decode().split("\0")[:-1])
    digest = hashlib.sha256(contents).hexdigest()[:16]
    kept = CACHE / f"reach-{digest}.json"
    if not kept.exists():
        shutil.rmtree(CACHE, ignore_errors=True)
        CACHE.mkdir()
        options = ["-p", "tests.mutants.reach", "-p", "no:randomly", "-q", "-n", str(processes), *TESTS]
        print("Recording which tests reach which lines: pytest", *options, flush=True)
        subprocess.run(
            [sys.executable, "-m", "pytest", *options],
            cwd=ROOT,
            check=False,
            env=os.environ | {"MUTANTS_REACH": str(CACHE)},
        )
        measured = coverage.Coverage(data_file=str(CACHE / "lines"), config_file=False)
        measured.combine([str(CACHE)])
        data = measured.get_data()
        lines = {file: data.contexts_by_lineno(str(ROOT / file)) for file in FILES}
        kept.write_text(json.dumps([lines, json.loads((CACHE / "tests.json").read_text())["seconds"]]))
    lines, seconds = json.loads(kept.read_text())
    return Reach({file: {int(n): names for n, names in each.items()} for file, each in lines.items()}, seconds)


def copy(folder: str) -> Path:
    """Copy the repository's files."""
    target = Path(folder)
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, files.decode().split("\0")):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)
    (target / ".venv").symlink_to(sys.prefix)
    return target


def run(copied: Path, tests: list[str]) -> str:
    """Run tests in a copy and return `survived`, `killed` or `hung`."""
    options = ["-q", "-x", "-n", "0", "-p", "no:randomly", "-p", "no:cacheprovider", "-o", f"timeout={TEST_TIMEOUT}"]
    child = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=copied,
        env=os.environ | {"PYTHONPATH": str(copied), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    for end in (None, signal.SIGINT, signal.SIGKILL):
        if end:
            os.killpg(child.pid, end)
        try:
            code = child.wait(10 if end else LIMIT)
            return "hung" if end else "killed" if code else "survived"
        except subprocess.TimeoutExpired:
            pass
    return "hung"


def judge(mutant: Mutant, reached: Reach, copies: SimpleQueue[Path]) -> None:
    """Apply a mutant, run its tests, and revert it."""
    tests, copied, began = reached.tests(mutant), copies.get(), time.monotonic()
    original = (copied / mutant.file).read_bytes()
    try:
        (copied / mutant.file).write_text(mutant.code, encoding="utf-8")
        mutant.verdict = run(copied, tests) if tests else "survived"
    finally:
        (copied / mutant.file).write_bytes(original)
        copies.put(copied)
    print(f"{mutant.verdict:8} {time.monotonic() - began:5.1f} s {len(tests):4} tests  {mutant}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000), help="of the sample (default: random)")
    parser.add_argument("--number", type=int, default=40, help="mutants per area (default: 40)")
    parser.add_argument("--all", action="store_true", help="try every mutant instead of a sample; takes hours")
    parser.add_argument("--area", action="append", choices=AREAS, help="only this area; can be repeated")
    parser.add_argument("--least", type=float, default=85, help="minimum percentage of killed mutants (default: 85)")
    parser.add_argument("--processes", type=int, default=2, help="mutants at a time (default: 2)")
    asked: Any = parser.parse_args()
    areas = asked.area or list(AREAS)
    print(
        f"seed {asked.seed}, {'all' if asked.all else asked.number} mutants in each of: {', '.join(areas)}", flush=True
    )
    reached = reach(asked.processes)
    found = {area: sample(area, None if asked.all else asked.number, asked.seed) for area in areas}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(asked.processes):
            copies.put(copy(f"{folder}/{number}"))
        with ThreadPoolExecutor(asked.processes) as pool:
            for mutants in found.values():
                list(pool.map(lambda mutant: judge(mutant, reached, copies), mutants))
    mutants = [mutant for area in areas for mutant in found[area]]
    survivors = [mutant for mutant in mutants if mutant.verdict == "survived"]
    print(f"\n{len(survivors)} survived:", *survivors, sep="\n  ")
    for area in [*areas, "all"]:
        verdicts = Counter(mutant.verdict for mutant in (found.get(area) or mutants))
        dead = verdicts["killed"] + verdicts["hung"]
        print(
            f"{area:14} {verdicts.total():5} mutants, {verdicts['hung']:3} hung, {dead / verdicts.total():6.1%} killed"
        )
    print(f"seed {asked.seed}: at least {asked.least:g} % must be killed.")
    return int(100 * dead < asked.least * len(mutants))


if __name__ == "__main__":
    sys.exit(main())
