"""The covers as image files: one of each format, and a truncated one."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

#: Covers of fictitious podcasts, by title in lower case.
COVERS = Path(__file__).with_name("covers")

#: EXIF orientation of a camera held upright: the stored image must be rotated by 90 degrees.
ROTATED = 6


@dataclass(frozen=True)
class Sample:
    """One image file: its name on the web server, its bytes, and the picture that a viewer shows."""

    file: str
    title: str
    about: str
    format: str  #: as named by Pillow
    data: bytes
    picture: Image.Image

    @property
    def content_type(self) -> str:
        return Image.MIME[self.format]


def make() -> dict[str, Sample]:
    """Make all samples, by file name."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = ROTATED
    samples = [
        _sample("night-train.jpg", "Night Train", "JPEG 3000x3000", "JPEG", 3000, quality=90),
        _sample("paper-boats.png", "Paper Boats", "PNG with alpha", "PNG", 1400),
        _sample("slow-coffee.webp", "Slow Coffee", "WebP", "WEBP", 1400, quality=90),
        _sample("pixel-tales.gif", "Pixel Tales", "GIF", "GIF", 640),
        _sample("high-ground.jpg", "High Ground", "JPEG rotated by EXIF", "JPEG", 1600, turned=True, exif=exif),
        _sample("marginalia.jpg", "Marginalia", "JPEG", "JPEG", 1400, quality=90),
    ]
    whole = samples[-1]
    samples.append(
        Sample(
            "cut-short.jpg", "Cut Short", "JPEG, truncated", "JPEG", whole.data[: len(whole.data) // 2], whole.picture
        )
    )
    return {sample.file: sample for sample in samples}


def _sample(
    file: str, title: str, about: str, kind: str, width: int, *, turned: bool = False, **options: Any
) -> Sample:
    with Image.open(COVERS / f"{title.lower().replace(' ', '-')}.webp") as drawn:
        picture = drawn.resize((width, width * drawn.height // drawn.width))
    stored = picture.transpose(Image.Transpose.ROTATE_90) if turned else picture
    if kind == "GIF":
        stored = stored.quantize(64)
    buffer = BytesIO()
    stored.save(buffer, kind, **options)
    return Sample(file, title, about, kind, buffer.getvalue(), picture)
