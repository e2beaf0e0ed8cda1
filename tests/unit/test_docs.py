"""The documents agree with the code and with each other."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore import xform_name
from honcho.environ import parse_procfile
from pydantic import SecretStr
from typer.main import get_command

from pipeline.cli.app import LazyCommand, app
from pipeline.recipe import RenditionSize
from pipeline.settings import Settings, get_settings
from pipeline.stages import RESIZE, STAGES, SWEEP_QUEUES, Lane

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = sorted(ROOT.glob("docs/*.md"))
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *PAGES, ROOT / "benchmarks/README.md"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
DEPLOYING = ROOT / "docs/deploying.md"
PROCESSES = ("fetch", "resize", "giants", "upload", "notify", "quarantine", "sweep", "ingest", "scheduler")

pytestmark = pytest.mark.usefixtures("no_variables")


def rows_under(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the table below a heading of a page, without the table's head."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    section = re.split(r"^#+ ", text.split(f"\n## {heading}\n")[1], flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def codes_in(cell: str) -> list[str]:
    return [text.replace("\\|", "|") for text in re.findall(r"`([^`]+)`", cell)]


# The variables.


def as_written(value: object) -> str | None:
    """Return a setting's value as a person writes it in the environment, or None for none."""
    if value is None or value == ():
        return None
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, RenditionSize):
        return value.name
    if isinstance(value, tuple):
        return ",".join(str(as_written(item)) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_the_documented_variables_are_the_settings() -> None:
    documented: dict[str, str | None] = {}
    for names, defaults, meaning in rows_under("configuration.md", "Variables"):
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
    expected = {stage.name: tuple(stage.queue(lane) for lane in Lane) for stage in STAGES} | {"sweep": SWEEP_QUEUES}
    expected["quarantine"] = tuple(stage.quarantine_queue for stage in STAGES)
    expected["giants"] = tuple(RESIZE.queue(lane, giant=True) for lane in Lane)
    assert consumed == dict.fromkeys(PROCESSES, ()) | expected
    assert commands["ingest"].endswith("image-pipeline ingest")
    assert commands["scheduler"].endswith("periodiq pipeline.actors")


def commands() -> dict[str, str]:
    """Return the Procfile's commands by process, without their variables."""
    processes = parse_procfile((ROOT / "Procfile").read_text(encoding="utf-8")).processes
    return {name: command.partition("} ")[2] for name, command in processes.items()}


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def test_the_deployment_guide_starts_the_processes_of_the_procfile() -> None:
    rows = rows_under(DEPLOYING.name, "Processes")
    assert {row[0]: codes_in(row[1])[0] for row in rows} == commands()


def test_the_page_on_performance_has_the_threads_of_the_procfile() -> None:
    threads = {name: re.findall(r"--threads (\d+)", command) for name, command in commands().items()}
    rows = rows_under("performance.md", "The limits of each process")
    assert {codes_in(name)[0] for name, *_ in rows} == {*PROCESSES} - {"sweep", "scheduler"}
    for name, _, size, backlog in rows:
        expected = threads[codes_in(name)[0]]
        assert re.findall(r"(\d+) threads?\b", size) == expected, name
        assert re.findall(r"(\d+) threads?\b", backlog) in ([], expected), name


def test_the_page_on_performance_has_the_marks_between_which_the_benchmarks_write() -> None:
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    sources = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("benchmarks/*/*.py"))
    marks = {*re.findall(r'"(bench[a-z-]*)"', sources), *re.findall(r"<!-- (bench[a-z-]*) -->", sources)}
    assert marks == {"bench", "bench-images", "bench-paper", "bench-scale"}
    assert all(f"<!-- {mark} -->\n" in page and f"<!-- end of {mark} -->" in page for mark in marks)


def commands_in(text: str) -> list[tuple[list[str], set[str]]]:
    """Find every `image-pipeline ...` in code: its words, and the names of its options."""
    lines = re.findall(r"(?:^|`)(?:\S*/)?image-pipeline ([a-z][^`\n#|;]*)", text, flags=re.MULTILINE)
    split = [line.split() for line in lines]
    return [
        ([word for word in words if word[0] != "-"], {word for word in words if word[:2] == "--"}) for words in split
    ]


WITH_COMMANDS = {
    ROOT / "docs" / f"{name}.md"
    for name in ("dead-letters", "deploying", "messages", "monitoring", "operating", "sweeps")
}


def test_the_documents_name_every_command() -> None:
    found = {words[0] for document in DOCUMENTS for words, _ in commands_in(document.read_text(encoding="utf-8"))}
    assert found == set(get_command(app).commands)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_the_commands_of_the_documents_exist(document: Path) -> None:
    found = commands_in(document.read_text(encoding="utf-8"))
    assert found or document not in WITH_COMMANDS
    for words, options in found:
        command: Any = get_command(app)
        written = f"{document.name}: image-pipeline {' '.join([*words, *options])}"
        for word in words:
            if not hasattr(command, "commands"):
                break  # The rest are arguments.
            assert word in command.commands, written
            command = command.commands[word]
            command = command.load() if isinstance(command, LazyCommand) else command
        assert options <= {name for option in command.params for name in option.opts}, written


