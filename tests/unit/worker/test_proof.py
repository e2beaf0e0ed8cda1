"""The proof that a job between stages was made by this service."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Rejected
from pipeline.payload import parse_json, to_json
from pipeline.worker.proof import check_proof, signed

OLD, NEW = "old-key-" * 4, "new-key-" * 4
JOB = {"v": 1, "id": "job-1", "folder": "SHOW", "payload": {"n": [1, 2.5, None, "ü\ud800"]}}


def is_refused(encoded: object, *keys: str) -> bool:
    try:
        check_proof(encoded, keys)
    except Rejected as error:
        return error.code == "bad_proof"
    return False


def test_a_proof_holds_for_the_job_that_was_signed_and_no_other() -> None:
    encoded = signed(JOB, [NEW])
    assert not is_refused(parse_json(to_json(encoded)), NEW)
    for changed in ({"folder": "OTHER"}, {"id": "job-2"}, {"added": 1}, {"proof": "0" * 64}, {"proof": 7}):
        assert is_refused(encoded | changed, NEW)
    assert is_refused({name: value for name, value in encoded.items() if name != "folder"}, NEW)
    assert is_refused(JOB, NEW)


def test_a_proof_is_the_same_in_every_release() -> None:
    # Workers of two releases hand jobs to one another during a deploy.
    assert signed(JOB, [NEW])["proof"] == "b51538588722b88c328acd60a1809aeaecbdfb64b67c5d5ae113f42ee60ea8fa"


def test_keys_are_rotated_without_a_gap() -> None:
    # Given jobs from before, during and after a rotation
    before, after = signed(JOB, [OLD]), signed(JOB, [NEW, OLD])
    # Then workers that know both keys accept both jobs, and each key alone accepts its own.
    assert not is_refused(before, NEW, OLD)
    assert not is_refused(after, OLD, NEW)
    assert is_refused(before, NEW)
    assert not is_refused(after, NEW)


def test_the_first_key_is_introduced_without_a_gap() -> None:
    assert not is_refused(JOB, NEW, "none")
    assert is_refused(signed(JOB, [OLD]), NEW, "none")
    assert signed(JOB, ["none", NEW]) == signed(JOB, []) == JOB
    assert not is_refused(signed(JOB, [OLD]))


def test_signing_again_replaces_the_proof() -> None:
    assert signed(signed(JOB, [OLD]), [NEW]) == signed(JOB, [NEW])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_a_proof_survives_the_message(payload: dict[str, Any]) -> None:
    encoded = signed({**JOB, "payload": payload}, [NEW])
    assert not is_refused(json.loads(to_json(encoded)), NEW)


@pytest.mark.parametrize("value", [None, 3, [], "x"])
def test_other_values_than_objects_are_left_to_decoding(value: object) -> None:
    assert not is_refused(value, NEW)
