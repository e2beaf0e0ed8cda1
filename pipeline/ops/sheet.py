"""The contact sheet: covers in all their renditions as one picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont

COLUMNS, MARGIN, GAP = 3, 48, 40
LARGE, MEDIUM = 400, 250  #: maximum sides on the sheet: of the largest rendition, and of the others
SMALL, MOST = 64, 8  #: the side up to which the name stands beside a rendition; how many others are drawn
LABEL, SPACE = 40, 12  #: heights of a name below a rendition with its space, and between small renditions
CARD = (LARGE + 16 + MEDIUM, LARGE + 84)

GROUND, INK, FAINT, ALARM, PALE = "#f6f5f2", "#1c1b1a", "#77736c", "#b3261e", "#fbe9e7"
SQUARE = 10  #: side of a square of the checkerboard
SQUARES = ("#ffffff", "#dcdad5")

Point = tuple[int, int]


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font that Pillow includes."""
    return ImageFont.load_default(size)


@dataclass(frozen=True)
class Card:
    """One cover: its renditions, or its error."""

    title: str
    caption: str
    renditions: Sequence[tuple[str, Image.Image]] = ()
    error: tuple[str, str] | None = None  #: code and message


def draw(cards: Sequence[Card], heading: str, remarks: Sequence[str]) -> Image.Image:
    """Draw the sheet. The heading and the remarks take the first place."""
    columns = min(COLUMNS, len(cards) + 1)
    rows = -(-(len(cards) + 1) // columns)
    width = 2 * MARGIN + columns * CARD[0] + (columns - 1) * GAP
    sheet = Image.new("RGB", (width, 2 * MARGIN + rows * CARD[1] + (rows - 1) * GAP), GROUND)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN + 96), heading, font=font(64), fill=INK, stroke_width=1, stroke_fill=INK, spacing=14)
    pen.text((MARGIN, MARGIN + 270), "\n".join(remarks), font=font(24), fill=FAINT, spacing=12)
    for place, card in enumerate(cards, 1):
        row, column = divmod(place, columns)
        _draw_card(sheet, (MARGIN + column * (CARD[0] + GAP), MARGIN + row * (CARD[1] + GAP)), card)
    return sheet


def _draw_card(sheet: Image.Image, at: Point, card: Card) -> None:
    x, y = at
    pen = ImageDraw.Draw(sheet)
    title, caption = _cut(card.title, 30), _cut(card.caption, 21)
    pen.text((x, y + LARGE + 14), title, font=font(30), fill=INK, stroke_width=0.5, stroke_fill=INK)
    pen.text((x, y + LARGE + 54), caption, font=font(21), fill=FAINT)
    if card.error:
        _draw_error(pen, at, *card.error)
        return
    largest, *others = sorted(card.renditions, key=lambda rendition: -max(rendition[1].size))
    _paste(sheet, _fitted(largest[1], LARGE), at)
    if others:
        _draw_column(sheet, (x + LARGE + 16, y), others)


def _draw_column(sheet: Image.Image, at: Point, renditions: Sequence[tuple[str, Image.Image]]) -> None:
    """Draw renditions one below the other, as large as fits. Large ones have their name below, small ones beside."""
    names = [name for name, _ in renditions[:MOST]]
    if len(renditions) > MOST:
        names[-1] += f" and {len(renditions) - MOST} more"
    images = [image for _, image in renditions[:MOST]]
    is_small = [max(image.size) <= SMALL for image in images]
    room = LARGE - sum(image.height + SPACE for image, small in zip(images, is_small, strict=True) if small)
    side = min(MEDIUM, room // max(1, is_small.count(False)) - LABEL)
    if side < 2 * SMALL:  # too many for names below them
        side, is_small = LARGE // len(images) - SPACE, [True] * len(images)
    (x, top), bottom, pen = at, at[1] + LARGE, ImageDraw.Draw(sheet)
    cells = [(name, _fitted(image, side), small) for name, image, small in zip(names, images, is_small, strict=True)]
    for name, image, _ in (cell for cell in cells if not cell[2]):
        _paste(sheet, image, (x, top))
        pen.text((x, top + image.height + 8), name, font=font(20), fill=FAINT)
        top += image.height + LABEL
    for name, image, _ in (cell for cell in reversed(cells) if cell[2]):
        bottom -= image.height
        _paste(sheet, image, (x, bottom))
        pen.text((x + image.width + 12, bottom + image.height // 2), name, font=font(20), fill=FAINT, anchor="lm")
        bottom -= SPACE


def _fitted(image: Image.Image, side: int) -> Image.Image:
    """Return an image that is reduced, if necessary, so that no side is longer than `side`."""
    scale = max(image.size) / side
    return image if scale <= 1 else image.resize([max(1, round(each / scale)) for each in image.size])


def _cut(text: str, size: int) -> str:
    """Cut a text to the width of a card."""
    while text and font(size).getlength(text) > CARD[0]:
        text = f"{text[:-2]}…"
    return text


def _draw_error(pen: ImageDraw.ImageDraw, at: Point, code: str, sentence: str) -> None:
    x, y = at
    pen.rounded_rectangle((x, y, x + CARD[0], y + LARGE), 16, fill=PALE)
    middle, arm = (x + CARD[0] // 2, y + 110), 34
    for direction in (-1, 1):
        ends = [(middle[0] - arm, middle[1] - arm * direction), (middle[0] + arm, middle[1] + arm * direction)]
        pen.line(ends, fill=ALARM, width=12)
    pen.text((middle[0], y + 180), code, font=font(40), fill=ALARM, anchor="ma", stroke_width=0.5, stroke_fill=ALARM)
    wrapped = "\n".join(textwrap.wrap(sentence, 46))
    pen.multiline_text((middle[0], y + 248), wrapped, font=font(24), fill=INK, anchor="ma", align="center", spacing=8)


def _paste(sheet: Image.Image, image: Image.Image, at: Point) -> None:
    """Paste an image over a checkerboard, which is visible where the image is transparent."""
    image = image.convert("RGBA")
    ground = Image.new("RGBA", image.size, SQUARES[0])
    pen = ImageDraw.Draw(ground)
    for row in range(0, image.height, SQUARE):
        for column in range((row // SQUARE) % 2 * SQUARE, image.width, 2 * SQUARE):
            pen.rectangle((column, row, column + SQUARE - 1, row + SQUARE - 1), fill=SQUARES[1])
    ground.alpha_composite(image)
    sheet.paste(ground.convert("RGB"), at)
