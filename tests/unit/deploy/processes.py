"""The commands that containers run, by process."""

from __future__ import annotations

from pathlib import Path

from honcho.environ import parse_procfile

ROOT = Path(__file__).parents[3]

#: The secrets of each process beyond JOB_KEY and JOBS_MONGO_URL, which all have, as docs/deploying.md lists them.
SECRETS = {
    "fetch": {"mongo"},
    "notify": {"postback", "mongo"},
    "quarantine": {"postback", "mongo"},
    "sweep": {"mongo"},
    "scheduler": {"mongo"},
}


def commands() -> dict[str, list[str]]:
    """Return the Procfile's commands without their variables; resize as one process, so that its port is known."""
    processes = parse_procfile((ROOT / "Procfile").read_text(encoding="utf-8")).processes
    texts = {name: command.partition("} ")[2] for name, command in processes.items()}
    texts["resize"] = texts["resize"].replace(" --threads", " --processes 1 --threads")
    return {name: text.split() for name, text in texts.items()}
