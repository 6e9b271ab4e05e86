"""A decoding process that the system kills: its images are decoded all the same, and nobody waits for it."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rsssl
from rsssl.data import chunks, parallel
from rsssl.data.conform import Form
from rsssl.data.packing import pack
from rsssl.data.readers import Files
from rsssl.data.worker import Worker


@pytest.mark.parametrize("after", [0, 2])
def test_a_worker_killed_with_a_chunk_in_hand(
    tmp_path: Path,
    random: np.random.Generator,
    after: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Frozen with its first or its third chunk in hand, then, when all the rest is done and waits for it, SIGKILL."""
    (tmp_path / "tiles" / "a").mkdir(parents=True)
    for i in range(48):
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(
            tmp_path / "tiles" / "a" / f"{i}.png"
        )
    size = 4 * 16 * 16 * 3  # bytes of a chunk
    dataset = rsssl.dataset("folder", str(tmp_path / "tiles"))
    alone = pack(dataset, tmp_path / "alone", workers=1, progress=False, chunk_bytes=size)
    frozen, victims, held = threading.Event(), [], []

    class Doomed(Worker):
        done = 0

        def do(self, start: int, stop: int, items: list) -> dict:
            if self.done == after:
                os.kill(self._process.pid, signal.SIGSTOP)
                victims.append(self._process)
                held.append((start, stop))
                frozen.set()
            self.done += 1
            return super().do(start, stop, items)

    own, here = parallel.do_chunk, []

    def main_process(plan: chunks.Plan, start: int, stop: int, items: list) -> dict:
        assert frozen.wait(60)  # else this process might leave the worker nothing to do
        here.append((start, stop))
        if len(here) + after == 11:  # of twelve: from here on it waits for the worker
            threading.Timer(0.3, os.kill, (victims[0].pid, signal.SIGKILL)).start()
        return own(plan, start, stop, items)

    monkeypatch.setattr(parallel, "Worker", Doomed)
    monkeypatch.setattr(parallel, "do_chunk", main_process)
    found: list = []

    def packing() -> None:
        found.append(pack(dataset, tmp_path / "two", workers=2, progress=False, chunk_bytes=size))

    thread = threading.Thread(target=packing, daemon=True)  # else a hang here would be one of the tests
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "it hangs"
    assert found[0].sha256 == alone.sha256 and found[0].fingerprint == alone.fingerprint
    assert held[0] == here[-1] and victims[0].returncode == -signal.SIGKILL
    assert caplog.text.count("A decoding process died") == 1


def test_a_worker_ends_with_its_packing(tmp_path: Path, random: np.random.Generator) -> None:
    """One that is frozen for good does not hold up what no longer needs it."""
    form_of = tmp_path / "tiles" / "a"
    form_of.mkdir(parents=True)
    Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(form_of / "a.png")
    whole = pack(rsssl.dataset("folder", str(tmp_path / "tiles")), tmp_path / "pack", workers=1, progress=False)
    assert len(whole) == 1
    form = Form(("a",), 1, (0,), "uint8", (16, 16), None, (0.0,), (255.0,))
    worker = Worker(chunks.Plan(Files(""), form, "", ""))
    os.kill(worker._process.pid, signal.SIGSTOP)
    worker.close()
    assert worker._process.returncode == -signal.SIGKILL
