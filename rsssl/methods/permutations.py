"""The orders in which a jigsaw's tiles may come: permutations that differ in as many places as possible.

A thousand permutations of 9 tiles can differ pairwise in at least 6 places, and not in 7. They cannot in 7, because
then no two could have the same 3 first tiles, and there are only 9 * 8 * 7 = 504 ways to begin. They can in 6, because
the group of the maps

    x -> (a x^(2^k) + b) / (c x^(2^k) + d),   a, b, c, d in GF(8), ad - bc != 0, k = 0, 1, 2,

of the 9 points GF(8) and infinity has 1,512 members, of which all but the identity leave at most 3 points in place:
two members that agree on 4 points are the same (Dixon and Mortimer, "Permutation Groups", 1996, section 7.7:
PGammaL(2, 8)). The 504 with k = 0 differ pairwise in 7 places or more; they come first.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np

INFINITY = 8


def puzzle_orders(grid: int) -> np.ndarray:
    """The orders that a jigsaw is asked in: all 24 for a grid of 2, the first 1000 members of the group for 3.

    Args:
        grid: tiles along each side.

    Returns:
        (P, grid * grid) int64; row p holds the tiles in order p.
    """
    orders = list(permutations(range(4))) if grid == 2 else group()[:1000]
    return np.array(orders, np.int64)


def group() -> list[tuple[int, ...]]:
    """The 1,512 maps as permutations of the points 0 to 7 and INFINITY, those with k = 0 first."""
    a, b, c, d = np.indices((8, 8, 8, 8)).reshape(4, -1, 1)  # 4,096 of each
    p, q = np.array([*range(8), 1]), np.array([*[1] * 8, 0])  # the nine points as fractions p / q
    maps: list[tuple[int, ...]] = []
    for _ in range(3):
        top, bottom = multiply(a, p) ^ multiply(b, q), multiply(c, p) ^ multiply(d, q)
        images = np.where(bottom, multiply(top, inverse(bottom)), INFINITY)  # (4096, 9)
        maps += map(tuple, images[(multiply(a, d) != multiply(b, c))[:, 0]].tolist())
        p = multiply(p, p)
    return list(dict.fromkeys(maps))


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The product in GF(8): polynomials over GF(2), modulo x^3 + x + 1."""
    product = a * (b & 1) ^ (a << 1) * (b >> 1 & 1) ^ (a << 2) * (b >> 2 & 1)
    for bit in (1, 0):
        product = product ^ (product >> bit + 3 & 1) * (0b1011 << bit)
    return product


def inverse(a: np.ndarray) -> np.ndarray:
    """1 / a in GF(8), which is a^6, as a^7 = 1 for all but 0."""
    square = multiply(a, a)
    return multiply(square, multiply(square, square))
