"""The orders in which a jigsaw's tiles may come: permutations that differ in as many places as can be.

`python -m rsssl.methods.permutations` writes the file of the 3x3 puzzle, permutations_3x3.txt, again.

A thousand permutations of 9 tiles can differ pairwise in at least 6 places, and not in 7. Not in 7, for then no two could
have the same 3 first tiles, which leaves room for 9 * 8 * 7 = 504. In 6, as the group of the maps

    x -> (a x^(2^k) + b) / (c x^(2^k) + d),   a, b, c, d in GF(8), ad - bc != 0, k = 0, 1, 2,

of the 9 points GF(8) and infinity has 1,512 members, of which any but the identity keeps at most 3 points: two that kept
the same 4 would be one (Dixon and Mortimer, "Permutation Groups", 1996, section 7.7: PGammaL(2, 8)). The 504 with k = 0
differ pairwise in 7 places or more; they come first.
"""

from __future__ import annotations

from itertools import permutations as all_orders
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("permutations_3x3.txt")
COUNT = 1000
INFINITY = 8


def puzzle_orders(grid: int) -> np.ndarray:
    """(P, grid * grid) int64, row p the tiles in order p: all 24 for a grid of 2, those of the file for 3."""
    if grid == 2:
        return np.array(list(all_orders(range(4))), np.int64)
    rows = FILE.read_text().split()
    return np.array([[int(digit) for digit in row] for row in rows], np.int64)


def multiply(a: int, b: int) -> int:
    """The product in GF(8): polynomials over GF(2), modulo x^3 + x + 1."""
    product = 0
    for bit in range(3):
        if b >> bit & 1:
            product ^= a << bit
    for bit in (4, 3):
        if product >> bit & 1:
            product ^= 0b1011 << (bit - 3)
    return product


INVERSE = {a: b for a in range(1, 8) for b in range(1, 8) if multiply(a, b) == 1}


def image(a: int, b: int, c: int, d: int, k: int, x: int) -> int:
    """(a y + b) / (c y + d) with y = x^(2^k); points are 0 to 7 and INFINITY."""
    if x == INFINITY:
        return multiply(a, INVERSE[c]) if c else INFINITY
    for _ in range(k):
        x = multiply(x, x)
    top, bottom = multiply(a, x) ^ b, multiply(c, x) ^ d
    return multiply(top, INVERSE[bottom]) if bottom else INFINITY


def generate(count: int = COUNT) -> list[tuple[int, ...]]:
    """The first `count` distinct members of the group, k = 0 first."""
    found: dict[tuple[int, ...], None] = {}
    for k in range(3):
        for abcd in range(8**4):
            a, b, c, d = abcd >> 9, abcd >> 6 & 7, abcd >> 3 & 7, abcd & 7
            if multiply(a, d) != multiply(b, c):
                found[tuple(image(a, b, c, d, k, x) for x in range(9))] = None
    return list(found)[:count]


if __name__ == "__main__":
    FILE.write_text("".join("".join(map(str, order)) + "\n" for order in generate()))
    print(f"{COUNT} permutations: {FILE}")
