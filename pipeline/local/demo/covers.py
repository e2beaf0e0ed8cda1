"""Draws covers of fictitious podcasts. Each is square unless its docstring says otherwise."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from itertools import pairwise

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from pipeline.ops.sheet import font

#: Side of the drawn covers in pixels; several times the size shown, so that edges are smooth.
SIDE = 1600

Point = tuple[float, float]


def night_train() -> Image.Image:
    """Draw a lit train below the moon."""
    picture = _gradient("#0a0f2e", "#ff8a5c", middle="#4a2a7a")
    draw = ImageDraw.Draw(picture)
    chance = random.Random(7)  # noqa: S311 - the same stars each time
    for _ in range(90):
        x, y, r = chance.uniform(0, 1), chance.uniform(0, 0.55), chance.uniform(0.0008, 0.003)
        _circle(draw, (x, y), r, "#fff4e0")
    _circle(draw, (0.76, 0.23), 0.1, "#ffe9c4")
    _circle(draw, (0.73, 0.21), 0.085, "#221a52")
    _hills(draw, 0.66, 0.05, 2.2, "#3a1f5c", phase=0.4)
    _hills(draw, 0.74, 0.03, 3.1, "#24123f", phase=2.0)
    _box(draw, (0, 0.845, 1, 1), "#12081f")
    for car in range(4):
        left = 0.05 + car * 0.235
        _box(draw, (left, 0.735, left + 0.222, 0.83), "#0d0717", radius=0.018)
        for window in range(4):
            x = left + 0.018 + window * 0.049
            _box(draw, (x, 0.757, x + 0.036, 0.79), "#ffd37a", radius=0.005)
        for wheel in (0.05, 0.17):
            _circle(draw, (left + wheel, 0.835), 0.015, "#12081f")
    _box(draw, (0, 0.849, 1, 0.854), "#c9754f")
    _title(draw, ["NIGHT", "TRAIN"], (0.07, 0.1), 0.165, "#fff4e0")
    _title(draw, ["stories between stations"], (0.072, 0.91), 0.045, "#ffb48a", weight=0)
    return picture


def paper_boats() -> Image.Image:
    """Draw a round badge with a transparent background."""
    picture = _gradient("#bdf3ee", "#0d7f8c", middle="#4cc3c7")
    draw = ImageDraw.Draw(picture)
    _circle(draw, (0.5, 0.42), 0.17, "#fff3c9")
    draw.polygon(_points([(0.5, 0.3), (0.66, 0.56), (0.34, 0.56)]), fill="#ffffff")
    draw.polygon(_points([(0.5, 0.3), (0.66, 0.56), (0.5, 0.56)]), fill="#e2eef0")
    draw.polygon(_points([(0.22, 0.53), (0.78, 0.53), (0.67, 0.66), (0.33, 0.66)]), fill="#ffffff")
    draw.polygon(_points([(0.5, 0.56), (0.78, 0.53), (0.67, 0.66), (0.5, 0.66)]), fill="#cfe3e6")
    for level, colour in ((0.64, "#2aa5ad"), (0.69, "#12818d"), (0.74, "#0a5f6e")):
        _hills(draw, level, 0.014, 9, colour, phase=level * 40)
    _title(draw, ["PAPER BOATS"], (0.5, 0.8), 0.08, "#ffffff", anchor="ma")
    badge = Image.new("L", picture.size, 0)
    _circle(ImageDraw.Draw(badge), (0.5, 0.5), 0.485, 255)
    ImageDraw.Draw(picture).ellipse(_span((0.022, 0.022, 0.978, 0.978)), outline="#ffffff", width=_px(0.008))
    picture.putalpha(badge)
    return picture


def slow_coffee() -> Image.Image:
    """Draw a cup from above."""
    picture = _gradient("#f6e7d3", "#d9a066", middle="#efcfa6")
    draw = ImageDraw.Draw(picture)
    shadow = Image.new("L", picture.size, 0)
    _circle(ImageDraw.Draw(shadow), (0.56, 0.69), 0.29, 150)
    picture.paste("#7a4a25", mask=shadow.filter(ImageFilter.GaussianBlur(_px(0.03))))
    rings = ((0.29, "#fffaf2"), (0.275, "#f3e6d5"), (0.2, "#fffdf9"), (0.175, "#4a2512"), (0.16, "#6b3a1e"))
    _box(draw, (0.68, 0.61, 0.86, 0.67), "#fffdf9", radius=0.03)
    for radius, colour in rings:
        _circle(draw, (0.52, 0.64), radius, colour)
    for radius in (0.11, 0.075, 0.04):
        middle = (0.52, 0.655 - radius / 3)
        draw.arc(_span(_around(middle, radius)), 20, 160, fill="#c98f5a", width=_px(0.012))
    _title(draw, ["SLOW", "COFFEE"], (0.5, 0.05), 0.12, "#5a2d15", anchor="ma")
    return picture


def pixel_tales() -> Image.Image:
    """Draw few colours and hard edges, which suit GIF."""
    alien = ("..#.....#..", "...#...#...", "..#######..", ".##.###.##.", "###########", "#.#######.#", "#.#.....#.#")
    small = Image.new("RGB", (64, 64), "#161a3a")
    draw = ImageDraw.Draw(small)
    for y in range(0, 64, 4):
        draw.line([(0, y), (64, y)], fill="#1d2350")
    for row, line in enumerate(alien):
        for column, pixel in enumerate(line):
            if pixel == "#":
                x, y = 10 + column * 4, 6 + row * 4
                draw.rectangle((x, y, x + 3, y + 3), fill=("#39ff88", "#2be0c8")[row % 2])
    draw.rectangle((0, 60, 63, 63), fill="#ff3d81")
    draw.fontmode = "1"  # no smoothing
    draw.text((32, 35), "PIXEL", font=font(12), fill="#ffe14d", anchor="ma")
    draw.text((32, 45), "TALES", font=font(12), fill="#ffe14d", anchor="ma")
    return small.resize((SIDE, SIDE), Image.Resampling.NEAREST)


def high_ground() -> Image.Image:
    """Draw a landscape like a photograph: wider than high, slightly soft and grainy."""
    picture = _gradient("#5d8fc9", "#fde3b8", middle="#f3b38a")
    glow = Image.new("L", picture.size, 0)
    _circle(ImageDraw.Draw(glow), (0.74, 0.46), 0.13, 235)
    picture.paste("#fff6dc", mask=glow.filter(ImageFilter.GaussianBlur(_px(0.05))))
    draw = ImageDraw.Draw(picture)
    _circle(draw, (0.74, 0.46), 0.055, "#fffdf2")
    chance = random.Random(21)  # noqa: S311 - the same mountains each time
    for level, rough, colour in (
        (0.5, 0.16, "#a98aa8"),
        (0.6, 0.13, "#7b6a97"),
        (0.7, 0.1, "#4c4c7c"),
        (0.8, 0.07, "#28304f"),
    ):
        ridge = _ridge(chance, level, rough)
        draw.polygon(_points([(0, 1), *ridge, (1, 1)]), fill=colour)
    _title(draw, ["HIGH", "GROUND"], (0.42, 0.18), 0.095, "#ffffff", anchor="ma")
    grain = Image.effect_noise(picture.size, 14).convert("RGB")
    picture = ImageChops.overlay(picture, grain).filter(ImageFilter.GaussianBlur(_px(0.0007)))
    return picture.crop((0, SIDE // 8, SIDE, SIDE * 7 // 8))


def marginalia() -> Image.Image:
    """Draw type on paper."""
    picture = _gradient("#ffd23f", "#ff9f1c")
    draw = ImageDraw.Draw(picture)
    _box(draw, (0.14, 0.12, 0.94, 0.98), "#d9480f")
    _box(draw, (0.1, 0.08, 0.9, 0.94), "#fffaf0")
    for line in range(13):
        y = 0.36 + line * 0.042
        width = (0.56, 0.52, 0.57, 0.44)[line % 4]
        _box(draw, (0.27, y, 0.27 + width, y + 0.008), "#d6cfc0")
    _box(draw, (0.2245, 0.08, 0.2275, 0.94), "#e8590c")
    draw.line(_points([(0.27, 0.548), (0.71, 0.548)]), fill="#ffd23f", width=_px(0.026))
    _title(draw, ["*"], (0.163, 0.475), 0.16, "#e8590c", anchor="ma")
    _title(draw, ["MARGI", "NALIA"], (0.27, 0.115), 0.115, "#212529")
    return picture


def _px(part: float) -> int:
    return round(part * SIDE)


def _points(points: Sequence[Point]) -> list[Point]:
    return [(x * SIDE, y * SIDE) for x, y in points]


def _span(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = box
    return left * SIDE, top * SIDE, right * SIDE, bottom * SIDE


def _around(middle: Point, radius: float) -> tuple[float, float, float, float]:
    return middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius


def _gradient(top: str, bottom: str, middle: str | None = None) -> Image.Image:
    ramp = Image.linear_gradient("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return ImageOps.colorize(ramp, top, bottom, mid=middle)


def _circle(draw: ImageDraw.ImageDraw, middle: Point, radius: float, fill: str | int) -> None:
    draw.ellipse(_span(_around(middle, radius)), fill=fill)


def _box(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], fill: str, *, radius: float = 0) -> None:
    draw.rounded_rectangle(_span(box), radius * SIDE, fill=fill)


def _hills(draw: ImageDraw.ImageDraw, level: float, height: float, waves: float, fill: str, *, phase: float) -> None:
    def y(x: float) -> float:
        return level + height * math.sin(waves * x * math.tau / 2 + phase)

    steps = [step / 200 for step in range(201)]
    draw.polygon(_points([(0, 1), *((x, y(x)) for x in steps), (1, 1)]), fill=fill)


def _ridge(chance: random.Random, level: float, rough: float) -> list[Point]:
    """A mountain ridge: halfway points, each shifted up or down less than those before it."""
    heights = [level + chance.uniform(-rough, rough) / 3, level + chance.uniform(-rough, rough) / 3]
    while len(heights) < 200:
        rough *= 0.52
        between = [(a + b) / 2 + chance.uniform(-rough, rough) for a, b in pairwise(heights)]
        heights = [height for pair in zip(heights, between, strict=False) for height in pair] + heights[-1:]
    return [(place / (len(heights) - 1), height) for place, height in enumerate(heights)]


def _title(
    draw: ImageDraw.ImageDraw,
    lines: Sequence[str],
    at: Point,
    size: float,
    fill: str,
    *,
    anchor: str = "la",
    weight: float = 0.028,
) -> None:
    """Draw lines of text of height `size`; `weight` is the additional stroke width as a fraction of the size."""
    for number, line in enumerate(lines):
        place = _points([(at[0], at[1] + number * size * 1.02)])[0]
        draw.text(
            place,
            line,
            font=font(_px(size)),
            fill=fill,
            anchor=anchor,
            stroke_width=_px(size * weight),
            stroke_fill=fill,
        )


#: All covers by name.
COVERS: dict[str, Callable[[], Image.Image]] = {
    "Night Train": night_train,
    "Paper Boats": paper_boats,
    "Slow Coffee": slow_coffee,
    "Pixel Tales": pixel_tales,
    "High Ground": high_ground,
    "Marginalia": marginalia,
}
