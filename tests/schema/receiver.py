"""A receiver with the types that docs/postbacks.md generates. `make schema-check` checks it with mypy."""

from __future__ import annotations

from postback import Postback


def urls(body: Postback) -> list[str]:
    if "image_url_error" in body:
        return [body["image_url_error"]["code"]]
    return [rendition["url"] for rendition in (body.get("image_url_info") or {}).values()]


def wrong(body: Postback) -> object:
    return (body.get("image_url_info") or {})["50x50"]["link"]  # type: ignore[typeddict-item]
