"""Prints the task definition of one process, from tasks.json: `python3 deploy/ecs/render.py fetch`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def task_definition(process: str) -> dict[str, Any]:
    """Return the task definition that all processes share, with the parts of its own."""
    tasks = json.loads(Path(__file__).with_name("tasks.json").read_text(encoding="utf-8"))
    own, container = tasks["processes"][process], tasks["container"]
    container["logConfiguration"]["options"]["awslogs-stream-prefix"] = process
    secrets = [
        {"name": name, "valueFrom": tasks["secretsPrefix"] + name} for name in tasks["secretsOfAll"] + own["secrets"]
    ]
    return {
        **tasks["task"],
        "family": f"image-pipeline-{process}",
        "taskRoleArn": tasks["rolesPrefix"] + own.get("role", process),
        "cpu": own["cpu"],
        "memory": own["memory"],
        "containerDefinitions": [
            {**container, "name": process, "command": own["command"].split(), "secrets": secrets},
        ],
    }


if __name__ == "__main__":
    json.dump(task_definition(sys.argv[1]), sys.stdout, indent=2)
