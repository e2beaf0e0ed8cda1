"""Compares swept documents with the expected outcomes; each difference is a sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

from pipeline.local.demo import comparison
from pipeline.local.demo.jobs import ExpectedFailure
from pipeline.local.demo.samples import Sample
from pipeline.local.demo.sweeps import DemoDocument, flat
from pipeline.ops.dead_letters.letter import DeadLetter
from pipeline.ops.sweeps import Progress
from pipeline.settings import Settings
from pipeline.sweeps.documents import SWEPT


def differences(
    documents: Sequence[DemoDocument],
    progress: Mapping[str, Progress],
    letters: MutableMapping[str, DeadLetter],
    has_run: Callable[[str], bool],
    settings: Settings,
) -> Iterator[str]:
    """Yield the differences of documents, runs and jobs.

    Args:
        documents: The swept documents.
        progress: The progress of the runs by collection.
        letters: Dead letters by job id; those of the documents' jobs are removed.
        has_run: Returns whether there was a job with an id.
        settings: The settings of the demo.
    """
    for document in documents:
        for difference in (*document_differences(document), *_stored_differences(document, settings)):
            yield f"{document.title}: {difference}"
    yield from _run_differences(documents, progress)
    for _, group in groupby(documents, key=lambda each: (each.swept.name, each.folder, each.urls)):
        sharing = list(group)
        jobs = [each.job_id for each in sharing if has_run(each.job_id)]
        titles = ", ".join(each.title for each in sharing)
        if len(jobs) != bool(sharing[0].expected):
            yield f"{titles}: there were {len(jobs)} jobs"
        for job_id in jobs:
            for difference in comparison.letter_differences(sharing[0].expected, letters.pop(job_id, None)):
                yield f"{titles}: {difference}"


def document_differences(document: DemoDocument) -> Iterator[str]:
    """Yield the differences of a document after its sweep, except for its stored images."""
    after, wanted = flat(document.after), _wanted(document)
    failures = {name: outcome for name, outcome in document.expected.items() if isinstance(outcome, ExpectedFailure)}
    detail = after.pop("metadata.error_detail", None)
    if not _matches(detail or {}, failures):
        yield f"its metadata.error_detail is {detail}"
    for name in set(document.expected) - set(failures):
        after.pop(f"{name}_extra_images", None)
    for name in dict.fromkeys([*wanted, *after]):
        if wanted.get(name) != after.get(name):
            yield f"its {name} should be {wanted.get(name)}, but is {after.get(name)}"


def _wanted(document: DemoDocument) -> dict[str, Any]:
    wanted = flat(document.before)
    if document.expected:
        wanted["metadata.image_is_valid"] = document.ending == "done"
    if document.ending == "done":
        wanted |= {f"last_{name}": url for name, url in document.urls.items()}
    return wanted


def _matches(detail: Mapping[str, Any], failures: Mapping[str, ExpectedFailure]) -> bool:
    """Return whether an `error_detail` belongs to one of the failures, or is missing if there are none."""
    if not failures:
        return not detail
    found = tuple(detail.get(name) for name in ("field", "stage", "code"))
    complete = bool(detail.get("message")) and isinstance(detail.get("at"), datetime)
    return complete and found in {(name, failure.stage, failure.code) for name, failure in failures.items()}


def _stored_differences(document: DemoDocument, settings: Settings) -> Iterator[str]:
    stored = comparison.fetch_back(document.infos)
    for name, outcome in document.expected.items():
        if isinstance(outcome, Sample):
            info = document.infos[name]
            yield from comparison.info_differences(f"{name}_extra_images", info, document.folder, settings)
            yield from comparison.image_differences(outcome, stored.get(name, []), settings)


def _run_differences(documents: Sequence[DemoDocument], progress: Mapping[str, Progress]) -> Iterator[str]:
    for name in SWEPT:
        endings = Counter(each.ending for each in documents if each.swept.name == name and each.ending)
        wanted = Progress(**endings, claimed=endings.total(), over=True)
        if progress[name] != wanted:
            yield f"The run over {name} should be {wanted}, but is {progress[name]}"
