"""Images: the bytes of one cover in, its renditions out.

    identify()   what the renditions will be encoded as, read from the header alone
    render()     open ─► decode ─► resize ─► upright ─► sRGB ─► pad ─► encode

Pure: no network, no files, no settings. One thing is global, because Pillow made it so: its limit of pixels, set each
time an image is opened, which guards what Pillow allocates before we have seen a size. Ours are the exact limits.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, Literal, NamedTuple

from PIL import ExifTags, IcoImagePlugin, Image, ImageCms
from PIL.Image import Resampling, Transpose

from pipeline.errors import PermanentError, PipelineError, RetryableError
from pipeline.settings import RenditionSize, parse_rendition

#: Raised by hand when the same input shall give other bytes; every cover then gets new URLs.
RECIPE_VERSION: Final = 1

#: What Pillow's save() is told, by format. Measured on 800x800: `optimize` costs 2 ms for 6 % fewer bytes, progressive
#: another 4 ms for 3 %; PNG level 6 is slower than 4 and no smaller; WebP method 4 takes twice the time of 2 for 4 %.
ENCODER_SETTINGS: Final[Mapping[str, Mapping[str, Any]]] = {
    "JPEG": {"quality": 85, "optimize": True},
    "PNG": {"compress_level": 4},
    "GIF": {"optimize": True},
    "WEBP": {"quality": 82, "method": 2},
}

Fit = Literal["cover", "contain", "fill"]
Size = tuple[int, int]  # width and height in pixels
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class ImageFormat:
    """A format that renditions are encoded in."""

    name: str  #: Pillow's name
    extension: str
    content_type: str
    has_alpha: bool


JPEG = ImageFormat("JPEG", ".jpeg", "image/jpeg", has_alpha=False)
PNG = ImageFormat("PNG", ".png", "image/png", has_alpha=True)
GIF = ImageFormat("GIF", ".gif", "image/gif", has_alpha=True)
WEBP = ImageFormat("WEBP", ".webp", "image/webp", has_alpha=True)

#: By Pillow's name of a source's format. Others become PNG if they have alpha, else JPEG (MPO, a row of JPEGs, too).
_OWN_FORMAT: Final = {known.name: known for known in (JPEG, PNG, GIF, WEBP)}

#: Pillow opens 43 formats unless told; EPS among them starts Ghostscript.
_ACCEPTED: Final = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "ICO")

#: How a source that Pillow can't open begins, and what a person would call it. Only the first kilobyte is looked at.
_BEGINNINGS: Final = {
    "HEIC": rb"....ftyp(?:hei|hev|(?:mif1|msf1).{4,40}?hei)",
    "SVG": rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml.{,500}?|<!--.{,500}?|<!DOCTYPE svg.{,300}?)?<svg",
    "PDF": rb"%PDF-",
    "PostScript": rb"%!PS|\xc5\xd0\xd3\xc6",
    "Photoshop": rb"8BPS",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG",
    "GIF": rb"GIF8[79]a",
    "WEBP": rb"RIFF....WEBP",
    "AVIF": rb"....ftyp(?:avi|mif1|msf1)",
    "BMP": rb"BM.{4}\0{4}",
    "TIFF": rb"II\*\0|MM\0\*|II\+\0|MM\0\+",
    "ICO": rb"\0\0\x01\0",
}


@dataclass(frozen=True)
class Recipe:
    """What to make of a source; raises ValueError for no rendition at all or an unknown fit."""

    renditions: tuple[RenditionSize, ...]
    fit: Fit = "cover"  #: or `contain`: inside, padded; or `fill`: stretched. `cover` fills and crops around the centre

    def __post_init__(self) -> None:
        if not self.renditions:
            raise ValueError("a recipe needs at least one rendition")
        if self.fit not in _FITS:
            raise ValueError(f"{self.fit!r} is not one of {', '.join(_FITS)}")

    def encode(self) -> dict[str, Any]:
        """This recipe as messages carry it: `{"renditions": ["50x50", ...], "fit": "cover"}`."""
        return {"renditions": [rendition.name for rendition in self.renditions], "fit": self.fit}

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Recipe:
        """The recipe that `encode` made `data` of; raises ValueError for anything else."""
        try:
            return cls(tuple(parse_rendition(name) for name in data["renditions"]), data["fit"])
        except (KeyError, TypeError):
            raise ValueError(f"{data!r} is not a recipe") from None

    def content_id(self, source: bytes) -> str:
        """32 hex digits, the same for the same source and recipe: 128 bits of SHA-256 (contract, section 3)."""
        head = json.dumps([RECIPE_VERSION, self.encode(), ENCODER_SETTINGS], sort_keys=True).encode()
        digest = hashlib.sha256(head + b"\0")  # JSON holds no zero byte: the source begins after the first
        digest.update(source)
        return digest.hexdigest()[:32]


def format_by_extension(extension: str) -> ImageFormat:
    """The format of `.jpeg`, `.png`, `.gif` or `.webp`; raises KeyError for another."""
    return {known.extension: known for known in _OWN_FORMAT.values()}[extension]


def identify(source: bytes, *, max_pixels: int) -> ImageFormat:
    """The format that the renditions of `source` will have. Reads the header and decodes no pixels.

    `max_pixels` is the largest width x height accepted (`MAX_SOURCE_PIXELS`).

    Raises:
        PermanentError: `not_an_image`, `unsupported_format`, `too_large`, or `broken_image`.
        RetryableError: `out_of_memory`.
    """
    with _explained(source):
        return _output_format(_open(source, max_pixels))


def render(source: bytes, recipe: Recipe, *, max_pixels: int, max_decoded_pixels: int) -> dict[str, bytes]:
    """The encoded renditions of `source` by name: upright, 8-bit sRGB, without metadata, each exactly its size.

    Of an animation the first frame is taken. `max_decoded_pixels` (`MAX_DECODED_PIXELS`) limits what is in memory: a
    large JPEG is decoded at 1/2, 1/4 or 1/8. Otherwise as `identify()`, and raises the same.
    """
    with _explained(source):
        image = _open(source, max_pixels)
        output = _output_format(image)
        picture = _decode(image, recipe, max_decoded_pixels)
        made = dict(_resized(picture, recipe))
        return {each.name: _encode(_framed(made[each], each, output), output) for each in recipe.renditions}


@contextmanager
def _explained(source: bytes) -> Iterator[None]:
    """Whatever goes wrong inside, said in our words: Pillow raises any type of exception on a broken file."""
    try:
        yield
    except PipelineError:
        raise
    except MemoryError as error:
        raise RetryableError("out_of_memory", "There was not enough memory to process the image.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        message = f"The image has more than the {Image.MAX_IMAGE_PIXELS} pixels that are accepted."
        raise PermanentError("too_large", message) from error
    except Exception as error:
        name = next((name for name, start in _BEGINNINGS.items() if re.match(start, source[:1024], re.DOTALL)), None)
        if name in _ACCEPTED:
            raise PermanentError("broken_image", f"The {name} image is broken or incomplete.") from error
        if name:
            raise PermanentError("unsupported_format", f"{name} is not a supported image format.") from error
        raise PermanentError("not_an_image", f"The {len(source)} bytes received are not an image.") from error


def _open(source: bytes, max_pixels: int) -> Image.Image:
    """The image with its header read; its pixels are decoded when first used."""
    # Pillow allocates a WebP's canvas and a GIF's background while opening, and refuses only twice this limit.
    Image.MAX_IMAGE_PIXELS = max_pixels
    image = _open_icon(source) if source.startswith(b"\0\0\1\0") else Image.open(BytesIO(source), formats=_ACCEPTED)
    _check_size(image, max_pixels)
    return image


def _open_icon(source: bytes) -> Image.Image:
    """The largest picture of an icon. Pillow would decode it before anybody has seen how large it is."""
    entry = IcoImagePlugin.IcoFile(BytesIO(source)).entry[0]
    picture = source[entry.offset :]
    if picture.startswith(b"\x89PNG"):
        image: Image.Image = Image.open(BytesIO(picture), formats=["PNG"])
        image.format = "ICO"
        return image
    width, double_height = struct.unpack_from("<ii", picture, 4)  # of a bitmap, and below it its mask
    if max(abs(width), abs(double_height) // 2) > 256:  # an icon's directory has a byte for each
        raise PermanentError("broken_image", f"The icon's picture claims to be {width} pixels wide; 256 is the most.")
    return Image.open(BytesIO(source), formats=["ICO"])


def _check_size(image: Image.Image, limit: int) -> None:
    tags = getattr(image, "tag_v2", {})  # a TIFF's tile is decoded whole, whatever the size of the image
    for width, height in (image.size, (tags.get(ExifTags.Base.TileWidth, 0), tags.get(ExifTags.Base.TileLength, 0))):
        if width * height > limit:
            raise PermanentError("too_large", f"The image is {width} x {height} pixels; {limit} in all are accepted.")


def _output_format(image: Image.Image) -> ImageFormat:
    return _OWN_FORMAT.get(str(image.format)) or (PNG if image.has_transparency_data else JPEG)


class _Picture(NamedTuple):
    """A decoded image, not yet turned upright nor in sRGB: both are cheaper on what is left after resizing."""

    image: Image.Image  #: in mode L, LA, RGB, RGBA or CMYK
    turn: Transpose | None
    profile: bytes | None


_LEVEL: Final = (Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.FLIP_TOP_BOTTOM)
_SIDEWAYS: Final = (Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90)
_TURNS: Final = dict(enumerate((*_LEVEL, *_SIDEWAYS), start=2))  # by EXIF orientation; 1 is upright


def _turn(image: Image.Image) -> Transpose | None:
    """What makes the image upright: nothing where EXIF is broken, nor after Pillow has decoded, and turned, a TIFF."""
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except MemoryError:
        raise
    except Exception:
        return None


def _decode(image: Image.Image, recipe: Recipe, max_decoded_pixels: int) -> _Picture:
    if _output_format(image) is JPEG:
        _draft(image, recipe)
    _check_size(image, max_decoded_pixels)
    image.load()
    turn, profile = _turn(image), image.info.get("icc_profile")  # only now: a PNG may tell after its pixels
    return _Picture(_plain(image), turn, profile)


def _draft(image: Image.Image, recipe: Recipe) -> None:
    """Has a JPEG decoded at the smallest of 1, 1/2, 1/4 and 1/8 of its size that serves all renditions."""
    turn = _turn(image)
    places = [_place(recipe.fit, image.size, rendition, turn) for rendition in recipe.renditions]
    shrink = min(min((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1]) for box, size in places)
    image.draft(None, (math.ceil(image.width / shrink), math.ceil(image.height / shrink)))


#: Modes that can be neither resized nor coloured as they are, and what they become.
_PLAIN_MODES: Final = {"1": "L", "P": "RGB", "YCbCr": "RGB", "LAB": "RGB", "RGBX": "RGB"}
_WHITES: Final = (1.0, 255.0, 65_535.0, 4_294_967_295.0)


def _plain(image: Image.Image) -> Image.Image:
    """The image in mode L, LA, RGB, RGBA or CMYK."""
    if image.mode[0] in "IF":
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode in ("LA", "La") else "RGBA")
        if image.getchannel("A").getextrema() == (255, 255):
            image = image.convert(image.mode[:-1])
    elif image.mode in _PLAIN_MODES:
        image = image.convert(_PLAIN_MODES[image.mode])
    return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits or of floats, scaled. Only 16 bits say what white is: else the least that is enough."""
    wide = image if image.mode == "F" else image.convert("I")
    top = wide.getextrema()[1]
    is_enough = (white for white in _WHITES[image.mode != "F" :] if isinstance(top, int | float) and top <= white)
    white = 65_535.0 if image.mode.startswith("I;16") else next(is_enough, _WHITES[-1])
    return wide.point(lambda value: value * (255 / white) + 0.5).convert("L")


