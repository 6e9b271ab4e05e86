"""Fixtures shared by all tests: where the real imagery is, and a private store for each test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

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


class Workshop:
    """Runs rsssl-run, or Python code, in processes that need no imports (see workshop.py); one piece of work at a time."""

    def __init__(self) -> None:
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("workshop.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdin and self.process.stdout
        self._in, self._out = self.process.stdin, self.process.stdout
        assert self._out.readline() == "ready\n"

    def start(self, cwd: Path, **job: object) -> list[int]:
        """Begins the work; the processes' numbers. job: argv or code, and ranks, env."""
        cwd.mkdir(parents=True, exist_ok=True)
        self.log = cwd / "log.txt"
        self.log.unlink(missing_ok=True)
        environment = {"RSSSL_STORE": str(cwd / "store")} | job.pop("env", {})  # type: ignore[operator]
        print(json.dumps({"cwd": str(cwd), "log": str(self.log), "env": environment} | job), file=self._in, flush=True)
        return list(json.loads(self._out.readline()))

    def wait(self) -> list[int]:
        """The exit codes, when all have ended."""
        return list(json.loads(self._out.readline()))

    def run(self, cwd: Path, *argv: str, exits: int | None = 0, **job: object) -> str:
        """Does the work and gives back what it printed; fails when an exit code is another one than `exits`."""
        self.start(cwd, **({"argv": argv} if argv else {}), **job)
        codes, text = self.wait(), self.log.read_text()
        assert exits is None or set(codes) == {exits}, f"exit codes {codes}: {text[-4000:]}"
        return text

    def close(self) -> None:
        self._in.close()
        self.process.wait(30)


@pytest.fixture(scope="session")
def workshop() -> Iterator[Workshop]:
    made = Workshop()
    yield made
    made.close()
