"""Lists of files, as people and spreadsheets write them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from rsssl.errors import UserError

ESCAPE = "surrogateescape"  # names of files are bytes, and not all of them are UTF-8


def listed_paths(file: Path, key: str, table: bool) -> list[tuple[int, str]]:
    """The paths that a list holds, each with the number of its line.

    Args:
        file: the list.
        key: that gave it, for messages.
        table: whether it is a CSV, whose column `path` holds them; else each line is one.

    Raises:
        UserError: when it cannot be read, is no text, or has no such column.
    """
    try:
        text = file.read_text(encoding="utf-8-sig", errors=ESCAPE)  # spreadsheets begin files with a mark
    except OSError as error:
        raise UserError(f"{key}={file} cannot be read ({error.strerror}): type {key}= with a list that can") from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise UserError(f"{key}={file} line {line} holds a zero byte: save it as plain text in UTF-8, a path a line")
    if not table:
        return [(i + 1, line.strip()) for i, line in enumerate(text.split("\n")) if line.strip()]
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if "path" not in (rows.fieldnames or []):
            raise UserError(
                f"{key}={file} has no column path, but {', '.join(rows.fieldnames or ['nothing'])}: name the column "
                "of the images path, as suggest.csv does"
            )
        return [(rows.line_num, row["path"].strip()) for row in rows if (row["path"] or "").strip()]
    except csv.Error as error:
        raise UserError(
            f"{key}={file} line {rows.line_num} is no row of a table ({error}): save it as a CSV with a column path"
        ) from error
