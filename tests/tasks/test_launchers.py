"""Sweeps by Hydra's launchers: jobs side by side, pre-empted jobs, and what is said when a launcher is missing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.small import SMALL

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = [*SMALL, "evaluate=ridge"]
METHOD = """
from rsssl.methods.simclr import SimCLR

class Mine(SimCLR):
    pass
"""


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 20 tiles of 16 x 16 pixels: stripes one way, stripes the other way, noise."""
    root, rng = tmp_path_factory.mktemp("tiles"), np.random.default_rng(0)
    y, x = np.mgrid[:16, :16]
    for name in ("across", "down", "noise"):
        (root / name).mkdir()
        for i in range(20):
            texture = {"across": np.sin(x + i), "down": np.sin(y + i), "noise": rng.normal(size=(16, 16))}[name]
            pixels = 120 + rng.uniform(30, 60, 3) * texture[..., None]
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / name / f"{i}.png")
    return root


def results(folder: Path) -> list[dict]:
    return [json.loads(p.read_text()) for p in sorted(folder.rglob("results.json"))]


def test_jobs_side_by_side_share_one_pre_training_and_a_wrong_one_fails_alone(
    tiles: Path, tmp_path: Path, started
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    command = ["--multirun", *TINY, f"dataset.root={tiles}", "pretrain.steps=20"]
    side_by_side = started("-m", "rsssl.run", *command, "ts=2,5,25", "hydra/launcher=joblib", "hydra.sweep.dir=sweep")
    elsewhere = {"RSSSL_STORE": str(tmp_path / "other")}
    alone = started("-m", "rsssl.run", *command, "ts=2,5", "hydra.sweep.dir=alone", **elsewhere)
    text, _ = side_by_side.communicate(timeout=200)
    assert side_by_side.returncode == 2, text[-4000:]
    assert len(re.findall(r"pretrain \w+: working", text)) == 1
    assert re.search(r"pretrain \w+: (reused|another process is working on it; waiting)", text)
    assert len(list(tmp_path.glob("store/pretrain/*/done.json"))) == 1
    assert "Traceback" not in text and "UserWarning" not in text
    assert "rsssl: ts=25 asks for 25" in text.splitlines()[-1] and "Type at most ts=16" in text.splitlines()[-1]
    assert "ts=25" in (tmp_path / "sweep" / "2" / "run.log").read_text() and not results(tmp_path / "sweep" / "2")
    assert sorted(p.parent.name for p in tmp_path.glob("sweep/*/run.log")) == ["0", "1", "2"]

    text, _ = alone.communicate(timeout=200)
    assert alone.returncode == 0, text[-4000:]
    one, other = results(tmp_path / "sweep"), results(tmp_path / "alone")
    assert [r["ts"] for r in one] == [2, 5] and len({r["config_hash"] for r in one}) == 2
    assert sorted(r["pretrain"]["reused"] for r in one) == [False, True]
    for key in ("ts", "config_hash", "split_hash", "confusion", "baselines"):
        assert [r[key] for r in one] == [r[key] for r in other]
    assert not (tmp_path / "sweep" / "0" / ".owner").exists()


def test_a_pre_empted_job_is_put_back_into_the_queue_and_goes_on_from_its_checkpoint(
    tiles: Path, tmp_path: Path, started
) -> None:
    """By submitit on this machine: its processes, signals, handlers, queue. SLURM's order: SIGTERM, then SIGUSR2."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    (tmp_path / "my" / "ssl").mkdir(parents=True)
    recipe = (REPOSITORY / "conf" / "ssl" / "simclr.yaml").read_text()
    (tmp_path / "my" / "ssl" / "mine.yaml").write_text(recipe.replace("rsssl.methods.simclr.SimCLR", "my_method.Mine"))
    (tmp_path / "my" / "my_method.py").write_text(METHOD)
    launch = ["--multirun", "--config-dir", "my", "hydra/launcher=submitit_local", "hydra.sweep.dir=sweep"]
    mine = ["ssl=mine", "pretrain.dataset=folder", f"pretrain.root={tiles}"]
    sweep = started("-m", "rsssl.run", *launch, *mine, *TINY, f"dataset.root={tiles}", "ts=2", "pretrain.steps=150")

    def log() -> str:
        return "".join(p.read_text() for p in tmp_path.glob("sweep/.submitit/*/*_log.*"))

    def until(what: Callable[[], object]) -> None:
        deadline = time.monotonic() + 90
        while not what():
            assert time.monotonic() < deadline and sweep.poll() is None, log() or sweep.communicate()
            time.sleep(0.02)

    def steps() -> int:
        return max((p.read_text().count(",loss,") for p in tmp_path.glob("store/pretrain/*/metrics.csv")), default=0)

    until(lambda: steps() >= 3)
    (job,) = (int(p.name) for p in tmp_path.glob("sweep/.submitit/[0-9]*"))
    (task,) = Path(f"/proc/{job}/task/{job}/children").read_text().split()
    os.kill(int(task), signal.SIGTERM)
    until(lambda: "going on in 30 s" in log())
    assert "stopped by SIGTERM after step" in log() and "Bypassing signal SIGTERM" in log()
    stopped = steps()
    assert len(list(tmp_path.glob("store/pretrain/*/checkpoint-*.pt"))) == 1 and stopped < 150
    os.kill(int(task), signal.SIGUSR2)
    text, _ = sweep.communicate(timeout=200)
    assert sweep.returncode == 0, text[-4000:] + log()[-4000:]
    said = log()
    assert "Caught signal SIGUSR2" in said and "Requeued job" in said
    assert f"resumed at step {stopped} of 150" in said
    assert steps() == 150 and len(list(tmp_path.glob("store/pretrain/*/done.json"))) == 1
    (found,) = results(tmp_path / "sweep")
    assert found["ts"] == 2 and found["pretrain"]["images"] == 60 - 12


@pytest.mark.parametrize("order", [(signal.SIGTERM, signal.SIGUSR2), (signal.SIGUSR2, signal.SIGTERM)])
def test_a_launchers_own_signal_counts_before_and_after_sigterm(order: tuple[signal.Signals, ...]) -> None:
    from rsssl.engine.stop import Stopped, StopRequests

    def requeue(signum: int, frame: object) -> None: ...

    before = signal.signal(signal.SIGUSR2, requeue)
    try:
        with pytest.raises(Stopped) as error, StopRequests() as requests:
            os.kill(os.getpid(), order[0])
            stopped = requests.stopped(requests.flags(), 3, 9, True)
            os.kill(os.getpid(), order[1])  # while the checkpoint is written
            assert stopped
            raise stopped
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert error.value.signum == signal.SIGUSR2 and error.value.before is requeue


@pytest.mark.parametrize("name", ["joblib", "slurm", "submitit_local"])
def test_without_the_plugin_the_message_says_what_to_install(name: str, tmp_path: Path) -> None:
    script = "import sys; sys.modules['hydra_plugins'] = None; import rsssl.run; rsssl.run.main()"
    command = [sys.executable, "-c", script, "--multirun", f"hydra/launcher={name}", "ts=2,5"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and not list(tmp_path.iterdir())
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"rsssl: hydra/launcher={name} ") and line.endswith("pip install 'rsssl[sweep]'")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--multirun", "hydra/launcher=jobib", "ts=2,5"], "Type hydra/launcher=joblib"),
        (["--multirun", "hydra/launcher=slrum", "ts=2,5"], "Type hydra/launcher=slurm"),
        (["hydra/launcher=joblib", "ts=2"], "type rsssl-run --multirun hydra/launcher=joblib ts=2"),
        (["--multirun", "hydra/launcher=slurm", "ts=2,5"], "no srun here"),
        (["--multirun", "hydra/launcher=slurm", "hydra.launcher.partitoin=gpu", "ts=2,5"], "hydra.launcher.partitoin"),
    ],
)
def test_a_wrong_launcher_is_refused_with_what_was_meant(arguments: list[str], expected: str, monkeypatch) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    from rsssl.compose import precheck
    from rsssl.errors import UserError
    from rsssl.run import split_arguments

    there = "partitoin" in expected
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/srun" if there else None)
    overrides, flags = split_arguments(arguments)
    with pytest.raises(UserError, match=expected):
        precheck(overrides, None, "--multirun" in flags, start=True)


@pytest.mark.parametrize("name", ["joblib", "slurm"])
def test_our_launchers_are_short_and_those_of_the_plugins_stay(name: str) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    from hydra import compose

    from rsssl.compose import Composer

    lines = (REPOSITORY / "conf" / "hydra" / "launcher" / f"{name}.yaml").read_text().splitlines()
    assert lines[0].startswith("#") and len(lines) <= 20

    def launcher(option: str):
        with Composer():
            return compose("config", [f"hydra/launcher={option}"], return_hydra_config=True).hydra.launcher

    ours, theirs = launcher(name), launcher({"joblib": "joblib_plugin", "slurm": "submitit_slurm"}[name])
    assert ours._target_ == theirs._target_ and set(ours) == set(theirs)
    assert launcher("submitit_local")._target_.endswith("LocalLauncher")
    if name == "slurm":
        assert ours.max_num_timeout > theirs.max_num_timeout == 0 and ours.signal_delay_s == 120
