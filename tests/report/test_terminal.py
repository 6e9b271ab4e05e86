"""What is printed on a terminal, in a pipe and where only ASCII can be shown."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable

import pytest

from rsssl.report.terminal import Terminal

LINES = [[("[water]", ""), ("71.2 ± 0.4", "bold green"), ("—", "")], [], [("forest", "dim"), ("5", ""), ("6", "")]]


def printed(show: Callable[[Terminal], None]) -> list[str]:
    """The lines that `show` prints on a standard output that knows ASCII alone."""
    out = io.TextIOWrapper(buffer := io.BytesIO(), encoding="ascii", write_through=True)
    with contextlib.redirect_stdout(out):
        show(Terminal())
    without_colours = re.sub(r"\x1b\[[0-9;]*m", "", buffer.getvalue().decode("ascii"))
    return [line.rstrip() for line in without_colours.splitlines()]


def table(terminal: Terminal) -> None:
    terminal.table(["Class", "User's %", "Area"], LINES)


def test_a_pipe_is_never_cut_and_knows_no_markup() -> None:
    lines = ["Class        User's %  Area", "[water]  71.2 +/- 0.4     -", "", "forest              5     6"]
    assert printed(table) == ["", *lines, ""]
    assert printed(lambda t: t.line("[bold]Zürich ± —" + " x" * 2000, "dim")) == ["[bold]Z?rich +/- -" + " x" * 2000]


def test_a_narrow_terminal_repeats_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FORCE_COLOR": "1", "COLUMNS": "24", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    first = ["Class        User's %", "[water]  71.2 +/- 0.4", "", "forest              5"]
    second = ["Class    Area", "[water]     -", "", "forest      6"]
    assert printed(table) == ["", *first, "", *second, ""]


def test_lines_are_broken_between_words() -> None:
    assert printed(lambda terminal: terminal.line("one two three four", wrap=10)) == ["one two", "three four"]
