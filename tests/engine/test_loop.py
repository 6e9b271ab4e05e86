"""The loop: it trains, it resumes to the same weights, it stops on a loss that is not finite."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.engine.checkpoint import Checkpoints
from rsssl.engine.loop import Fit
from rsssl.engine.stop import Stopped
from rsssl.engine.tracking import Tracker, read_metrics
from rsssl.errors import UserError
from rsssl.optim import AdamW, Cosine, parameter_groups

SPEED = ("images_per_second", "data_share")


class Numbers:
    """Batches that depend on the cursor alone, and can stop as a killed process would."""

    def __init__(self, total_steps: int = 12, stop_at: int | None = None) -> None:
        self.total_steps, self.steps_per_epoch, self.stop_at, self.accumulate = total_steps, 4, stop_at, 1

    def start(self, cursor: int) -> Iterator[Batch]:
        for step in range(cursor, self.total_steps):
            if step == self.stop_at:
                raise KeyboardInterrupt
            generator = torch.Generator().manual_seed(step)
            x = torch.randn(8, 1, 4, 4, generator=generator)
            yield Batch(torch.arange(8), step // 4, x[None])


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
        self.calls = 0

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x = batch.views[0]
        return {"loss": (self.net(x) - x.mean((1, 2, 3), keepdim=False)[:, None]).square().mean()}

    def after_step(self, step: int, total_steps: int) -> None:
        self.calls += 1


def fit(folder: Path, batches: Numbers, model: nn.Module | None = None, **kwargs: object) -> tuple[nn.Module, Fit]:
    model = model or Toy()
    optimizer = AdamW(parameter_groups(model), lr=1e-2, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8)
    run = Fit(
        model,
        batches,
        optimizer,
        Cosine(warmup=0.1, final=0.0),
        torch.device("cpu"),
        tracker=Tracker(),
        checkpoints=Checkpoints(folder),
        checkpoint_minutes=0,
        log_every=1,
        **kwargs,
    )  # type: ignore[arg-type]
    run.run()
    return model, run


def test_what_is_read_a_step_late_is_the_same(tmp_path: Path) -> None:
    kept = []
    for late in (False, True):
        (tmp_path / str(late)).mkdir()
        model, run = fit(
            tmp_path / str(late), Numbers(), late=late, meanwhile=[(3, lambda step: {"probe_oa": step / 12})]
        )
        steady = [r for r in read_metrics(tmp_path / str(late) / "metrics.csv") if r["name"] not in SPEED]
        kept.append((model.state_dict(), sorted(map(str, steady)), run.images, run.checkpoints.load()["step"]))
    for one, other in zip(*kept, strict=True):
        assert str(one) == str(other)


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, _ = fit(tmp_path / "a", Numbers())
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "b", Numbers(stop_at=7))
    resumed, _ = fit(tmp_path / "b", Numbers())
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    steps = {
        p: [(r["step"], r["value"]) for r in read_metrics(tmp_path / p / "metrics.csv") if r["name"] == "loss"]
        for p in "ab"
    }
    assert steps["a"] == steps["b"] and len(steps["a"]) == 12


class Silent(Numbers):
    """Batches of which one does not come; a signal comes in its place."""

    def start(self, cursor: int) -> Iterator[Batch]:
        for step, batch in enumerate(super().start(cursor), cursor):
            if step == 7:
                threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
                time.sleep(30)
            yield batch


@pytest.mark.parametrize("late", [False, True])
def test_a_training_that_waits_for_images_stops_when_it_is_asked_to(tmp_path: Path, late: bool) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    whole, _ = fit(tmp_path / "a", Numbers(), late=late)
    begin = time.monotonic()
    with pytest.raises(Stopped, match="SIGTERM after step 7 of 12"):
        fit(tmp_path / "b", Silent(), late=late)
    assert time.monotonic() - begin < 10
    assert Checkpoints(tmp_path / "b").load()["step"] == 7  # type: ignore[index]
    resumed, _ = fit(tmp_path / "b", Numbers(), late=late)
    for (name, value), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    logged = [read_metrics(tmp_path / name / "metrics.csv") for name in "ab"]
    losses = [[(r["step"], r["value"]) for r in rows if r["name"] == "loss"] for rows in logged]
    assert losses[0] == losses[1] and len(losses[0]) == 12


def test_a_resumed_training_takes_the_threads_of_the_one_that_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    usual, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
    try:
        torch.set_num_threads(cores)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path, Numbers(stop_at=5))
        torch.set_num_threads(cores + 1)  # as after a start beside other work, but for the direction
        fit(tmp_path, Numbers())
        assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(usual)


def test_it_learns_and_follows_the_schedule(tmp_path: Path) -> None:
    _, run = fit(tmp_path, Numbers(200))
    rows = read_metrics(tmp_path / "metrics.csv")
    losses = [float(r["value"]) for r in rows if r["name"] == "loss"]
    assert sum(losses[-20:]) < 0.3 * sum(losses[:20])
    factors = [float(r["value"]) for r in rows if r["name"] == "lr_factor"]
    schedule = Cosine(warmup=0.1, final=0.0)
    assert factors == pytest.approx([schedule(s, 200) for s in range(200)], rel=1e-4)
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(1e-2 * schedule(199, 200))


def test_probes_are_spread_evenly_and_the_last_is_at_the_end(tmp_path: Path) -> None:
    fit(tmp_path, Numbers(12), meanwhile=[(3, lambda step: {"probe_oa": 0.5})])
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.csv") if r["name"] == "probe_oa"] == ["4", "8", "12"]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    class Bad(Toy):
        def forward(self, batch: Batch) -> dict[str, Tensor]:
            return {"loss": super().forward(batch)["loss"] * float("nan")}

    with pytest.raises(UserError, match="the loss is nan at step 0 of 12: type a lower learning rate"):
        fit(tmp_path, Numbers(), Bad())
    state = Checkpoints(tmp_path).load()
    assert state is not None and state["step"] == 0, "the state before the step is kept"
    assert all(torch.equal(v, state["model"][k]) for k, v in Toy().state_dict().items())


def test_accumulated_batches_are_one_step_with_their_mean_gradient(tmp_path: Path) -> None:
    """Without batch norm, two batches of 8 accumulated are one of 16."""

    class Plain(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))

    class Halves(Numbers):
        accumulate = 2

        def __init__(self) -> None:
            super().__init__()
            self.accumulate = 2

        def start(self, cursor: int) -> Iterator[Batch]:
            for batch in super().start(0):
                for part in (slice(0, 4), slice(4, 8)):
                    yield Batch(batch.ids[part], batch.epoch, [batch.views[0][part]])  # type: ignore[arg-type]

    torch.manual_seed(1)
    one, two = Plain(), Plain()
    two.load_state_dict(one.state_dict())
    fit(tmp_path / "one", Numbers(), one)
    fit(tmp_path / "two", Halves(), two)
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name
    rows = [read_metrics(tmp_path / folder / "metrics.csv") for folder in ("one", "two")]
    losses = [[float(r["value"]) for r in metrics if r["name"] == "loss"] for metrics in rows]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and len(losses[1]) == 12


def test_a_call_each_epoch_may_return_nothing_and_leaves_the_model_in_training_mode(tmp_path: Path) -> None:
    model, steps = Toy(), []

    def look(step: int) -> None:
        model.eval()
        steps.append((step, model.calls))

    fit(tmp_path, Numbers(12), model, meanwhile=[(3, look)])
    assert steps == [(4, 4), (8, 8), (12, 12)] and model.training
