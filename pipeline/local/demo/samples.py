"""The covers as the files that feeds hold: one of each format, and one that broke off."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import ExifTags, Image

from pipeline.local.demo.covers import COVERS

#: EXIF's word for a camera that was held upright: turn it by a quarter to see it as it was.
TURNED = 6


@dataclass(frozen=True)
class Sample:
    """One file: its name on the web server, what it is, and the picture that a person sees in it."""

    file: str
    title: str
    about: str
    format: str  #: Pillow's name
    data: bytes
    picture: Image.Image

    @property
    def content_type(self) -> str:
        """As web servers call it."""
        return Image.MIME[self.format]


def make() -> dict[str, Sample]:
    """Every sample, by the name of its file."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = TURNED
    samples = [
        _sample("night-train.jpg", "Night Train", "JPEG 3000x3000", "JPEG", 3000, quality=90),
        _sample("paper-boats.png", "Paper Boats", "PNG with alpha", "PNG", 1400),
        _sample("slow-coffee.webp", "Slow Coffee", "WebP", "WEBP", 1400, quality=90),
        _sample("pixel-tales.gif", "Pixel Tales", "GIF", "GIF", 640),
        _sample("high-ground.jpg", "High Ground", "JPEG turned by EXIF", "JPEG", 1600, turned=True, exif=exif),
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
    picture = COVERS[title]()
    picture = picture.resize((width, width * picture.height // picture.width))
    stored = picture.transpose(Image.Transpose.ROTATE_90) if turned else picture
    if kind == "GIF":
        stored = stored.quantize(64)
    buffer = BytesIO()
    stored.save(buffer, kind, **options)
    return Sample(file, title, about, kind, buffer.getvalue(), picture)
