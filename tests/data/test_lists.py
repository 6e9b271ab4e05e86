"""Lists of files as people save them, against what was put into them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsssl.data.lists import listed_paths
from rsssl.errors import UserError


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_paths_come_with_the_line_that_names_them(tmp_path: Path, mark: str, end: str) -> None:
    lines = ["a.tif", "", " b/é.tif ", "c\x0b.tif"]
    (tmp_path / "list.txt").write_bytes((mark + end.join(lines)).encode())
    assert listed_paths(tmp_path / "list.txt", "images", False) == [(1, "a.tif"), (3, "b/é.tif"), (4, "c\x0b.tif")]
    table = ["class,path", "x,a.tif", ",", 'y,"b, c.tif",more']
    (tmp_path / "list.csv").write_bytes((mark + end.join(table)).encode())
    assert listed_paths(tmp_path / "list.csv", "images", True) == [(2, "a.tif"), (4, "b, c.tif")]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"path\na.tif\nb\0.tif\n", "line 3 holds a zero byte"),
        ("path\na.tif\n".encode("utf-16"), "line 1 holds a zero byte"),
        (b"path\na.tif\n" + b"x" * 200_000, "line 3 is no row of a table"),
        (b"file\na.tif\n", "no column path, but file"),
        (b"", "no column path, but nothing"),
    ],
)
def test_what_is_no_list_is_named_with_its_line(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(UserError, match=expected):
        listed_paths(tmp_path / "list.csv", "images", True)


def test_a_list_that_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"images=.* cannot be read \(Is a directory\)"):
        listed_paths(tmp_path, "images", True)
