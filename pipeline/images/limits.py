"""The cost that one image may have with all its renditions. It imports no image library, because settings read it."""

from __future__ import annotations

from typing import Final

#: Bytes of memory for decoding one image: 1 GiB less 100 MB for the process, and less twice MAX_SOURCE_BYTES (50 MB),
#: because the source may be copied.
MAX_DECODER_BYTES: Final = 850_000_000

#: Seconds of CPU for an image. The largest AVIF that is accepted takes 1.5, the slowest BMP 3.4.
CPU_SECONDS: Final = 15

#: Bytes of memory and seconds of CPU for each pixel of a rendition, as measured with noise in the formats that take
#: most: a WebP with alpha, and a GIF. The source decides which of them a rendition has.
_BYTES_A_PIXEL: Final = 50
_SECONDS_A_PIXEL: Final = 0.85e-6

#: Maximum pixels of a rendition: as many as fit in both limits. Now 17 million, or 4,123 x 4,123.
MAX_RENDITION_PIXELS: Final = min(MAX_DECODER_BYTES // _BYTES_A_PIXEL, int(CPU_SECONDS / _SECONDS_A_PIXEL))
