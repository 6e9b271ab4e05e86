"""Fixtures shared by all tests: where the real imagery is, and a private store for each test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side; more threads than cores crawl


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real imagery (RSSSL_TEST_DATA, or ../shared/data beside the repository); skips without it."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("RSSSL_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip("the real imagery is not here; set RSSSL_TEST_DATA to a folder that holds it")
    return folder


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty artefact store, private to one test."""
    folder = tmp_path / "store"
    monkeypatch.setenv("RSSSL_STORE", str(folder))
    return folder
