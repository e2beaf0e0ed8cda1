"""How renditions are encoded: settings by format and size, and palettes."""

from __future__ import annotations

import pytest
from PIL import Image

from pipeline.images.encoding import OPTIMIZED_SIDE, format_by_extension
from pipeline.images.render import render
from tests.support.pictures import (
    BLUE,
    LIMITS,
    RED,
    encoded,
    is_near,
    recipe,
    rendered,
)


def test_an_unknown_extension_is_refused() -> None:
    with pytest.raises(KeyError):
        format_by_extension(".bmp")


def test_only_small_renditions_have_huffman_tables_of_their_own() -> None:
    # Given two covers, each at a size up to OPTIMIZED_SIDE and a larger one
    size = (OPTIMIZED_SIDE + 44, OPTIMIZED_SIDE + 44)
    flat, noisy = Image.new("RGB", size, "navy"), Image.effect_noise(size, 80).convert("RGB")
    names = (f"{OPTIMIZED_SIDE}x20", f"{OPTIMIZED_SIDE + 1}x20")
    made = [render(encoded(each, "JPEG"), recipe(*names), **LIMITS) for each in (flat, noisy)]
    # Then the small ones have tables of their own, and the large ones the standard tables
    small, large = ([huffman_tables(each[name]) for each in made] for name in names)
    assert small[0] != small[1]
    assert large[0] == large[1] == huffman_tables(encoded(flat, "JPEG"))


def huffman_tables(jpeg: bytes) -> bytes:
    """Return the contents of the DHT segments."""
    found, at = b"", 2
    while jpeg[at + 1] != 0xDA:
        length = int.from_bytes(jpeg[at + 2 : at + 4], "big")
        found += jpeg[at + 4 : at + 2 + length] if jpeg[at + 1] == 0xC4 else b""
        at += 2 + length
    return found


def test_small_jpegs_keep_their_colours_sharp() -> None:
    # Given red and blue columns
    source = Image.new("RGB", (50, 50), RED)
    for x in range(0, 50, 2):
        source.paste(BLUE, (x, 0, x + 1, 50))
    data = encoded(source.resize((400, 400), Image.Resampling.NEAREST), "JPEG", quality=95, subsampling=0)
    # Then they stay red and blue in a small rendition
    small = rendered(data, "50x50")
    assert all(is_near(small.getpixel((x, 25)), BLUE if x % 2 == 0 else RED, 40) for x in range(10, 40))
    # And only larger renditions subsample the colours
    assert [small.layer[1][1:3], rendered(data, "101x20").layer[0][1:3]] == [(1, 1), (2, 2)]
