"""Small plots as SVG inside a page: sharp at any size, in the page's colours, whose classes report.css has."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rsssl.report.html.document import text

# Marks of a series, around (0, 0), in the order in which series take them.
MARKS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0",  # circle
    "M-3.6 -3.6h7.2v7.2h-7.2z",  # square
    "M0 -4.6l4.4 7.8h-8.8z",  # triangle
    "M0 -5l4.4 5l-4.4 5l-4.4 -5z",  # diamond
    "M0 4.6l4.4 -7.8h-8.8z",  # triangle, its tip below
    "M-1.6 -4.8h3.2v3.2h3.2v3.2h-3.2v3.2h-3.2v-3.2h-3.2v-3.2h3.2z",  # plus
    "M-4.2 -2L-2 -4.2L0 -2.2L2 -4.2L4.2 -2L2.2 0L4.2 2L2 4.2L0 2.2L-2 4.2L-4.2 2L-2.2 0z",  # cross
)
DOT = "M-2.4 0a2.4 2.4 0 1 0 4.8 0a2.4 2.4 0 1 0 -4.8 0"  # of baselines
COLOURS = 6  # --p0 to --p5 in report.css
DASHES = 4  # .d0 to .d3: baselines


def mark(d: str, x: float, y: float) -> str:
    return f'<path class="mark" d="{d}" transform="translate({x:.1f} {y:.1f})"/>'


def linear(low: float, high: float, begin: float, end: float) -> Callable[[float], float]:
    """Values from low to high to pixels from begin to end."""
    span = (high - low) or 1.0
    return lambda value: begin + (value - low) / span * (end - begin)


def logarithmic(low: float, high: float, begin: float, end: float) -> Callable[[float], float]:
    inner = linear(math.log(low), math.log(high), begin, end)
    return lambda value: inner(math.log(value))


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers, 1, 2 or 5 times a power of ten apart, of which the outer ones enclose low and high."""
    rough = max(high - low, 1e-9 * max(abs(low), abs(high), 1e-9)) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, max(last, first + 1) + 1)]


class Plot:
    """A plot that is drawn in the order of calls.

    Args:
        width: pixels at its natural size, as `height`.
        height: see there.
        label: what it shows, for readers who do not see it.
        margin: pixels at the left, the top, the right and below.
    """

    def __init__(
        self, width: int, height: int, label: str, margin: tuple[int, int, int, int] = (44, 10, 12, 40)
    ) -> None:
        self.width, self.height, self.label = width, height, label
        self.left, self.top = margin[0], margin[1]
        self.right, self.bottom = width - margin[2], height - margin[3]
        self.parts: list[str] = []

    def add(self, part: str) -> None:
        self.parts.append(part)

    def text(self, x: float, y: float, words: str, anchor: str = "start", kind: str = "tick") -> None:
        """Words at a place, from where they begin, end or have their middle."""
        self.add(f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text(words)}</text>')

    def y_axis(self, at: Callable[[float], float], values: Sequence[float], title: str) -> None:
        """Faint lines at some values with their numbers, and what they are above the first of them."""
        for value in values:
            y = at(value)
            self.add(f'<path class="grid" d="M{self.left} {y:.1f}H{self.right}"/>')
            self.text(self.left - 7, y + 4, f"{value:g}", "end")
        if title:
            middle = (self.top + self.bottom) / 2
            self.add(
                f'<text class="axis" transform="translate(12 {middle:.1f}) rotate(-90)" text-anchor="middle">'
                f"{text(title)}</text>"
            )

    def x_axis(self, at: Callable[[float], float], values: Sequence[tuple[float, str]], title: str) -> None:
        """A line with its ticks and what they are called, and what they are below."""
        self.add(f'<path class="rule" d="M{self.left} {self.bottom}H{self.right}"/>')
        for value, name in values:
            self.add(f'<path class="rule" d="M{at(value):.1f} {self.bottom}v4"/>')
            self.text(at(value), self.bottom + 17, name, "middle")
        if title:
            self.text((self.left + self.right) / 2, self.height - 5, title, "middle", "axis")

    def line(self, points: Sequence[tuple[float, float]]) -> str:
        """A line through points in pixels."""
        return '<path class="line" d="M' + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + '"/>'

    def svg(self) -> str:
        """The whole, no wider than its natural size."""
        size = f'viewBox="0 0 {self.width} {self.height}" style="max-width: {self.width}px"'
        return f'<svg {size} role="img" aria-label="{text(self.label)}">{"".join(self.parts)}</svg>'
