"""How other object stores with S3's API differ from it, as far as the service must know.

docs/object-stores.md describes the differences for people, with their sources; a test compares the codes.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

#: Error codes that mean "no ACLs here", if the same request succeeds without one. Alone they prove nothing.
ACL_REFUSALS: Final = frozenset(
    {
        "AccessControlListNotSupported",  # Amazon S3
        "NotImplemented",  # Cloudflare R2
        "InvalidArgument",  # Google Cloud Storage and Backblaze B2
    }
)

#: Error codes of stores that lack a part of the API.
NOT_IMPLEMENTED: Final = frozenset({"NotImplemented", "MethodNotAllowed", "501", "405"})

#: The regions that Cloudflare R2 accepts in a signature: https://developers.cloudflare.com/r2/api/s3/api/
R2_REGIONS: Final = ("auto", "us-east-1")


def is_r2(endpoint: str | None) -> bool:
    """Return whether an endpoint is Cloudflare R2's, which serves nothing there to the public."""
    host = urlsplit(endpoint or "").hostname or ""
    return bool(re.fullmatch(r".+\.r2\.cloudflarestorage\.com", host))
