"""The pages of re-checks: their counts, and replaced covers before and after."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pipeline.clients import aws
from pipeline.settings import get_settings
from pipeline.sweeps import run_state
from pipeline.sweeps.documents import RECHECK
from pipeline.sweeps.run_state import DocumentGroup
from tests.support.dashboard import serving
from tests.support.shown import wait_for_text

RUN = "recheck-manual-0123"


def pictures(content: str) -> dict[str, Any]:
    """Store a rendition, and return the `…_extra_images` that names it."""
    key = f"images-resized/A/{content * 32}_50x50.png"
    aws.s3().put_object(Bucket=get_settings().s3_bucket, Key=key, Body=content.encode())
    return {"50x50": {"url": f"{get_settings().public_url_base}/{key}", "bucket_path": "images-resized/A/"}}


def test_a_replaced_cover_is_shown_before_and_after(with_everything: Any) -> None:
    # Given a re-check that found one of three covers replaced, and one gone
    run_state.begin(RECHECK, RUN)
    run_state.count(RUN, Counter({"not_modified": 1, "changed": 1, "failed": 1, "documents": 7}))
    group = DocumentGroup(f"cover/{RUN}/77", RUN, "job", {"itunes_image": "https://h.example/cover.png?secret"})
    run_state.join_once([group])
    run_state.replaced(group.id, pictures("b"), 7)
    run_state.settle(group, {"stored": {"itunes_image": pictures("a")}, "errors": {}, "given_up": False})
    with serving() as site:
        # Then its run is listed with its counts,
        text = wait_for_text(site, "/sweeps", RUN)
        assert "1 not modified, 1 changed, 1 failed; 7 documents have new pictures" in text
        # and the cover with both pictures.
        text = site.text(f"/sweeps/changed/{RUN}")
        assert "h.example/cover.png" in text
        assert "secret" not in text
        for which, content in (("before", b"b"), ("after", b"a")):
            answer = site.get(f"/sweeps/changed/{RUN}/77/{which}")
            assert (answer.content, answer.headers["content-type"]) == (content, "image/png")
        assert site.get(f"/sweeps/changed/{RUN}/78/before").status_code == 404
        assert "No cover was replaced" in site.text("/sweeps/changed/recheck-manual-none")
