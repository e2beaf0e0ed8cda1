"""The documents agree with the code, and the code with the drawing of the house."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from honcho.environ import parse_procfile
from pydantic import SecretStr
from typer.main import get_command

from pipeline.cli import app
from pipeline.provision import queue_specs
from pipeline.renditions import RenditionSize
from pipeline.settings import Settings, get_settings
from pipeline.stages import DEAD_LETTER_QUEUES, STAGES, SWEEP_QUEUES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
DEPLOYING = (ROOT / "docs/deploying.md").read_text(encoding="utf-8")
POLICIES = sorted(ROOT.glob("docs/iam/*.json"))
PROCESSES = ("fetch", "resize", "upload", "notify", "sweep", "ingest", "scheduler")

#: Every module: each imports only from lines above its own. What is in `pipeline.demo` is one module here.
ORDER = [
    "pipeline.ages",
    "pipeline.errors",
    "pipeline.renditions",
    "pipeline.schedule",
    "pipeline.settings",
    "pipeline.containers",
    "pipeline.colour",
    "pipeline.memory",
    "pipeline.codecs",
    "pipeline.openers",
    "pipeline.decoding",
    "pipeline.images",
    "pipeline.confined",
    "pipeline.stages",
    "pipeline.logs",
    "pipeline.iam",
    "pipeline.job",
    "pipeline.events",
    "pipeline.metrics",
    "pipeline.guard",
    "pipeline.clients",
    "pipeline.objects",
    "pipeline.queues",
    "pipeline.depths",
    "pipeline.wire",
    "pipeline.periodic",
    "pipeline.group_commit",
    "pipeline.plain_text",
    "pipeline.exchange",
    "pipeline.hosts",
    "pipeline.download",
    "pipeline.notifications",
    "pipeline.publish",
    "pipeline.staging",
    "pipeline.job_entries",
    "pipeline.job_stories",
    "pipeline.job_log",
    "pipeline.documents",
    "pipeline.runs",
    "pipeline.walk",
    "pipeline.trials",
    "pipeline.holds",
    "pipeline.consumer",
    "pipeline.sqs",
    "pipeline.lanes",
    "pipeline.middleware",
    "pipeline.traces",
    "pipeline.recording",
    "pipeline.health",
    "pipeline.ops_server",
    "pipeline.operations",
    "pipeline.broker",
    "actors",
    "actors.notify",
    "actors.upload",
    "actors.resize",
    "actors.fetch",
    "actors.sweeps",
    "pipeline.actors",
    "pipeline.inbox",
    "pipeline",
    "pipeline.ingest",
    "pipeline.provision",
    "pipeline.check_rows",
    "pipeline.check_trouble",
    "pipeline.check_settings",
    "pipeline.check_queues",
    "pipeline.check_objects",
    "pipeline.check_database",
    "pipeline.check",
    "pipeline.processes",
    "pipeline.embedded",
    "pipeline.standalone",
    "pipeline.sweeping",
    "pipeline.local",
    "pipeline.demo",
    "pipeline.submit",
    "pipeline.submit_report",
    "pipeline.check_commands",
    "pipeline.sweep_commands",
    "pipeline.status",
    "pipeline.status_view",
    "pipeline.status_command",
    "pipeline.letters",
    "pipeline.dead_queues",
    "pipeline.dead_letters",
    "pipeline.signals",
    "pipeline.dead_commands",
    "pipeline.dashboard",
    "pipeline.dashboard.words",
    "pipeline.dashboard.charts",
    "pipeline.dashboard.readings",
    "pipeline.dashboard.guards",
    "pipeline.dashboard.flow",
    "pipeline.dashboard.jobs",
    "pipeline.dashboard.causes",
    "pipeline.dashboard.sweeps",
    "pipeline.dashboard.pictures",
    "pipeline.dashboard.submissions",
    "pipeline.dashboard.redrives",
    "pipeline.dashboard.sources",
    "pipeline.dashboard.pages",
    "pipeline.dashboard.app",
    "pipeline.dashboard_command",
    "pipeline.cli",
    "pipeline.__main__",
]

#: What an adapter may import of other adapters; it may import any of the vocabulary, and `clients`.
ADAPTERS: dict[str, set[str]] = {
    "pipeline.guard": set(),
    "pipeline.exchange": {"pipeline.guard"},
    "pipeline.hosts": set(),
    "pipeline.download": {"pipeline.guard", "pipeline.exchange"},
    "pipeline.notifications": {"pipeline.guard", "pipeline.exchange"},
    "pipeline.publish": set(),
    "pipeline.staging": set(),
    "pipeline.documents": set(),
    "pipeline.runs": {"pipeline.documents"},
}


pytestmark = pytest.mark.usefixtures("no_variables")


def rows_under(heading: str) -> list[list[str]]:
    """The cells of the table below a heading of the README, without its two first lines."""
    section = re.split(r"^#+ ", README.split(f"\n## {heading}\n")[1], flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def codes_in(cell: str) -> list[str]:
    return [text.replace("\\|", "|") for text in re.findall(r"`([^`]+)`", cell)]


# The variables.


def as_written(value: object) -> str | None:
    """A setting's value as a person writes it in the environment; None for none."""
    if value is None or value == ():
        return None
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, RenditionSize):
        return value.name
    if isinstance(value, tuple):
        return ",".join(str(as_written(item)) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_the_readmes_variables_are_the_settings() -> None:
    documented: dict[str, str | None] = {}
    for names, defaults, meaning in rows_under("Variables"):
        assert meaning
        listed = codes_in(names)
        values: list[str | None] = [*codes_in(defaults)] or [None]
        assert len(values) in {1, len(listed)}, names
        for name, value in zip(listed, values * (len(listed) // len(values)), strict=True):
            assert name not in documented, f"{name} is documented twice"
            documented[name] = value
    defaults = {name.upper(): as_written(field.get_default()) for name, field in Settings.model_fields.items()}
    defaults["STAGING_URL"] = get_settings().staging.replace(get_settings().s3_bucket, "<S3_BUCKET>")
    assert documented == defaults


# The processes.


def test_the_procfile_has_a_process_for_each_stage_that_consumes_its_queues() -> None:
    commands = parse_procfile((ROOT / "Procfile").read_text(encoding="utf-8")).processes
    assert tuple(commands) == PROCESSES
    consumed = {name: tuple(command.partition(" --queues ")[2].split()) for name, command in commands.items()}
    expected = {stage.name: stage.queues for stage in STAGES} | {"sweep": SWEEP_QUEUES}
    assert consumed == dict.fromkeys(PROCESSES, ()) | expected
    assert commands["ingest"].endswith("image-pipeline ingest")
    assert commands["scheduler"].endswith("periodiq pipeline.actors")


def commands() -> dict[str, str]:
    """The Procfile's commands by process, without their variables."""
    processes = parse_procfile((ROOT / "Procfile").read_text(encoding="utf-8")).processes
    return {name: command.partition("} ")[2] for name, command in processes.items()}


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def test_the_guide_to_deploying_starts_what_the_procfile_starts() -> None:
    rows = [line.split("|") for line in DEPLOYING.splitlines() if line.startswith("|")][2:]
    assert {row[1].strip(): codes_in(row[2])[0] for row in rows} == commands()
    # In containers resize is one process, so that its port is known.
    started = commands() | {"resize": commands()["resize"].replace(" --threads", " --processes 1 --threads")}
    (task,) = [json.loads(block) for block in blocks("json", DEPLOYING)]
    assert " ".join(task["command"]) == started[task["name"]]
    assert "/livez" in task["healthCheck"]["command"][-1]
    (deployment,) = [yaml.safe_load(block) for block in blocks("yaml", DEPLOYING)]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert " ".join(container["command"]) == started[container["name"]]
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert deployment["spec"]["selector"]["matchLabels"] == deployment["spec"]["template"]["metadata"]["labels"]


def commands_in(text: str) -> list[tuple[list[str], set[str]]]:
    """Every `image-pipeline ...` in code: the words behind it, and the names of the options."""
    lines = re.findall(r"(?:^|`)(?:\S*/)?image-pipeline ([a-z][^`\n#|;]*)", text, flags=re.MULTILINE)
    split = [line.split() for line in lines]
    return [
        ([word for word in words if word[0] != "-"], {word for word in words if word[:2] == "--"}) for words in split
    ]


def test_the_documents_name_every_command() -> None:
    found = {words[0] for document in DOCUMENTS for words, _ in commands_in(document.read_text(encoding="utf-8"))}
    assert found == set(get_command(app).commands) - {"demo", "local"}  # theirs are `make demo` and `make run`


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_the_commands_of_the_documents_exist(document: Path) -> None:
    for words, options in commands_in(document.read_text(encoding="utf-8")):
        command: Any = get_command(app)
        written = f"{document.name}: image-pipeline {' '.join([*words, *options])}"
        for word in words:
            if not hasattr(command, "commands"):
                break  # the rest are arguments
            assert word in command.commands, written
            command = command.commands[word]
        assert options <= {name for option in command.params for name in option.opts}, written


def test_the_words_of_contributing_are_targets() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):.*## ", MAKEFILE, flags=re.MULTILINE))
    for document in DOCUMENTS:
        named = set(re.findall(r"`make ([a-z0-9-]+)", document.read_text(encoding="utf-8")))
        assert named <= targets, document.name


def test_pre_commit_fetches_nothing_and_runs_what_lint_runs() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repository["repo"] == "local"
    programs = {hook["entry"].split()[0] for hook in repository["hooks"]}
    assert programs == {".venv/bin/ruff", ".venv/bin/mypy"}


# The house.


def modules() -> dict[str, list[Path]]:
    """The files of each module."""
    found: dict[str, list[Path]] = {}
    for path in [*sorted(ROOT.glob("pipeline/**/*.py")), *sorted(ROOT.glob("actors/*.py"))]:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found.setdefault("pipeline.demo" if name.startswith("pipeline.demo") else name, []).append(path)
    return found


def imports_of(path: Path, known: set[str]) -> set[str]:
    """The modules of ours that a file imports, inside functions too, but for types only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    for_types = {id(inner) for node in guarded for inner in ast.walk(node)}
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in known else str(node.module) for name in full}
    ours = {name for name in names if name.partition(".")[0] in {"pipeline", "actors"}}
    return {"pipeline.demo" if name.startswith("pipeline.demo") else name for name in ours}


def test_imports_run_one_way() -> None:
    found = modules()
    assert set(found) == set(ORDER), "each module has its line in ORDER"
    for place, name in enumerate(ORDER):
        for path in found[name]:
            below = imports_of(path, set(ORDER)) - set(ORDER[:place]) - {name}
            assert not below, f"{path.relative_to(ROOT)} imports {', '.join(sorted(below))}, which is not above it"


def test_adapters_do_not_import_each_other() -> None:
    for name, allowed in ADAPTERS.items():
        (path,) = modules()[name]
        strange = (imports_of(path, set(ORDER)) & set(ADAPTERS)) - allowed
        assert not strange, f"{name} imports {', '.join(sorted(strange))}"


# The errors.

RAISED = {"PipelineError", "PermanentError", "RetryableError", "PutOff", "Rejected", "Reason"}
CODE = re.compile(r"[a-z][a-z0-9_]*")


def codes_raised() -> set[str]:
    """Every code that the service can give: the first argument of an error's class, and what is made of parts."""
    codes: set[str] = set()
    doors = {"cli.py", "submit.py", "standalone.py"}  # theirs are for the person at the terminal
    paths = [path for files in modules().values() for path in files if path.name not in doors]
    for node in (node for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))):
        parts: list[ast.expr] = []
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in RAISED or called == "super().__init__":
                parts = node.args[:1]
            elif called.endswith("aws_trouble") and isinstance(node.args[0], ast.Constant):
                codes.add(f"{node.args[0].value}_error")
        elif isinstance(node, ast.Tuple) and len(node.elts) > 1 and ast.unparse(node.elts[0]) in RAISED:
            parts = node.elts[1:2]
        elif isinstance(node, ast.JoinedStr) and ast.unparse(node).startswith("f'http_{"):
            codes.add("http_<status>")
        literals = [part.value for part in parts if isinstance(part, ast.Constant)]
        codes |= {text for text in literals if isinstance(text, str) and CODE.fullmatch(text)}
    return codes