#: Options that are not named after parameters: the AWS CLI's own, and its name for the `Endpoint` of `sns subscribe`.
AWS_OPTIONS = {"cli-input-json", "endpoint-url", "notification-endpoint", "output", "query"}


def test_the_aws_commands_of_the_documents_exist() -> None:
    """The AWS CLI derives its commands from botocore's models."""
    session = botocore.session.Session()
    texts = [document.read_text(encoding="utf-8").replace("\\\n", "") for document in DOCUMENTS]
    found = [each for text in texts for each in re.findall(r"\baws ([a-z0-9-]+) ([a-z-]+)([^`\n]*)", text)]
    assert {service for service, _, _ in found} >= {"s3api", "sqs", "iam", "ec2", "cloudwatch", "ecs"}
    for service, name, rest in found:
        name_in_botocore = service.removesuffix("api")
        if name == "wait":
            waiters = session.get_waiter_model(name_in_botocore).waiter_names
            assert rest.split()[0] in {xform_name(waiter, "-") for waiter in waiters}, rest
            continue
        model = session.get_service_model(name_in_botocore)
        operations = {xform_name(operation, "-"): operation for operation in model.operation_names}
        parameters = model.operation_model(operations[name]).input_shape.members
        options = set(re.findall(r" --([a-z-]+)", rest)) - AWS_OPTIONS
        assert options <= {xform_name(parameter, "-") for parameter in parameters}, f"aws {service} {name}"


def test_the_words_of_contributing_are_targets() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):.*## ", MAKEFILE, flags=re.MULTILINE))
    named = {
        document.name: set(re.findall(r"`make ([a-z0-9-]+)", document.read_text(encoding="utf-8")))
        for document in DOCUMENTS
    }
    assert named["CONTRIBUTING.md"] >= {"run", "demo", "test", "lint", "docs"}
    assert {name: words - targets for name, words in named.items() if words - targets} == {}


def test_pre_commit_fetches_nothing_and_runs_the_tools_of_lint() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repository["repo"] == "local"
    programs = {hook["entry"].split()[0] for hook in repository["hooks"]}
    assert programs == {".venv/bin/ruff", ".venv/bin/mypy"}


# The promises.


def test_each_promise_of_the_security_page_has_its_test() -> None:
    defined = {
        node.name
        for path in ROOT.glob("tests/**/test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    rows = rows_under("security.md", "Promises")
    assert rows
    for promise, tests in rows:
        named = codes_in(tests)
        assert named, promise
        assert set(named) <= defined, promise


# The rest of the documents.


def prose(document: Path) -> str:
    """Return a document's text without its blocks of code."""
    return re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def links_of(document: Path) -> list[str]:
    """Return the relative targets of a document's links and images."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(document))
    return [target for target in targets if not target.startswith(("http://", "https://"))]


def anchors_of(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", prose(document), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document: Path) -> None:
    links = links_of(document)
    assert links or document.name == "CHANGELOG.md"
    for target in links:
        path, _, anchor = target.partition("#")
        linked = (document.parent / path) if path else document
        assert linked.is_file(), f"{document.name} links to {target}"
        assert not anchor or anchor in anchors_of(linked), f"{document.name} links to {target}"


def test_documents_link_to_pages_and_not_out_of_the_site() -> None:
    """A page of docs/ links to Markdown in docs/ alone: the site has no other pages."""
    for page in PAGES:
        for target in links_of(page):
            path = target.partition("#")[0]
            assert not path.endswith(".md") or "/" not in path, f"{page.name} links to {target}"


def test_the_paths_that_documents_name_exist() -> None:
    named = [
        (document, path)
        for document in DOCUMENTS
        for path in re.findall(
            r"`((?:pipeline|actors|tests|benchmarks|docs|deploy|requirements)/[a-zA-Z][\w./-]*)`", prose(document)
        )
    ]
    assert {path for _, path in named} >= {"pipeline/settings.py", "pipeline/net/guard.py"}
    for document, path in named:
        assert (ROOT / path).exists(), f"{document.name} names {path}"


def test_every_page_is_in_the_index_once_and_one_click_from_the_readme() -> None:
    pages = {page.name for page in PAGES} - {"index.md"}
    listed = [target for target in links_of(ROOT / "docs/index.md") if target.endswith(".md")]
    assert sorted(listed) == sorted(pages)
    assert {target.partition("#")[0] for target in links_of(README)} >= {f"docs/{name}" for name in pages}


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 180


def examples(language: str) -> list[tuple[Path, str]]:
    return [
        (document, block) for document in DOCUMENTS for block in blocks(language, document.read_text(encoding="utf-8"))
    ]


def test_examples_in_python_compile() -> None:
    assert {document.name for document, _ in examples("python")} >= {"README.md", "messages.md"}
    for document, example in examples("python"):
        compile(example, document.name, "exec")


def test_examples_in_json_parse() -> None:
    assert {document.name for document, _ in examples("json")} >= {"README.md", "messages.md"}
    for _, example in examples("json"):
        json.loads(example)
