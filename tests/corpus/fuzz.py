"""Fuzz our readers of headers, guided by the branches that an input reaches: python -m tests.corpus.fuzz FOLDER

The folder keeps inputs that reach new branches; a first run fills it with the small corpus. Options are libFuzzer's,
such as -max_total_time=60 or -runs=10000. A finding is a file `crash-…`, and the exit status is not 0.
"""

from __future__ import annotations

import struct
import sys
import zlib
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pipeline.images.containers", "pipeline.images.identify"]):
    from pipeline.errors import PermanentError
    from pipeline.images.containers.exif import orientation
    from pipeline.images.containers.png import Png, has_all_rows
    from pipeline.images.identify import is_giant, output_format, read
    from pipeline.images.signatures import format_of

from tests.corpus import samples

#: What readers may raise, as `containers/model.py` documents.
EXPECTED = (PermanentError, ValueError, IndexError, struct.error)

#: Bytes of a picture in addition to the source that it is made of: headers, and checksums of chunks.
MARGIN = 4096


def check(source: bytes) -> None:
    """Read a source. Any other error than the expected ones, or a picture that has grown, is a finding."""
    if format_of(source) not in read.__globals__["READERS"]:
        return
    try:
        name, container = read(source, 178_000_000)
    except EXPECTED:
        return
    output_format(name, container)
    is_giant(name, container)
    picture = getattr(container, "first_frame", None) or container.picture  # type: ignore[attr-defined]
    assert len(picture) <= len(source) + MARGIN, f"a picture of {len(picture)} bytes from {len(source)}"
    assert orientation(getattr(container, "exif", b"")) in range(1, 9)
    if isinstance(container, Png):
        assert container.profile is None or isinstance(container.profile, bytes)
        with suppress(zlib.error, *EXPECTED, KeyError):  # decoding translates any error
            has_all_rows(picture)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        for name, data, _ in (*samples.good(), *samples.bad()):
            (folder / name).write_bytes(data[:20_000])
    atheris.Setup([sys.argv[0], *sys.argv[2:], str(folder)], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
