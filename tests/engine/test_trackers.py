"""Trackers, with the services' own libraries: what they logged of a training that was killed and went on, read back."""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.engine import tracking
from rsssl.engine.checkpoint import Checkpoints
from rsssl.engine.integrity import listing
from rsssl.engine.loop import Fit
from rsssl.engine.trackers import MLflow, WandB
from rsssl.engine.tracking import Tracker, read_metrics
from rsssl.errors import UserError
from rsssl.optim import AdamW, Cosine, parameter_groups

CONFIG = {"ssl": {"views": 2, "name": "vicreg"}, "lr": 0.01, "none": {}}
SECRET = "hunter2-of-the-environment"
STEPS, KILLED, EVERY = 12, 8, 4  # a checkpoint after each step but the last ones before the kill; pictures


class Numbers:
    """Batches that depend on the step alone."""

    total_steps, steps_per_epoch, accumulate = STEPS, 4, 1

    def start(self, cursor: int) -> Iterator[Batch]:
        for step in range(cursor, STEPS):
            x = torch.randn(8, 4, 4, generator=torch.Generator().manual_seed(step))
            yield Batch(torch.arange(8), step // 4, x[None])


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 4))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": (batch.views[0] @ self.weight - batch.views[0]).square().mean()}

    def after_step(self, step: int, total_steps: int) -> None:
        """Nothing."""


def settings(name: str) -> dict[str, Any]:
    """The arguments that the YAML has."""
    node = yaml.safe_load((Path(__file__).parents[2] / "conf" / "tracker" / f"{name}.yaml").read_text())
    return {k: v for k, v in node.items() if k != "_target_"}


