"""Measures facts of pictures whose hashes are known."""

from __future__ import annotations

from typing import Any

from PIL import Image

from pipeline.images.render import render
from tests.support.pictures import recipe

ROOMY = {"max_pixels": 20_000_000, "max_decoded_pixels": 20_000_000}


def facts_of(source: bytes, *names: str, fit: str = "cover") -> dict[str, Any]:
    facts: dict[str, Any] = {}
    render(source, recipe(*(names or ("50x50",)), fit=fit), **ROOMY, facts=facts)
    return facts


#: Hashes by the reference implementation, version 0.1.1, of `drawn` pictures: width, height, and if they have alpha.
VECTORS = {
    (32, 32, False): "G6cNRxKQhod0eHeIh3eHd3d3CEl4oI8I",
    (100, 75, False): "XKcNTZCQh4d0d3iHh3d4eJCECPuH",
    (20, 60, False): "G6cJOhaQgoeId4d3oHIH+og=",
    (16, 16, True): "2aaJLRAcgHZleHd3h5BjGPmHf3hPeIeHdw==",
    (40, 24, True): "2qaJO4wcgIdleIeAZRf6h394T3eHiHc=",
    (24, 40, True): "2aaJKxIcgGN4eHeQYhf5h394T3h3iHc=",
}


def drawn(width: int, height: int, has_alpha: bool) -> Image.Image:
    """Draw a picture without symmetry, whose frequencies are never exactly zero."""
    pixels = [
        (
            x * x * 255 // (width * width),
            (x + 2 * y) * 255 // (width + 2 * height),
            (x * 31 + y * y * 17) % 256,
            255 - x * y * 200 // (width * height) if has_alpha else 255,
        )
        for y in range(height)
        for x in range(width)
    ]
    return Image.frombytes("RGBA", (width, height), bytes(value for pixel in pixels for value in pixel))
