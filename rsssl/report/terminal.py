"""Sentences and tables on a terminal or in a pipe. Imports rich: imported where something is printed."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

UNLIMITED = 10_000  # columns of a pipe, which has no width: nothing is cut


class Terminal:
    """Standard output. Texts are printed as they are, without rich's markup: a class may be called [water]."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        if not self.console.is_terminal:
            self.console = Console(highlight=False, width=UNLIMITED)

    def plain(self, text: str) -> str:
        """The text in characters that the output can show: in ASCII, 71.2 ± 0.4 becomes 71.2 +/- 0.4."""
        encoding = self.console.encoding
        if not encoding.startswith("utf"):
            text = text.replace("±", "+/-").replace("—", "-")
        return text.encode(encoding, "replace").decode(encoding)

    def line(self, text: str = "", style: str = "", wrap: int | None = None) -> None:
        """Prints a text.

        Args:
            text: any text.
            style: of rich, such as "dim" or "yellow"; seen on terminals only.
            wrap: lines are broken between words after so many columns, or at the terminal's width; None: not broken.
        """
        width = None if wrap is None else min(wrap, self.console.width)
        self.console.print(self.plain(text), style=style, markup=False, soft_wrap=wrap is None, width=width)

    def table(self, headings: Sequence[str], lines: Sequence[Sequence[tuple[str, str]]], words: int = 1) -> None:
        """Prints a table with an empty line above and below.

        Where the terminal is too narrow for all columns, it becomes several tables that begin with the same columns.

        Args:
            headings: of the columns.
            lines: (text, style of rich) for each column; an empty line stays empty.
            words: so many columns at the left hold words. They stand in each table; the others are aligned to the
                right.
        """
        headings = [self.plain(heading) for heading in headings]
        rows = [[Text(self.plain(text), style) for text, style in line] for line in lines]
        columns = zip(headings, *([cell.plain for cell in row] for row in rows if row), strict=True)
        widths = [max(map(cell_len, column)) + 2 for column in columns]
        room = self.console.width - sum(widths[:words])
        groups: list[list[int]] = [[]]
        for i in range(words, len(headings)):
            if groups[-1] and sum(widths[k] for k in groups[-1]) + widths[i] > room:
                groups.append([])
            groups[-1].append(i)
        for group in groups:
            shown = [*range(words), *group]
            table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
            for i in shown:
                right = i >= words
                table.add_column(headings[i], justify="right" if right else "left", overflow="fold", no_wrap=right)
            for row in rows:
                table.add_row(*(row[i] for i in shown if row))
            self.console.print()
            self.console.print(table)
        self.console.print()
