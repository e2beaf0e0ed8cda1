"""Whether a source has more than one frame, found without decoding.

The readers in `images.containers` choose the first frame, which alone reaches a decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from pipeline.errors import PermanentError
from pipeline.images.containers import png, webp
from pipeline.images.containers.gif import has_second_frame
from pipeline.images.containers.model import File


def is_animated(name: str, source: bytes) -> bool:
    """Return whether a PNG, GIF, WebP or AVIF that can be rendered is an animation. Other formats are none."""
    check = _CHECKS.get(name)
    return check is not None and check(source)


def _png(source: bytes) -> bool:
    file = File(source)
    for name, start, _ in png.chunks(file):
        if name == b"acTL":
            return bool(file.unpack(">I", start)[0] > 1)
        if name == b"IDAT":  # later, the chunk has no meaning
            return False
    return False


def _webp(source: bytes) -> bool:
    return sum(name == b"ANMF" for name, _, _ in webp.chunks(File(source))) > 1


def _gif(source: bytes) -> bool:
    """Return whether there is a second frame. One after too many parts of the first does not count."""
    try:
        return has_second_frame(File(source))
    except PermanentError:
        return False


def _avif(source: bytes) -> bool:
    """Return whether the file is shown as a sequence, as libavif decides by its major brand."""
    return source[8:12] == b"avis"


_CHECKS: Final[Mapping[str, Callable[[bytes], bool]]] = {
    "PNG": _png,
    "GIF": _gif,
    "WEBP": _webp,
    "AVIF": _avif,
}