def train(tracker: Tracker, folder: Path, kill: bool = False) -> None:
    """Twelve steps; a picture after every fourth. Killed after the eighth; the checkpoint is of the fifth."""
    folder.mkdir(exist_ok=True)
    tracker.describe("vicreg on tiles", CONFIG)

    def draw(step: int) -> None:
        pixels = np.full((8, 8, 3), step, np.uint8)
        (folder / "pictures").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / "pictures" / f"step-{step:07d}.png")
        tracker.picture(step, "pictures", pixels)

    class Until(Checkpoints):
        def save(self, step: int, *args: Any) -> None:
            if not kill or step <= 5:
                super().save(step, *args)
            if kill and step == KILLED:
                self.wait()
                os.kill(os.getpid(), signal.SIGKILL)

    model = Toy()
    optimizer = AdamW(parameter_groups(model), lr=1e-2, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8)
    kept = Until(folder)
    meanwhile = [(STEPS // EVERY, draw)]
    schedule, device = Cosine(warmup=0.1, final=0.0), torch.device("cpu")
    Fit(model, Numbers(), optimizer, schedule, device, tracker, kept, 0, 1, meanwhile).run()  # type: ignore[arg-type]


def killed_and_resumed(make: Callable[[], Tracker], folder: Path) -> dict[int, float]:
    """The losses in metrics.csv of a training that a real process began, and this one ends."""
    child = os.fork()
    if child == 0:
        try:
            train(make(), folder, kill=True)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert int(read_metrics(folder / "metrics.csv")[-1]["step"]) == KILLED
    train(make(), folder)
    return {int(r["step"]): float(r["value"]) for r in read_metrics(folder / "metrics.csv") if r["name"] == "loss"}


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", SECRET)
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # where nothing listens: a request would fail


def offline_records(file: Path) -> Iterator[Any]:
    """The records of a .wandb file: LevelDB's log format, in blocks of 32 KiB, with a head of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = file.read_bytes(), 7, b""
    assert data.startswith(b":W&B")
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        n, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + n]
        at += 7 + n
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def test_wandb_offline(tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb")
    folder = tmp_path / "training"
    losses = killed_and_resumed(lambda: WandB(**settings("wandb")), folder)
    wandb.teardown()  # its process writes the last rows a moment later
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    records = list(offline_records(file))
    rows = [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in r.history.item}
        for r in records
        if r.WhichOneof("record_type") == "history"
    ]
    assert [row["_step"] for row in rows] == list(range(1, STEPS + 1)), "no step twice, none missing"
    assert {row["_step"]: row["loss"] for row in rows} == pytest.approx(losses, rel=1e-5)
    shown = {row["_step"]: row["pictures.path"] for row in rows if "pictures.path" in row}
    assert sorted(shown) == [4, 8, 12]
    for step, path in shown.items():
        assert (np.asarray(Image.open(file.parent / "files" / path)) == step).all()
    (run,) = (r.run for r in records if r.WhichOneof("record_type") == "run")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config.items() >= {"ssl": CONFIG["ssl"], "lr": 0.01}.items()
    assert (run.project, run.display_name) == ("rsssl", "vicreg on tiles") and not run.git.commit
    assert run.run_id == (folder / ".wandb-id").read_text()
    written = {p.relative_to(file.parent).parts[0] for p in file.parent.rglob("*") if p.is_file()}
    assert written == {"files", "logs", file.name}
    assert {p.parts[-3] for p in (file.parent / "files").rglob("*.*")} == {"media"}, "pictures alone, no code"
    assert not any(SECRET.encode() in p.read_bytes() for p in folder.rglob("*") if p.is_file())
    assert {name.split("/")[0] for name in listing(folder)} == {"metrics.csv", "pictures"}, "wandb may write its log on"


def test_mlflow_in_a_local_database(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri, folder = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "training"
    made = settings("mlflow") | {"uri": uri}
    losses = killed_and_resumed(lambda: MLflow(**made), folder)
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("rsssl")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == (folder / ".mlflow-id").read_text() and run.info.status == "FINISHED"
    assert run.info.run_name == "vicreg on tiles"
    assert run.data.params == {"ssl.views": "2", "ssl.name": "vicreg", "lr": "0.01", "none": "{}"}
    history = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")]
    assert [step for step, _ in history] == list(range(1, STEPS + 1)), "no step twice, none missing"
    assert dict(history) == pytest.approx(losses, rel=1e-5)
    pictures = {p.path for p in client.list_artifacts(run.info.run_id, "pictures")}
    assert pictures == {f"pictures/step-000000{n}.png" for n in (4, 8)} | {"pictures/step-0000012.png"}
    assert not any(SECRET.encode() in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    (folder / ".mlflow-id").write_text("0" * 32)
    MLflow(**made).open(folder, step=3).close()
    assert len(client.search_runs([experiment.experiment_id])) == 2, "where nobody knows the run, a new one begins"


def test_a_service_that_is_gone_does_not_end_a_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    exceptions = pytest.importorskip("mlflow.exceptions")
    from types import SimpleNamespace

    sent: list[Any] = []

    def refuse(*args: Any, metrics: list[Any]) -> None:
        if len(sent) == 0:
            sent.append(None)
            raise exceptions.MlflowException("the server is gone")
        sent.extend((m.key, m.step) for m in metrics)

    tracker = MLflow("https://example.invalid", "rsssl")
    tracker._client, tracker._id, tracker._last = SimpleNamespace(log_batch=refuse), "a", {}  # type: ignore[assignment]
    tracker.send(1, {"loss": 0.5})
    assert "the server is gone" in caplog.text
    tracker.send(2, {"loss": 0.4, "views/s (mean)": 3.0})
    assert sent[1:] == [], "it is left alone for a while"
    tracker._again = 0
    tracker.send(2, {})
    assert sent[1:] == [("loss", 1), ("loss", 2), ("views/s _mean_", 2)], "what was lost is sent with the next"


def test_an_account_that_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    tracker = WandB(**settings("wandb") | {"mode": "online"})
    with pytest.raises(UserError, match=r"tracker\.mode=online: .*type tracker\.mode=offline, or wandb login"):
        tracker.open(tmp_path)
    tracker.close()
    wandb.teardown()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_missing_is_said_before_any_data_is_read(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from rsssl.api import run

    find = tracking.find_spec
    monkeypatch.setattr(tracking, "find_spec", lambda package: None if package == name else find(package))
    with pytest.raises(UserError, match=rf"tracker={name} needs the package {name}.*pip install 'rsssl\[{name}\]'"):
        run([f"tracker={name}", f"hydra.run.dir={tmp_path / 'run'}", f"paths.store={tmp_path}/store"])
    assert not (tmp_path / "store").exists()
