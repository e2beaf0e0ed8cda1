"""Makes broken copies of good files, the same in each run."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random
from typing import Final

Mutation = Callable[[bytearray, Random], None]

#: Edge values of sizes, counts and offsets.
_EDGES: Final = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)


def mutated(data: bytes, seed: str) -> bytes:
    """Return a copy of `data` with one to four faults, determined by the seed."""
    random = Random(seed)
    copy = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        if copy:
            random.choice(_MUTATIONS)(copy, random)
    return bytes(copy)


def _place(data: bytearray, random: Random) -> int:
    """Choose a place, half of the time in the first 512 bytes, where the fragile headers are."""
    return random.randrange(min(len(data), 512) if random.random() < 0.5 else len(data))


def _flip_bits(data: bytearray, random: Random) -> None:
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        data[_place(data, random)] ^= 1 << random.randrange(8)


def _truncate(data: bytearray, random: Random) -> None:
    del data[_place(data, random) :]


def _write_an_edge(data: bytearray, random: Random) -> None:
    start = _place(data, random)
    packed = struct.pack(random.choice((">I", "<I")), random.choice(_EDGES))
    width = random.choice((1, 2, 4))
    data[start : start + width] = packed[:width] if random.random() < 0.5 else packed[-width:]


def _overwrite(data: bytearray, random: Random) -> None:
    start = _place(data, random)
    size = min(random.choice((4, 32, 1024)), len(data) - start)
    data[start : start + size] = random.choice((bytes(size), b"\xff" * size, random.randbytes(size)))


def _remove(data: bytearray, random: Random) -> None:
    start = _place(data, random)
    del data[start : start + random.choice((1, 4, 64, 4096))]


def _repeat(data: bytearray, random: Random) -> None:
    start = _place(data, random)
    data[start:start] = data[start : start + random.choice((1, 16, 256, 4096))] * random.choice((1, 2, 16))


_MUTATIONS: Final[tuple[Mutation, ...]] = (_flip_bits, _truncate, _write_an_edge, _overwrite, _remove, _repeat)
