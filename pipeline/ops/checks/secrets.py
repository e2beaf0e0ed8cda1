"""Checks of the secrets of postbacks: the published ones, missing ones, weak ones and repeated ones.

No message contains a secret. One of several secrets is named by its position.
"""

from __future__ import annotations

import base64
import string
from collections.abc import Iterator
from typing import Final

from pipeline.ops.checks.model import Context, Row, is_local, ok, warn
from pipeline.setting_types import PUBLISHED_POSTBACK_SECRET
from pipeline.settings import Settings
from pipeline.text import plural

#: Different bytes below which a secret counts as weak. Of 24 random digits in hexadecimal, 1 in 35,000 has fewer.
LEAST_DIFFERENT: Final = 8

#: Minimum characters of POSTBACK_SECRET_KEY. It is compared by receivers, and cannot be guessed offline.
SHORTEST_SHARED: Final = 16

#: Signing secrets in public documents: that of the Standard Webhooks specification, which docs/receivers show too.
PUBLISHED_SIGNING: Final = frozenset({"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "C2FVsBQIhrscChlQIMV+b5sSYspob7oD"})

_NEW_SIGNING: Final = '`echo "whsec_$(openssl rand -base64 32)"`'


def check_secrets(context: Context) -> Iterator[Row]:
    """Check POSTBACK_SECRET_KEY and POSTBACK_SIGNING_SECRET."""
    settings = context.settings
    if is_local(settings):
        yield ok("POSTBACK_SECRET_KEY", "It is only used on this machine, where SQS runs.")
        return
    yield _shared(settings)
    yield from _signing(settings)


def _shared(settings: Settings) -> Row:
    secret, name = settings.shared_secret, "POSTBACK_SECRET_KEY"
    if secret is None:
        return ok(name, "Postbacks contain no shared secret.")
    hint = "Set the output of `openssl rand -hex 32`, here and in the receivers."
    if secret == PUBLISHED_POSTBACK_SECRET:
        return warn(name, "It is the published default, with which anyone can forge a postback.", hint)
    if len(set(secret)) < LEAST_DIFFERENT or len(secret) < SHORTEST_SHARED:
        message = f"It is weak: it has fewer than {SHORTEST_SHARED} characters, or too few different ones."
        return warn(name, message, hint)
    if secret in settings.signing_secrets:
        return warn(name, "It is also a signing secret, and every receiver of a postback can read it.", hint)
    return ok(name, "It is not the published default.")


def _signing(settings: Settings) -> Iterator[Row]:
    secrets, name = settings.signing_secrets, "POSTBACK_SIGNING_SECRET"
    if not secrets:
        yield warn(
            name,
            "Postbacks are not signed: anyone who has seen one can forge another.",
            f"Set it to the output of {_NEW_SIGNING}, and verify it in the receivers.",
        )
        return
    problems = list(_problems(secrets))
    for position, problem in problems:
        which = "It" if len(secrets) == 1 else f"Secret {position} of {len(secrets)}"
        hint = f"Replace it by the output of {_NEW_SIGNING}; docs/postbacks.md describes how, without a gap."
        yield warn(name, f"{which} {problem}.", hint)
    if not problems:
        yield ok(name, f"Postbacks are signed, by {plural(len(secrets), 'secret')}.")


def _problems(secrets: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Yield the position of each secret that is published, repeated or weak, and the sentence about it."""
    seen: dict[bytes, int] = {}
    for position, secret in enumerate(secrets, start=1):
        text = secret.removeprefix("whsec_")
        key = base64.b64decode(text)
        first = seen.setdefault(key, position)
        if text in PUBLISHED_SIGNING:
            yield position, "is an example from public documents"
        elif first != position:
            yield position, f"repeats secret {first}, so the rotation changes nothing"
        elif reason := weakness(key):
            yield position, f"is weak: {reason}"


def weakness(key: bytes) -> str:
    """Return why a key of at least 24 bytes is easy to guess, or an empty string.

    Random bytes are practically never text: a chance of 1 in 10^10 for 24 of them.
    """
    if len(set(key)) < LEAST_DIFFERENT:
        return "it has too few different bytes"
    is_text = all(32 <= byte < 127 for byte in key)
    if is_text and not all(chr(byte) in string.hexdigits for byte in key):
        return "it is text instead of random bytes"
    return ""
