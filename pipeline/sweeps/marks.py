"""Lists the documents with error marks, which sweeps skip, for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeline.clients import mongo
from pipeline.payload import present_url
from pipeline.sweeps import documents
from pipeline.sweeps.documents import Swept


@dataclass(frozen=True)
class MarkedDocument:
    """A document with an error mark. Texts are those of the document, so they are not trusted."""

    id: str
    title: str
    urls: dict[str, str]  #: image URLs by field
    code: str  #: empty if the mark has none
    message: str
    at: datetime | None


def list_marks(swept: Swept, limit: int) -> list[MarkedDocument]:
    """List the first documents with error marks.

    Raises:
        RetryableError: MongoDB fails.
    """
    fields = dict.fromkeys(("title", "metadata.error_detail", *swept.fields), 1)
    with mongo.mongo_errors(f"list the marks in {swept.name}"):
        found = mongo.database()[swept.name].find(documents.marked(None, None), fields).limit(limit)
        return [_marked(swept, each) for each in found]


def _marked(swept: Swept, found: Mapping[str, Any]) -> MarkedDocument:
    metadata = found.get("metadata")
    detail = metadata.get("error_detail") if isinstance(metadata, Mapping) else None
    detail = detail if isinstance(detail, Mapping) else {}
    at = detail.get("at")
    return MarkedDocument(
        id=str(found["_id"]),
        title=str(found.get("title") or ""),
        urls={name: url for name in swept.fields if (url := present_url(found.get(name)))},
        code=str(detail.get("code") or ""),
        message=str(detail.get("message") or ""),
        at=at if isinstance(at, datetime) else None,
    )
