"""JSON of ours: sealed, read back as it was written, and anything else is damage that names the file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from rsssl.engine.files import write_sealed
from rsssl.records import Damaged, digest, read_json, read_sealed

CONTENT = {"b": [1, 2.5, None], "a": {"10": "ü", "9": float("inf")}, "c": True}


def test_the_digest_is_the_sha256_of_the_sorted_text() -> None:
    # computed with: printf '{"a":[1,2],"b":0.5}' | sha256sum
    assert digest({"b": 0.5, "a": [1, 2]}) == hashlib.sha256(b'{"a":[1,2],"b":0.5}').hexdigest()


def test_what_is_sealed_comes_back_and_every_flipped_bit_of_it_is_damage(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    write_sealed(file, CONTENT)
    assert read_sealed(file, "again") == CONTENT
    written = file.read_bytes()
    for place in range(len(written)):
        for bit in range(8):
            damaged = bytearray(written)
            damaged[place] ^= 1 << bit
            file.write_bytes(damaged)
            try:
                assert read_sealed(file, "again") == CONTENT  # spaces may be others
            except Damaged as error:
                assert str(file) in str(error) and str(error).endswith("again")


def test_keys_that_are_numbers_are_sealed_as_json_reads_them(tmp_path: Path) -> None:
    write_sealed(tmp_path / "record.json", {"sizes": {10: 1, 9: (2, 3)}})
    assert read_sealed(tmp_path / "record.json", "again") == {"sizes": {"10": 1, "9": [2, 3]}}


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"a": 1', "\x00", "[" * 100_000, '{"a": 1}'])
def test_what_is_no_sealed_object_is_damage(text: str, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(Damaged, match=r"record\.json is damaged .*: type this$"):
        read_sealed(tmp_path / "record.json", "type this")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"7"])
def test_json_of_others_is_an_object(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(Damaged, match=r"results\.json"):
        read_json(tmp_path / "results.json", "type this")


def test_a_record_that_is_missing_or_a_folder_is_named(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing.json"):
        with pytest.raises(Damaged, match="cannot be read"):
            read_sealed(place, "type this")


def test_json_is_read_in_one_place() -> None:
    root = Path(__file__).parents[1] / "rsssl"
    others: dict[str, Any] = {}
    for file in root.rglob("*.py"):
        if n := file.read_text().count("json.loads(") + file.read_text().count("json.load("):
            others[file.relative_to(root).as_posix()] = n
    assert others == {
        "records.py": 2,
        "data/chunks.py": 1,  # between processes
        "data/worker.py": 2,
        "data/members.py": 1,  # a user's own
        "models/weights.py": 1,  # a header that has just been made
        "data/decode.py": 1,  # a journal, whose lines carry checksums
        "engine/resume.py": 1,  # of what has just been written as text
        "networks/starts.py": 1,
        "networks/load.py": 1,  # a card that a user typed
        "report/results.py": 1,  # of any run, with errors of its own
    }
    assert json.loads("1") == 1
