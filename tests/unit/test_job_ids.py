"""The ids of jobs, which others rely on to the letter."""

from __future__ import annotations

from bson import ObjectId

from pipeline.job_ids import input_job_id, possible_ids, sweep_job_id


def test_ids_are_stable() -> None:
    # A redelivered message, and receivers that drop duplicates, rely on them.
    id_, urls = ObjectId("5f43a1e2c9d4f7a1b2c3d4e5"), {"itunes_image": "b", "image_url": "a"}
    assert input_job_id("message-1") == "f04452ed-668f-530c-910d-fb0e192d29a7"
    assert sweep_job_id("channels", id_, urls, "run-1") == "185431bb-34a3-5e4b-a638-c377fe61b5c2"


def test_people_may_mean_a_redriven_job_or_an_input_message() -> None:
    assert possible_ids("job-1.r12") == ("job-1", input_job_id("job-1"))
    assert possible_ids("a.r1.rx") == ("a.r1.rx", input_job_id("a.r1.rx"))
