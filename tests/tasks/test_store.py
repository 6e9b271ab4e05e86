"""`task=store`: what the store holds and what needs it, what of it is damaged, and what is removed and what is not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from rsssl.engine import contents
from rsssl.engine.contents import Held, sweep
from rsssl.engine.files import lock_of
from rsssl.engine.store import Store, is_finished, keep
from rsssl.errors import UserError
from rsssl.jobs import run_here

SMALL = (
    *("backbone.name=resnet10t", "+backbone.kwargs.channels=[8,16,32,64]", "start=random", "baselines=false"),
    *("pretrain.steps=2", "pretrain.batch_size=8", "tracker=csv", "evaluate=linear", "ts=2", "workers=1"),
)
Run = Callable[..., dict[str, Any]]


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, two_colours: Callable[..., Path]) -> tuple[Path, list[str]]:
    """A folder with `harbours` (the images), `store` and `runs/one`; and the command that made them."""
    folder = tmp_path_factory.mktemp("finished")
    command = ["dataset=folder", f"dataset.root={two_colours(folder / 'harbours')}", *SMALL]
    run_here([*command, f"paths.store={folder / 'store'}", f"hydra.run.dir={folder / 'runs' / 'one'}"], None)
    return folder, command


@pytest.fixture
def task(finished: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """task(*keys): task=store on a copy of the finished store, typed beside its runs."""
    monkeypatch.chdir(finished[0])
    shutil.copytree(finished[0] / "store", tmp_path / "store")

    def run(*keys: str) -> dict[str, Any]:
        found: dict[str, Any] = run_here(["task=store", f"paths.store={tmp_path / 'store'}", *keys], None)
        return found

    return run


def held(tmp_path: Path, stage: str) -> Path:
    """The one artefact of a stage, or the first."""
    return min(f for f in (tmp_path / "store" / stage).iterdir() if not f.name.startswith("."))


def test_it_lists_what_is_there_with_sizes_and_what_needs_it(
    task: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], finished: tuple[Path, list[str]]
) -> None:
    found = task()
    folders = [f for stage in ("pack", "pretrain", "features") for f in (tmp_path / "store" / stage).glob("[!.]*")]
    files = [f for folder in folders for f in folder.rglob("*") if f.is_file()]
    assert found["artifacts"] == len(folders) and found["bytes"] == sum(512 * f.stat().st_blocks for f in files)
    lines = capsys.readouterr().out.splitlines()
    pack, training, features = (held(tmp_path, stage) for stage in ("pack", "pretrain", "features"))
    of_pack, of_training, of_features = (
        next(line for line in lines if line.startswith(f"{folder.parent.name}/{folder.name}"))
        for folder in (pack, training, features)
    )
    run = finished[0] / "runs" / "one"
    assert f"the images of {finished[0] / 'harbours'}" in of_pack and f"pretrain/{training.name}" in of_pack
    assert "resnet10t trained by VICReg on folder, 2 steps" in of_training
    assert str(run.relative_to(finished[0])) in of_training and f"features/{features.name}" in of_training
    assert "resnet10t on folder" in of_features
    shown = [float(line.split(" MB")[0].split()[-1].replace(",", "")) for line in lines if " days  " in line]
    assert len(shown) == len(folders) and shown == sorted(shown, reverse=True)


def test_what_is_removed_is_made_again_by_the_next_command(
    task: Run, tmp_path: Path, finished: tuple[Path, list[str]]
) -> None:
    before = json.loads((finished[0] / "runs" / "one" / "results.json").read_text())
    there, found = task(), task("remove=all")
    assert len(found["removed"]) == there["artifacts"] and found["freed"] == there["bytes"] > 0
    assert found["artifacts"] == found["bytes"] == task()["artifacts"] == 0
    again = [f"paths.store={tmp_path / 'store'}", f"hydra.run.dir={tmp_path / 'run'}"]
    after = run_here([*finished[1], *again], None)
    assert not after["pretrain"]["reused"] and after["confusion"] == before["confusion"]
    pack = held(tmp_path, "pack")
    assert task("remove=harbours")["removed"] == [str(pack)]


def test_it_removes_by_name_by_age_and_by_size_together(
    task: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training, pack = held(tmp_path, "pretrain"), held(tmp_path, "pack")
    old = time.time() - 40 * 86400
    os.utime(training / "done.json", (old, old))
    assert task("older=30")["removed"] == [] and training.is_dir()
    assert "rsssl-run task=store older=30 remove=all" in capsys.readouterr().out
    assert task("older=30", "remove=pack")["removed"] == [] and task("above=1", "remove=all")["removed"] == []
    assert task("older=30", "above=0.00001", "remove=all")["removed"] == [str(training)]
    assert task(f"remove=[pack/{pack.name[:7]},ground]")["removed"] == [str(pack)] and not pack.exists()
    with pytest.raises(UserError, match=r"nothing called haarbours: type a stage .*, a dataset \(folder.*\), or"):
        task("remove=haarbours")


def test_a_hash_that_reads_as_a_number_is_a_name_all_the_same(task: Run, tmp_path: Path) -> None:
    pack = held(tmp_path, "pack")
    numbers = [pack.with_name(name) for name in ("3e26412f7c0d9ab1", "1234567890123456", "8e03417f7c0d9ab1")]
    for folder in numbers:
        shutil.copytree(pack, folder)
    for short in ("pack/8e0", "8e03417f7c0d9ab1", "1234567"):
        with pytest.raises(UserError, match=f"nothing called {short}: .* STAGE/HASH as rsssl-run task=store lists it"):
            task(f"remove={short}")
    assert set(task("remove=[pack/3e26412,pack/1234567]")["removed"]) == {str(folder) for folder in numbers[:2]}
    assert task("remove=pack/8e03417")["removed"] == [str(numbers[2])] and is_finished(pack)


def test_what_was_asked_to_be_kept_is_removed_by_its_own_name_alone(task: Run, tmp_path: Path) -> None:
    training = held(tmp_path, "pretrain")
    task("keep=pretrain")
    assert str(training) not in task("remove=all")["removed"] and is_finished(training)
    assert task("remove=pretrain")["removed"] == []
    assert task(f"remove=pretrain/{training.name}")["removed"] == [str(training)]


@pytest.fixture
def another_process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that asks the store for its pack, says so, and goes on living."""
    code = (
        "import sys; from rsssl.engine.store import Store, inputs_of; from pathlib import Path\n"
        "folder = Path(sys.argv[1]); Store(folder.parent.parent).get('pack', inputs_of(folder), print)\n"
        "print('has it', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code, str(held(tmp_path, "pack"))], **pipes)  # type: ignore[call-overload]
    assert process.stdout and process.stdout.readline() == "has it\n"
    yield process
    process.kill()
    process.wait()


def test_what_a_process_is_using_stays_until_that_has_ended(
    task: Run, tmp_path: Path, another_process: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pack = held(tmp_path, "pack")
    assert str(pack) not in task("remove=all")["removed"] and is_finished(pack)
    assert f"stays: process {another_process.pid} on " in capsys.readouterr().out
    another_process.kill()
    another_process.wait()
    assert task("remove=all")["removed"] == [str(pack)]
    assert not list((tmp_path / "store" / ".users").glob(f"*-{another_process.pid}-*"))


def test_what_a_process_is_working_on_stays(task: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = held(tmp_path, "pretrain")
    with FileLock(lock_of(training)):
        assert str(training) not in task("remove=all")["removed"]
    assert "stays: a command is working on it" in capsys.readouterr().out and is_finished(training)


def test_a_process_that_asks_in_the_middle_of_a_removal_keeps_it(
    finished: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished[0] / "store", tmp_path / "store")
    pack = held(tmp_path, "pack")
    seen = []

    def asks(root: Path) -> dict[str, str]:
        seen.append(is_finished(pack))
        return {f"pack/{pack.name}": "a process"}

    monkeypatch.setattr(contents, "used_by_others", asks)
    assert contents.remove(Held(pack), tmp_path / "store") == "a process is using it"
    assert seen == [False] and is_finished(pack), "it is hidden while others are asked, and there again afterwards"


@pytest.mark.parametrize("at", ["replace", "rmtree"])
def test_an_interrupted_removal_is_never_taken_for_whole(
    at: str, finished: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the folder has another name, and while it is deleted."""
    shutil.copytree(finished[0] / "store", tmp_path / "store")
    training, real = held(tmp_path, "pretrain"), os.replace

    def dies(*paths: Path, **keys: bool) -> None:
        if at == "rmtree" or ".removed-" in str(paths[1]):
            raise KeyboardInterrupt
        real(*paths)

    monkeypatch.setattr(contents.os if at == "replace" else contents.shutil, at, dies)
    with pytest.raises(KeyboardInterrupt):
        contents.remove(Held(training), tmp_path / "store")
    monkeypatch.undo()
    assert not is_finished(training) and training.exists() == (at == "replace")
    sweep(tmp_path / "store")
    assert not list(training.parent.glob(".removed-*"))


def test_everything_is_read_and_damage_is_named_and_thrown_away(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RSSSL_STORE", str(tmp_path / "store"))
    keys = ["dataset=folder", f"dataset.root={root}", f"hydra.run.dir={tmp_path / 'run'}"]
    folder = Path(run_here(["task=pack", *keys], None)["folder"])
    task = ["task=store", f"hydra.run.dir={tmp_path / 'run'}"]
    whole = run_here([*task, "verify=true"], None)
    assert whole["artifacts"] == 1 and whole["damaged"] == {}
    flip(folder / "images.bin")
    assert run_here(task, None)["damaged"] == {}
    assert run_here([*task, "verify=true"], None)["damaged"] == {str(folder): ["images.bin"]}
    assert "DAMAGED: images.bin" in capsys.readouterr().out
    run_here([*task, "mend=true"], None)
    assert not (folder / "images.bin").exists() and not (folder / "done.json").exists()
    run_here(["task=pack", *keys], None)
    assert run_here([*task, "verify=true"], None)["damaged"] == {}


def test_an_artefact_is_as_old_as_its_last_use(tmp_path: Path) -> None:
    store, old = Store(tmp_path), time.time() - 10 * 86400
    folder = store.get("pretrain", {}, lambda folder: (folder / "weights").write_text("w")).folder
    os.utime(folder / "done.json", (old, old))
    assert Held(folder).days == pytest.approx(10, abs=0.01)
    assert store.get("pretrain", {}, print).reused and Held(folder).days < 0.01
    keep(folder)
    assert Held(folder).kept and Held(folder).finished
