"""The contact sheet: covers in all their renditions as one picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont

COLUMNS, MARGIN, GAP = 3, 48, 40
LARGE, MEDIUM = 400, 250  #: maximum sides on the sheet: of the largest rendition, and of the others
SMALL, LABEL = 64, 40  #: the side up to which the name stands beside a rendition, and the height of one below it
MOST, SPACE = 12, 12  #: how many others are drawn, and the least space between them
CARD = (LARGE + 16 + MEDIUM, LARGE + 84)

GROUND, INK, FAINT, ALARM, PALE = "#f6f5f2", "#1c1b1a", "#77736c", "#b3261e", "#fbe9e7"
SQUARE = 10  #: side of a square of the checkerboard
SQUARES = ("#ffffff", "#dcdad5")

Point = tuple[int, int]


font = cache(ImageFont.load_default)  # of Pillow, by its size


@dataclass(frozen=True)
class Card:
    """One cover: its renditions, or its error."""

    title: str
    caption: str
    renditions: Sequence[tuple[str, Image.Image]] = ()
    error: tuple[str, str] | None = None  #: code and message


def draw(cards: Sequence[Card], heading: str, remarks: Sequence[str]) -> Image.Image:
    """Draw the sheet. The heading and the remarks take the first slot."""
    columns = min(COLUMNS, len(cards) + 1)
    rows = -(-(len(cards) + 1) // columns)
    width = 2 * MARGIN + columns * CARD[0] + (columns - 1) * GAP
    sheet = Image.new("RGB", (width, 2 * MARGIN + rows * CARD[1] + (rows - 1) * GAP), GROUND)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN + 96), heading, font=font(64), fill=INK, stroke_width=1, stroke_fill=INK, spacing=14)
    pen.text((MARGIN, MARGIN + 270), "\n".join(remarks), font=font(24), fill=FAINT, spacing=12)
    for slot, card in enumerate(cards, 1):
        row, column = divmod(slot, columns)
        _draw_card(sheet, (MARGIN + column * (CARD[0] + GAP), MARGIN + row * (CARD[1] + GAP)), card)
    return sheet


def _draw_card(sheet: Image.Image, at: Point, card: Card) -> None:
    x, y = at
    pen = ImageDraw.Draw(sheet)
    pen.text((x, y + LARGE + 14), card.title, font=font(30), fill=INK, stroke_width=0.5, stroke_fill=INK)
    pen.text((x, y + LARGE + 54), card.caption, font=font(21), fill=FAINT)
    if card.error:
        _draw_error(pen, at, *card.error)
        return
    largest, *others = sorted(card.renditions, key=lambda rendition: -max(rendition[1].size))
    _paste(sheet, largest[1].resize(_reduced(largest[1].size, LARGE)), at)
    if others:
        _draw_column(sheet, (x + LARGE + 16, y), others[:MOST])


def _draw_column(sheet: Image.Image, at: Point, renditions: Sequence[tuple[str, Image.Image]]) -> None:
    """Draw renditions from the top to the bottom of a card, reduced until they fit."""
    (x, y), side, pen = at, MEDIUM, ImageDraw.Draw(sheet)
    while (free := LARGE - sum(_height(image.size, side) for _, image in renditions)) < SPACE * (len(renditions) - 1):
        side = side * 9 // 10
    for name, image in renditions:
        width, height = size = _reduced(image.size, side)
        _paste(sheet, image.resize(size), (x, y))
        if max(size) <= SMALL:
            pen.text((x + width + 12, y + height // 2 - 11), name, font=font(20), fill=FAINT)
        else:
            pen.text((x, y + height + 8), name, font=font(20), fill=FAINT)
        y += _height(image.size, side) + free // max(1, len(renditions) - 1)


def _height(size: Point, side: int) -> int:
    """Return the height of a reduced image, with its name if that is below it."""
    reduced = _reduced(size, side)
    return reduced[1] + (LABEL if max(reduced) > SMALL else 0)


def _reduced(size: Point, side: int) -> Point:
    """Return the size of an image that is reduced, if necessary, so that no side is longer than `side`."""
    scale = max(1.0, max(size) / side)
    return max(1, round(size[0] / scale)), max(1, round(size[1] / scale))


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
