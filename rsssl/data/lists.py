"""Lists of files, as people and spreadsheets write them: text with a path a line, CSV, Parquet."""

from __future__ import annotations

import csv
import io
import itertools
import os
import posixpath
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np

from rsssl.data import cloud
from rsssl.data.catalog import Catalog
from rsssl.data.class_names import ClassColumn
from rsssl.data.names import Names
from rsssl.data.readers import Files
from rsssl.data.remote import is_remote
from rsssl.engine.files import sha256
from rsssl.engine.ranks import world_size
from rsssl.errors import UserError

ESCAPE = "surrogateescape"  # names of files are bytes, and not all of them are UTF-8
TEXT = "utf-8-sig"  # spreadsheets begin files with a mark
PATHS, CLASSES = ("path", "url"), ("class", "label")  # columns
STDIN = "-"
BATCH = 1 << 16  # rows of a Parquet file that are looked at together


class Row(NamedTuple):
    """A line of a list: its number, the path, and the class where there is one."""

    line: int
    path: str
    label: str | None = None


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
        with open(file, encoding=TEXT, errors=ESCAPE) as text:
            lines = _text_lines(text, f"{key}={file}")
            return [row[:2] for row in (_table(lines, f"{key}={file}") if table else _plain(lines))]
    except OSError as error:
        raise _unreadable(key, str(file), error) from error


def _unreadable(key: str, name: str, error: OSError) -> UserError:
    return UserError(f"{key}={name} cannot be read ({error.strerror}): type {key}= with a list that can")


def _text_lines(text: TextIO, origin: str) -> Iterator[str]:
    for number, line in enumerate(text, 1):
        if "\0" in line:
            raise UserError(f"{origin} line {number} holds a zero byte: save it as plain text in UTF-8, a path a line")
        yield line