def _cover(source: Size, target: Size) -> tuple[Box, Size]:
    scale = min(source[0] / target[0], source[1] / target[1])
    left, top = (max(0, (side - scale * goal) / 2) for side, goal in zip(source, target, strict=True))
    return (left, top, source[0] - left, source[1] - top), target


def _contain(source: Size, target: Size) -> tuple[Box, Size]:
    scale = max(source[0] / target[0], source[1] / target[1])
    return (0, 0, *source), (max(1, round(source[0] / scale)), max(1, round(source[1] / scale)))


def _fill(source: Size, target: Size) -> tuple[Box, Size]:
    return (0, 0, *source), target


#: Which part of a source becomes a picture of which size, in a rendition of the target's size.
_FITS: Final = {"cover": _cover, "contain": _contain, "fill": _fill}


def _place(fit: str, source: Size, rendition: RenditionSize, turn: Transpose | None) -> tuple[Box, Size]:
    """As the fit says, in the source's own orientation: all is centred, and stays so however it is turned."""
    target = (rendition.width, rendition.height)
    return _FITS[fit](source, target[::-1] if turn in _SIDEWAYS else target)


def _resized(picture: _Picture, recipe: Recipe) -> Iterator[tuple[RenditionSize, Image.Image]]:
    """Each rendition's picture, largest first: upright, in sRGB, not yet padded.

    One is made from another if that shows the same part at twice the size or more: nobody can see the difference.
    """
    made: list[tuple[Box, Image.Image]] = []
    for rendition in sorted(recipe.renditions, key=lambda each: -each.width * each.height):
        box, stored_size = _place(recipe.fit, picture.image.size, rendition, picture.turn)
        size = stored_size[::-1] if picture.turn in _SIDEWAYS else stored_size
        for other_box, other in reversed(made):
            is_same_part = all(math.isclose(a, b, abs_tol=0.01) for a, b in zip(box, other_box, strict=True))
            if is_same_part and other.width >= 2 * size[0] and other.height >= 2 * size[1]:
                image = _scale(other, size, (0, 0, *other.size))
                break
        else:
            image = _scale(picture.image, stored_size, box)
            image = _in_srgb(image if picture.turn is None else image.transpose(picture.turn), picture.profile)
        made.append((box, image))
        yield rendition, image


