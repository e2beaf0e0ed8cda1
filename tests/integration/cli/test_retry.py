"""The command `image-pipeline retry` refuses an order that names nothing."""

from __future__ import annotations

import pytest

from tests.support.command_line import image_pipeline


@pytest.mark.parametrize("arguments", [("endpoint", "hooks"), ("host", "a/b"), ("code", "no"), ("folder", "A")])
def test_an_order_that_names_nothing_is_refused(job_log: None, arguments: tuple[str, str]) -> None:
    image_pipeline("retry", *arguments, status=2)
    image_pipeline("retry", "job", "unknown", status=1)