def _plain(lines: Iterator[str]) -> Iterator[Row]:
    return (Row(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip())


def _table(lines: Iterator[str], origin: str) -> Iterator[Row]:
    """The rows of a CSV."""
    rows = csv.reader(lines)
    try:
        names = next(rows, [])
        path, label = column(names, origin)
        for row in rows:
            if len(row) > path and row[path].strip():
                value = row[label].strip() if label is not None and len(row) > label else None
                yield Row(rows.line_num, row[path].strip(), value)
    except csv.Error as error:
        raise UserError(
            f"{origin} line {rows.line_num} is no row of a table ({error}): save it as a CSV with a column path"
        ) from error


def column(names: Sequence[str], origin: str) -> tuple[int, int | None]:
    """The numbers of the columns of paths and, where there is one, of classes."""
    path = next((names.index(name) for name in PATHS if name in names), None)
    if path is None:
        raise UserError(
            f"{origin} has no column path, but {', '.join(names) or 'nothing'}: name the column of the images path, as "
            "suggest.csv does"
        )
    return path, next((names.index(name) for name in CLASSES if name in names), None)


def rows_of(name: str, key: str) -> Iterator[Row]:
    """The rows of a list of any kind.

    Args:
        name: of a file or its address; "-" for what comes in through the standard input. Of .parquet; else of text,
            which is a CSV where its first line names a column `path` or `url`.
        key: that gave it, for messages.

    Raises:
        UserError: when it cannot be read.
    """
    origin = f"{key}={name}"
    try:
        if name.lower().endswith(".parquet"):
            yield from _parquet(name, origin)
            return
        with _opened_text(name) as text:
            lines = _text_lines(text, origin)
            first = next(lines, "")
            table = name.lower().endswith(".csv") or {*next(csv.reader([first]), ())} & {*PATHS}
            lines = itertools.chain([first], lines)
            yield from _table(lines, origin) if table else _plain(lines)
    except OSError as error:
        raise _unreadable(key, name, error) from error


def _opened_text(name: str) -> TextIO:
    if name == STDIN:
        return open(sys.stdin.fileno(), encoding=TEXT, errors=ESCAPE, closefd=False)
    if is_remote(name):
        return io.TextIOWrapper(io.BytesIO(cloud.whole(name)), TEXT, ESCAPE)
    return open(Path(name).expanduser(), encoding=TEXT, errors=ESCAPE)


def _parquet(name: str, origin: str) -> Iterator[Row]:
    """The rows of a Parquet file."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"{origin} needs pyarrow: type pip install 'rsssl[parquet]', or save it as a CSV") from error
    try:
        file = parquet.ParquetFile(io.BytesIO(cloud.whole(name)) if is_remote(name) else Path(name).expanduser())
        names = file.schema_arrow.names
        path, label = column(names, origin)
        wanted = [names[path], *([names[label]] if label is not None else [])]
        line = 0
        for batch in file.iter_batches(BATCH, columns=wanted):
            values = [batch.column(name).to_pylist() for name in wanted]
            for row in zip(*values, strict=True):
                line += 1
                if row[0]:
                    yield Row(line, str(row[0]), None if row[1:] in ((), (None,)) else str(row[1]))
    except pyarrow.ArrowException as error:
        raise UserError(f"{origin} is damaged, or no Parquet file ({error}): save it again, or as a CSV") from error


def catalog_of(name: str, root: str | None, classes: Sequence[str] | None) -> Catalog:
    """The images of a list, sorted by their paths.

    Args:
        name: see `rows_of`.
        root: the folder, or the address, that relative paths are below; None for the list's own. Addresses that stand
            in the list are only opened where they lie below it.
        classes: see `rsssl.data.dataset.Dataset`.

    Raises:
        UserError: for a list that cannot be read or is empty, an image that stands in it twice, and an address that
            nobody typed.
    """
    if name == STDIN and world_size() > 1:
        raise UserError("dataset.list=- is read by one process: write the list to a file, and type dataset.list=FILE")
    origin, root = f"dataset.list={name}", _root(name, root)
    column = ClassColumn(origin, classes)

    def paths() -> Iterator[str]:
        for row in rows_of(name, "dataset.list"):
            column.add(row.label)
            yield _below(root, row, origin)

    every = Names.of(paths())
    if not len(every):
        raise UserError(f"{origin} lists no image: type dataset.list= with a list that has a path a line")
    labels, names = column.labels()
    if (order := every.in_order()) is not None:
        every, labels = Names.of(map(os.fsdecode, every.encoded(order))), labels[order]
    for first, second in itertools.pairwise(every):
        if first == second:
            raise UserError(f"{origin} lists {first} twice: each image can take part once")
    told = sha256(repr(names).encode() + np.ascontiguousarray(labels).tobytes())
    return Catalog(root, every, labels, names, Files(root), origin=told)


def _root(name: str, root: str | None) -> str:
    if root is None and name != STDIN:
        root = posixpath.dirname(name) if is_remote(name) else str(Path(name).expanduser().parent)
    if root is not None and is_remote(root):
        return cloud.address(root.rstrip("/"))
    return str(Path(root or ".").expanduser().resolve())


def _below(root: str, row: Row, origin: str) -> str:
    """A path as the catalog has it, relative to its root where it lies below it."""
    if not is_remote(root):
        if is_remote(row.path):
            raise UserError(
                f"{origin} line {row.line} names {row.path}, and an address is only opened where one that it lies "
                "below was typed: if you trust the list, type dataset.root= with that"
            )
        full = os.path.normpath(os.path.join(root, row.path))
        return os.path.relpath(full, root).replace(os.sep, "/") if full.startswith(root + os.sep) else full
    if (path := cloud.relative(root, row.path)) is None:
        raise UserError(
            f"{origin} line {row.line} names {row.path}, which does not lie below dataset.root={root}: type "
            "dataset.root= with the address that all of them lie below, if you trust the list"
        )
    return path