def _scale(image: Image.Image, size: Size, box: Box) -> Image.Image:
    """`box` of the image at `size`. Pillow multiplies by alpha while it resizes, so edges do not darken."""
    is_smaller = box[2] - box[0] >= size[0] and box[3] - box[1] >= size[1]
    # HAMMING is within 0.3 dB of LANCZOS at under half its time. The gap bounds what very long images take in between.
    resample = Resampling.HAMMING if is_smaller else Resampling.BICUBIC
    return image.resize(size, resample, box=box, reducing_gap=2.0)


_MODE_OF_PROFILE: Final = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The image in mode RGB or RGBA, in sRGB, and without metadata; a broken or unfit profile is as good as none."""
    colour = image if image.mode in ("L", "RGB", "CMYK") else image.convert(image.mode[:-1])
    result = None
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            mode = _MODE_OF_PROFILE.get(source.profile.xcolor_space)
            if mode == colour.mode or (mode == "RGB" and colour.mode == "L"):
                srgb = ImageCms.createProfile("sRGB")
                result = ImageCms.profileToProfile(colour.convert(mode), source, srgb, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            pass
    result = result or colour.convert("RGB")
    if image.mode in ("LA", "RGBA"):
        result.putalpha(image.getchannel("A"))
    result.info = {}  # save() would write some of it: comments, profiles, transparency
    return result


def _framed(image: Image.Image, rendition: RenditionSize, output: ImageFormat) -> Image.Image:
    """The image in the middle of a canvas of the rendition's size: transparent where the format can be, else white."""
    size = (rendition.width, rendition.height)
    if image.size == size and (output.has_alpha or image.mode == "RGB"):
        return image
    canvas = Image.new("RGBA", size, (255, 255, 255, 0)) if output.has_alpha else Image.new("RGB", size, "white")
    place = ((size[0] - image.width) // 2, (size[1] - image.height) // 2)
    canvas.paste(image, place, None if output.has_alpha or image.mode == "RGB" else image)
    return canvas


def _encode(image: Image.Image, output: ImageFormat) -> bytes:
    buffer = BytesIO()
    image = _with_palette(image) if output is GIF else image
    image.save(buffer, output.name, **ENCODER_SETTINGS[output.name])
    return buffer.getvalue()


def _with_palette(image: Image.Image) -> Image.Image:
    """At most 256 colours; what is less than half opaque becomes transparent, the rest opaque.

    Not dithered: Pillow's dithering turns white into grey, and a cover's plain areas into noise.
    """
    if image.mode == "RGB":
        return image.quantize()
    hidden = image.getchannel("A").point(lambda alpha: 255 * (alpha < 128))
    result = image.convert("RGB").quantize(255)
    result.paste(255, mask=hidden)
    result.info["transparency"] = 255
    return result
