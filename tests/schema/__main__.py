"""Checks docs/schema with the official tools, and generates types by the commands of docs/postbacks.md.

`make schema-check` installs the tools: those of Python in the folder `bin` that is passed, and npm's in the folder that
contains `node_modules`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SCHEMAS = ROOT / "docs/schema"


def commands() -> list[str]:
    """Return the commands of the section on types, without the installation."""
    text = (ROOT / "docs/postbacks.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^## Types for a receiver$.*?^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    found = [line for line in block.splitlines() if line.startswith(("datamodel-codegen", "npx"))]
    if {line.split()[0] for line in found} != {"datamodel-codegen", "npx"}:
        sys.exit("docs/postbacks.md does not generate types for both languages")
    return found


def main(binaries: Path, node: Path) -> None:
    """Check the documents, then use them as a receiver would, in a temporary folder below `node`."""
    shutil.copy(HERE / "check.mjs", node)
    with tempfile.TemporaryDirectory(dir=node) as name:
        folder = Path(name)
        path = os.pathsep.join(map(str, (binaries, node / "node_modules/.bin", os.environ["PATH"])))

        def run(*command: str | Path) -> None:
            subprocess.run(command, cwd=folder, check=True, env={**os.environ, "PATH": path})

        run("node", node / "check.mjs", SCHEMAS)
        for example in (SCHEMAS / "postback.json", HERE / "receiver.py", HERE / "receiver.ts"):
            shutil.copy(example, folder)
        for command in commands():
            run("/bin/sh", "-c", command)
        run(sys.executable, "-m", "mypy", "--strict", "--config-file=", "receiver.py")
        run("tsc", "--noEmit", "--strict", "--skipLibCheck", "receiver.ts")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
