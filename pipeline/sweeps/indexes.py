"""The indexes of the sweeps' own collections, which `provision` creates and `check` looks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.clients import mongo

#: The key, its options, and the purpose for operators.
Index = tuple[str, dict[str, Any], str]


def missing(collection: str, indexes: Sequence[Index]) -> list[Index]:
    """List the `indexes` that a collection does not have."""
    with mongo.mongo_errors("read the indexes"):
        found = mongo.database()[collection].index_information().values()
    there = {tuple(name for name, _ in index["key"]) for index in found}
    return [index for index in indexes if (index[0],) not in there]


def create(collection: str, by: str, options: Mapping[str, Any]) -> None:
    """Create an index of a collection."""
    with mongo.mongo_errors(f"create the index of {collection} by {by}", timeout=600):
        mongo.database()[collection].create_index(by, **options)
