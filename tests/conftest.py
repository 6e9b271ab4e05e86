"""Fixtures shared by all tests: where the real imagery is, small made-up imagery, and processes for them."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side; more threads than cores crawl

import rsssl
from rsssl.data.pack import Pack
from rsssl.data.packing import pack
from rsssl.data.raster import write_geotiff
from rsssl.data.write_pack import Content, write_pack
from rsssl.models.card import SensorCard

REPOSITORY = Path(__file__).resolve().parents[1]


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
    """Runs rsssl-run, or Python code, in processes that have imported all (see workshop.py); one at a time."""

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
        self.process.kill()  # it waits for work, and has nothing to lose: Python's own end takes seconds
        self.process.wait()


@pytest.fixture(scope="session")
def workshop() -> Iterator[Workshop]:
    made = Workshop()
    yield made
    made.close()


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """refused(*arguments): what rsssl-run, in this process, says of a command line that it refuses."""

    def run(*arguments: str) -> str:
        from hydra.core.global_hydra import GlobalHydra

        from rsssl.run import main

        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setattr(sys, "argv", ["rsssl-run", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        GlobalHydra.instance().clear()
        message = capsys.readouterr().err
        assert stop.value.code == 2 and "Traceback" not in message
        return message

    return run


@pytest.fixture
def method_of() -> Callable[..., Any]:
    """method_of(name, backbone, **arguments): a method as its YAML has it, but for these arguments."""

    def build(name: str, backbone: Any, **arguments: object) -> Any:
        from hydra.utils import instantiate
        from omegaconf import OmegaConf

        cfg = OmegaConf.load(REPOSITORY / "conf" / "ssl" / f"{name}.yaml")
        return instantiate(cfg.get("ssl", cfg), backbone=backbone, **arguments)

    return build


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def root(tmp_path: Path, random: np.random.Generator) -> Path:
    """Two classes of six good 32x32 RGB JPEGs."""
    folder = tmp_path / "images"
    for name in ("field", "water"):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / name / f"{i}.jpg")
    return folder


@pytest.fixture(scope="session")
def two_colours() -> Callable[..., Path]:
    """two_colours(folder, n, size, suffix): that folder, of two classes of n images of noise around a colour."""

    def make(folder: Path, n: int = 12, size: int = 16, suffix: str = "png") -> Path:
        draw = np.random.default_rng(0)
        for name, colour in (("field", 60), ("water", 160)):
            (folder / name).mkdir(parents=True)
            for i in range(n):
                pixels = (colour + draw.integers(0, 60, (size, size, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{i}.{suffix}")
        return folder

    return make


@pytest.fixture
def packed() -> Callable[..., Pack]:
    """packed(root, **fields of the dataset): the pack of that folder, beside it."""

    def make(root: Path, workers: int = 1, **fields: object) -> Pack:
        dataset = rsssl.dataset("folder", root=str(root), **fields)  # type: ignore[arg-type]
        return pack(dataset, root.parent / "pack", workers=workers, progress=False)

    return make


@pytest.fixture
def written() -> Callable[..., Pack]:
    """written(folder, names, labels, classes, ground=, skipped=): a pack of random pixels (N, 2, 3, 4) of uint16, as
    packing writes it. `numpy.random.default_rng(N)` gives the pixels, and then the moments."""

    def write(folder: Path, names: list[str], labels: np.ndarray, classes: tuple[str, ...] = (), **more: Any) -> Pack:
        folder.mkdir(parents=True)
        random, n, two = np.random.default_rng(len(names)), len(names), (0.5, 0.5)
        pixels, moments = random.integers(0, 9, (n, 2, 3, 4), np.uint16), random.random((n, 2, 3))
        pixels.tofile(folder / "images.part")
        moments.tofile(folder / "moments.part")
        checksum = hashlib.sha256(pixels.tobytes()).hexdigest()
        files = folder / "images.part", checksum, folder / "moments.part"
        content = Content(*files, names, labels, more.get("ground"), more.get("skipped", {}))
        card = SensorCard("made", ("a", "b"), "uint16", (0.0, 0.0), (9.0, 9.0), None, two, two, classes, (3, 4))
        about = {"sums": moments.sum(0).tolist(), "source": "s", "root": "/r", "done": {"resized": 2}}
        return write_pack(folder, card, content, about)

    return write


@pytest.fixture
def tiffs(tmp_path: Path) -> Callable[..., Path]:
    """tiffs(arrays (C, H, W), nodata): a folder of one class of GeoTIFFs."""

    def make(arrays: list[np.ndarray], nodata: float | None = None) -> Path:
        folder = tmp_path / "tiffs" / "one"
        folder.mkdir(parents=True)
        for i, array in enumerate(arrays):
            write_geotiff(folder / f"{i}.tif", array, nodata=nodata)
        return folder.parent

    return make


@pytest.fixture(scope="session")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 24 tiles of 16 x 16 pixels and 3 bands, told apart by their texture."""
    root, rng = tmp_path_factory.mktemp("tiles"), np.random.default_rng(0)
    y, x = np.mgrid[:16, :16]
    for name in ("stripes", "blobs", "noise"):
        (root / name).mkdir()
        for i in range(24):
            phase = rng.uniform(0, 6.3, 2)
            texture = {
                "stripes": np.sin(x + phase[0]),
                "blobs": np.sin(x / 3 + phase[0]) * np.sin(y / 3 + phase[1]),
                "noise": rng.normal(size=(16, 16)),
            }[name]
            pixels = 120 + rng.uniform(30, 60, 3) * texture[..., None]
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def pack_of_tiles(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of their pack."""
    folder = tmp_path_factory.mktemp("packed") / "pack"
    pack(rsssl.dataset("folder", root=str(tiles)), folder, workers=1, progress=False)
    return folder


def environment_of(folder: Path, **more: str) -> dict[str, str]:
    """For a command in that folder, with a store of its own."""
    return (
        os.environ
        | {"PYTHONPATH": str(REPOSITORY), "RSSSL_STORE": str(folder / "store"), "OMP_NUM_THREADS": "1"}
        | more
    )


@pytest.fixture(scope="session")
def documents() -> Iterator[Any]:
    """The module documents.py, which understands the manual's code blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        import documents

        yield documents


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 3 MB, where mounting is allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "mount") or libc.mount(b"tmpfs", str(place).encode(), b"tmpfs", 0, b"size=3m") != 0:
        pytest.skip("mounting a small file system is not allowed here")
    yield place
    libc.umount(str(place).encode())


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Any]:
    """A web server of an empty folder, see range_server.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        from range_server import RangeServer
    (tmp_path / "served").mkdir()
    made = RangeServer(tmp_path / "served")
    yield made
    made.close()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """started(*arguments of Python, cwd=.., prefix=[..], ENVIRONMENT=..): a process; its remains are killed in the
    end, and so are those of its children."""
    begun: list[subprocess.Popen[str]] = []

    def start(*argv: str, cwd: Path = tmp_path, prefix: Sequence[str] = (), **env: str) -> subprocess.Popen[str]:
        cwd.mkdir(parents=True, exist_ok=True)
        begun.append(
            subprocess.Popen(
                [*prefix, sys.executable, *argv],
                cwd=cwd,
                env=environment_of(cwd, **env),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return begun[-1]

    yield start
    for process in begun:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def torchrun(started: Callable[..., subprocess.Popen[str]]) -> Callable[..., subprocess.Popen[str]]:
    """torchrun(*arguments, options=[..], ...): a real torchrun of rsssl.run, with what `started` takes."""

    def start(*argv: str, options: Sequence[str] = (), **more: Any) -> subprocess.Popen[str]:
        return started("-m", "torch.distributed.run", *options, "-m", "rsssl.run", *argv, **more)

    return start


@pytest.fixture
def until() -> Callable[..., None]:
    """until(condition): waits for it, at most a minute and a half."""

    def wait(condition: Callable[[], object], what: str = "it did not happen") -> None:
        deadline = time.monotonic() + 90
        while not condition():
            assert time.monotonic() < deadline, what
            time.sleep(0.02)

    return wait