def test_the_readmes_errors_are_those_of_the_code() -> None:
    rows = rows_under("Errors")
    assert {code for row in rows for code in codes_in(row[0])} == codes_raised()
    for row in rows:
        stages = set(row[1].split(", "))
        assert stages <= {"all", "ingest", *(stage.name for stage in STAGES)}, row


# The rest of the documents.


def test_relative_links_lead_somewhere() -> None:
    for document in DOCUMENTS:
        text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if target.startswith(("http://", "https://")):
                continue
            path, _, anchor = target.partition("#")
            linked = (document.parent / path) if path else document
            assert linked.exists(), f"{document.name} links to {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), flags=re.MULTILINE)
                anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in anchors, f"{document.name} links to {target}"


def test_examples_in_python_compile() -> None:
    examples = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    assert examples
    for example in examples:
        compile(example, "README.md", "exec")


def test_examples_in_json_parse() -> None:
    examples = [example for document in DOCUMENTS for example in blocks("json", document.read_text(encoding="utf-8"))]
    assert len(examples) >= 3
    for example in examples:
        json.loads(example)


def test_each_process_has_a_policy_that_names_what_exists() -> None:
    assert {path.stem for path in POLICIES} == {*PROCESSES, "provision", "producer", "operator", "dashboard"}
    theirs = {"ImageQueue.fifo", "ChannelImages", "EpisodeImages.fifo"}  # the customer's, for example
    patterns = {"*", "image-pipeline_*", "image-pipeline_submit_*"}
    queues = {spec.name for spec in queue_specs(get_settings())} | theirs | patterns
    bucket = "arn:aws:s3:::images-ch"
    objects = {bucket, f"{bucket}/images-resized/*", f"{bucket}/pipeline-staging/*"}
    for path in POLICIES:
        for statement in json.loads(path.read_text(encoding="utf-8"))["Statement"]:
            assert statement["Effect"] == "Allow"
            assert all(re.fullmatch(r"(sqs|s3):[A-Z][A-Za-z]+", action) for action in statement["Action"])
            resources = statement["Resource"]
            for resource in [resources] if isinstance(resources, str) else resources:
                known = resource.rpartition(":")[2] in queues if ":sqs:" in resource else resource in objects
                assert known, f"{path.name} names {resource}"


