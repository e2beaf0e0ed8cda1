"""Proof that a job between stages was made by this service: an HMAC under a key that producers do not have."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipeline.errors import Rejected
from pipeline.setting_types import NO_PROOF

#: The field of an encoded job that contains its proof.
PROOF: Final = "proof"


def signed(encoded: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Return an encoded job with the proof by the first of `keys`, or without a proof if there are none."""
    plain = {name: value for name, value in encoded.items() if name != PROOF}
    if not keys or keys[0] == NO_PROOF:
        return plain
    return plain | {PROOF: _mac(plain, keys[0])}


def check_proof(encoded: object, keys: Sequence[str]) -> None:
    """Check the proof of an encoded job against all of `keys`. Without keys, none is asked for.

    Raises:
        Rejected: `bad_proof`.
    """
    if not keys or not isinstance(encoded, Mapping):  # decoding refuses other values
        return
    given = encoded.get(PROOF)
    if given is None and NO_PROOF in keys:
        return
    plain = {name: value for name, value in encoded.items() if name != PROOF}
    if not isinstance(given, str) or not any(
        hmac.compare_digest(given.encode(errors="replace"), _mac(plain, key).encode())
        for key in keys
        if key != NO_PROOF
    ):
        raise Rejected("bad_proof", "The job does not prove that this service made it: see JOB_KEY.")


def _mac(encoded: Mapping[str, Any], key: str) -> str:
    text = json.dumps(encoded, sort_keys=True, separators=(",", ":"))
    return hmac.new(key.encode(), f"image-pipeline job {text}".encode(), hashlib.sha256).hexdigest()
