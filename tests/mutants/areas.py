"""Lists the code that `make mutants` changes, and the changes that it leaves out."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

import libcst as cst

#: The files of each area. When a module moves, change its path here and in equivalent.toml.
AREAS: dict[str, tuple[str, ...]] = {
    "job": ("pipeline/job.py", "pipeline/payload.py", "pipeline/worker/proof.py"),
    "images": (
        "pipeline/recipe.py",
        "pipeline/images/render.py",
        "pipeline/images/fits.py",
        "pipeline/images/content_id.py",
        "pipeline/images/encoding.py",
        "pipeline/images/codecs.py",
        "pipeline/images/colour.py",
        *(
            f"pipeline/images/containers/{name}.py"
            for name in ("avif", "bitmap", "exif", "gif", "jpeg", "png", "tiff", "webp")
        ),
        "pipeline/images/identify.py",
        "pipeline/images/signatures.py",
        "pipeline/images/opening.py",
        "pipeline/images/decoding.py",
        "pipeline/images/sandbox.py",
        "pipeline/images/child_process.py",
    ),
    "storage": ("pipeline/storage/s3.py", "pipeline/storage/staging.py", "pipeline/storage/publish.py"),
    "notify": ("actors/notify.py", "pipeline/net/notifications.py", "pipeline/net/http_errors.py"),
    "queues": (
        *(
            f"pipeline/sqs/{name}.py"
            for name in (
                "backoff",
                "broker",
                "consumer",
                "in_hand",
                "leases",
                "looks",
                "loop",
                "middleware",
                "queues",
                "receiver",
                "sender",
                "settlement",
                "wire",
            )
        ),
        "pipeline/attempt.py",
        "pipeline/worker/failures.py",
        "pipeline/worker/retry.py",
        "pipeline/worker/ingest.py",
    ),
    "sweeps": (
        "pipeline/sweeps/sweep.py",
        "pipeline/sweeps/run_state.py",
        "pipeline/sweeps/documents.py",
        "pipeline/ops/sweeps.py",
        "actors/sweeps.py",
    ),
    "dead letters": (
        "pipeline/ops/dead_letters/dead_letter.py",
        "pipeline/ops/dead_letters/reader.py",
        "pipeline/ops/dead_letters/actions.py",
    ),
}

FILES = {file: area for area, files in AREAS.items() for file in files}

#: The reasons for mutants that no test can kill, by file, original line and mutated line.
_EQUIVALENT = Path(__file__).with_name("equivalent.toml")


@cache
def equivalents() -> dict[tuple[str, str, str], str]:
    """Load the reasons why mutants are equivalent to the code, by file, original line and mutated line."""
    entries = tomllib.loads(_EQUIVALENT.read_text(encoding="utf-8")).get("mutant", [])
    return {(entry["file"], entry["was"], entry["becomes"]): entry["why"] for entry in entries}


def is_left_out(original: cst.CSTNode, mutated: cst.CSTNode, parents: dict[cst.CSTNode, cst.CSTNode]) -> bool:
    """Return whether a mutation is not worth a test.

    Texts for people and logger arguments are left out, because tests compare codes. A text is a string that contains
    a space, together with its placeholders. So are `strict` of a `zip`, which only guards against our own mistakes,
    and the field names of C structures, which C reads by position.
    """
    if isinstance(original, cst.Call) and isinstance(mutated, cst.Call):
        kept = {id(argument.value) for argument in mutated.args}
        lost = [argument for argument in original.args if id(argument.value) not in kept]
        if lost and all(_is_prose(argument.value) or _is_strict(argument) for argument in lost):
            return True
    node = original
    while node in parents and not isinstance(node, cst.BaseSmallStatement | cst.BaseCompoundStatement):
        if _is_prose(node) or _is_strict(node) or _is_logging(node):
            return True
        node = parents[node]
    return isinstance(node, cst.Assign) and _code(node.targets[0].target) == "_fields_"


def _is_prose(node: cst.CSTNode) -> bool:
    is_text = isinstance(node, cst.SimpleString | cst.FormattedString | cst.ConcatenatedString)
    return is_text and " " in _code(node).strip()


def _is_strict(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.Arg) and node.keyword is not None and node.keyword.value == "strict"


def _is_logging(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.Call) and _code(node.func).startswith("logger.")


def _code(node: cst.CSTNode) -> str:
    return cst.Module([]).code_for_node(node)