def test_an_operators_policy_allows_to_redrive_every_dead_letter_and_to_receive_nothing_else() -> None:
    statements = json.loads((ROOT / "docs/iam/operator.json").read_text(encoding="utf-8"))["Statement"]

    def queues_for(action: str) -> set[str]:
        found = [statement["Resource"] for statement in statements if action in statement["Action"]]
        names = {name for resource in found for name in ([resource] if isinstance(resource, str) else resource)}
        return {name.rpartition(":")[2].removeprefix("image-pipeline_") for name in names}

    dead = set(DEAD_LETTER_QUEUES.values())
    alive = {*(queue for stage in STAGES for queue in stage.queues), *SWEEP_QUEUES, "ImageQueue.fifo"}
    for action in ("ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility"):
        assert queues_for(f"sqs:{action}") == dead
    assert queues_for("sqs:SendMessage") == alive
    assert queues_for("sqs:GetQueueAttributes") == alive | dead


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stages_policy_allows_to_receive_from_its_queues_alone(stage) -> None:
    statements = json.loads((ROOT / f"docs/iam/{stage.name}.json").read_text(encoding="utf-8"))["Statement"]
    (consume,) = [statement for statement in statements if "sqs:ReceiveMessage" in statement["Action"]]
    names = {resource.rpartition(":")[2] for resource in consume["Resource"]}
    assert names == {f"image-pipeline_{queue}" for queue in stage.queues}
    assert {"sqs:GetQueueUrl", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"} < set(consume["Action"])
