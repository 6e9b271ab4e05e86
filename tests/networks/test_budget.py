"""What is said of time and memory before the first step: counted another way, kept, and refused where it cannot be."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import weakref
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from rsssl.engine import memory, step_memory
from rsssl.engine.files import write_sealed
from rsssl.errors import UserError
from rsssl.networks import budget
from rsssl.networks.budget import Budget, budget_of, largest, outlook


class Batches:
    """Eight images of 16 pixels, or 8 in the first half of the steps."""

    accumulate, steps_per_epoch, n_views = 1, 4, 1
    preprocess = SimpleNamespace(size=16)
    sampling = SimpleNamespace(size_at=lambda step, total: 8 if step < total / 2 else 16)

    def settle(self) -> None:
        """Nothing to hold."""

    def ids(self, cursor: int) -> tuple[int, Any]:
        return 0, torch.arange(8).numpy()

    def again(self, epoch: int, ids: Any, step: int) -> Any:
        return SimpleNamespace(views=torch.ones(1, len(ids), 3, *[self.sampling.size_at(step, budget.SHARES)] * 2))


class Toy(nn.Module):
    """A network that keeps its input and one map: 3 and 5 numbers for each pixel."""

    n_views = 1

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5) if norm else nn.Identity(), nn.Sigmoid())

    def forward(self, batch: Any) -> dict[str, torch.Tensor]:
        return {"loss": self.backbone(batch.views[0]).sum()}


def training(norm: bool = False) -> Any:
    return SimpleNamespace(batches=Batches(), method=Toy(norm), device=torch.device("cpu"), average=None)


def planned(minutes: float | None, **keys: Any) -> Any:
    recipe = SimpleNamespace(pretrain=SimpleNamespace(steps=keys.get("steps")))
    return SimpleNamespace(
        minutes=minutes, recipe=recipe, preprocess=Batches.preprocess, inputs=keys.get("inputs", {}), lr=0.3
    )


def fitted(made: Any) -> tuple[int, int | None]:
    method = made.method
    return step_memory.fit_into_memory(method, method.backbone, lambda n: largest(made, n), 8, made.device, "pretrain")


IMAGE = (3 + 5) * 16 * 16 * 4  # bytes that an image keeps
FIXED = 4 * 20 * 4  # four times 20 parameters


def test_the_memory_is_what_the_layers_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 10**9)
    need, rows = fitted(training())
    assert rows is None and need == int(FIXED + 1.3 * 8 * IMAGE)


def test_what_does_not_fit_goes_in_parts(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    whole = FIXED + 1.3 * 8 * IMAGE
    monkeypatch.setattr(memory, "available", lambda device: int(0.9 * whole / 0.9))
    made = training()
    with caplog.at_level(logging.INFO):
        need, rows = fitted(made)
    assert rows in (2, 3, 4) and need < whole and made.method.backbone.rows_at_once == rows
    assert f"{rows} views at a time" in caplog.text


@pytest.mark.parametrize("norm", [True, False])
def test_what_can_not_is_refused_with_a_batch_that_can(norm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch normalisation in training needs all images at once; without it, one image alone may be too much."""
    free = FIXED + 1.3 * (3.5 if norm else 0.5) * (IMAGE + norm * 5 * 16 * 16 * 4)  # it keeps its input too
    monkeypatch.setattr(memory, "available", lambda device: int(free / 0.9) + 100)
    with pytest.raises(UserError, match=r"batch_size=3" if norm else r"smaller pretrain\.image_size="):
        fitted(training(norm))


def test_minutes_buy_steps_that_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the steps take 1 s, half 3 s: two minutes buy 60; then nothing is measured again."""
    monkeypatch.setattr(budget, "seconds_of_step", lambda training, size: {8: 1.0, 16: 3.0}[size])
    made = budget_of(planned(2.0), tmp_path, lambda steps: training())
    assert made.steps == 60 and made.seconds == {"8": 1.0, "16": 3.0}
    kept = budget_of(planned(7.0), tmp_path, lambda steps: pytest.fail("measured again"))
    assert kept == made == budget.read_budget(tmp_path)


def test_many_typed_steps_are_measured_to_say_how_long_they_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "seconds_of_step", lambda training, size: {8: 1.0, 16: 3.0}[size])
    few = budget_of(planned(None, steps=budget.MANY - 1), tmp_path / "few", lambda steps: training())
    assert few.seconds == {}
    many = budget_of(planned(None, steps=budget.MANY), tmp_path / "many", lambda steps: training())
    assert many.steps == budget.MANY and many.seconds == {"8": 1.0, "16": 3.0}
    assert budget.seconds_of(many.seconds, training(), 0, 10) == 5 * 1.0 + 5 * 3.0
    assert budget.seconds_of(many.seconds, training(), 4, 10) == 1 * 1.0 + 5 * 3.0, "of which some are done"


def test_with_other_ranks_the_steps_stay_and_the_memory_is_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sealed(tmp_path / "budget.json", asdict(Budget(60, 3, 1.0, {"8": 1.0}, ranks=4)))
    monkeypatch.setattr(budget, "bought", lambda *_: pytest.fail("bought again"))
    monkeypatch.setattr(memory, "available", lambda device: 10**9)
    assert budget_of(planned(2.0), tmp_path, lambda steps: training()) == Budget(
        60, None, int(FIXED + 1.3 * 8 * IMAGE) / 1e9, {"8": 1.0}, ranks=1
    )


def test_of_two_views_one_may_go_through_the_network_with_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in MoCo: that view keeps all that the image keeps, so half as many of them fit as of the views."""

    class Half(Toy):
        n_views = 2

        def forward(self, batch: Any) -> dict[str, torch.Tensor]:
            with torch.no_grad():
                self.backbone(batch.views[0])
            return super().forward(batch)

    monkeypatch.setattr(memory, "available", lambda device: 10**9)
    made = training()
    made.method = Half()
    kept = (made.method, made.method.backbone, lambda n: largest(made, n), 8, made.device)
    assert step_memory.kept_for_an_image(*kept) == (IMAGE, 1.0)
    largest_first = SimpleNamespace(size_at=lambda step, total: 16 if step < total / 2 else 8)
    monkeypatch.setattr(Batches, "sampling", largest_first)
    assert step_memory.kept_for_an_image(*kept) == (IMAGE, 1.0), "the largest size need not be the last"


def test_of_images_that_are_only_seen_so_many_go_together_as_fit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The largest layer takes five numbers for each pixel and gives five."""
    network, image = Toy().backbone.eval(), torch.ones(1, 3, 16, 16)
    each = step_memory.SEEN * 10 * 16 * 16 * 4
    monkeypatch.setattr(memory, "available", lambda device: int(3.5 * each / 0.9))
    with caplog.at_level(logging.INFO):
        assert step_memory.images_at_once(network, image, 2) == 2 and not caplog.text
        assert step_memory.images_at_once(network, image, 8) == 3
    assert "3 images at a time" in caplog.text
    monkeypatch.setattr(memory, "available", lambda device: int(0.5 * each / 0.9))
    with pytest.raises(UserError, match="smaller image_size="):
        step_memory.images_at_once(network, image, 8)


def test_a_small_pool_is_not_passed_over_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "seconds_of_step", lambda training, size: 1e-3)
    assert budget_of(planned(10.0), tmp_path, lambda steps: training()).steps == 100 * 4
    resumed = planned(10.0, inputs={"resumed": {"step": 30}})
    assert budget_of(resumed, tmp_path / "b", lambda steps: training()).steps == 30 + 400
    assert budget_of(planned(None, steps=7), tmp_path / "c", lambda steps: training()).steps == 7


def test_what_is_free_is_within_the_limits_that_are_set() -> None:
    code = """
import resource, torch
from rsssl.engine import memory
cpu = torch.device("cpu")
before = memory.available(cpu)
used = memory._status("VmSize")
resource.setrlimit(resource.RLIMIT_AS, (used + 50_000_000, resource.RLIM_INFINITY))
print(before, memory.available(cpu))
"""
    before, limited = map(int, subprocess.check_output([sys.executable, "-c", code], text=True).split())
    total = next(
        int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")
    )
    assert 50_000_000 < before <= 1024 * total and 40_000_000 < limited <= 50_000_000


CURVES = {
    (0.5, 0.6, 0.7, 0.9): "minutes=20",
    (0.8, 0.89, 0.9, 0.9): "little",
    (1.0, 1.0, 1.0, 1.0): "little",
    (0.9, 0.9, 0.8, 0.8): "lr=0.1",
}


@pytest.mark.parametrize(("values", "said"), CURVES.items())
def test_the_outlook_follows_the_curve(values: tuple[float, ...], said: str, tmp_path: Path) -> None:
    """Of 500 images, an error of 1.9 points at 90 %: from 60 to 90 is more, from 89 to 90 is not."""
    rows = [f"{25 * (i + 1)},0,probe_oa,{v}" for i, v in enumerate(values)]
    (tmp_path / "metrics.csv").write_text("\n".join(["step,epoch,name,value", *rows, ""]))
    sentence = outlook(tmp_path, planned(10.0), 100)
    assert sentence and said in sentence
    assert outlook(tmp_path, planned(10.0), 8) is None, "eight steps say nothing of more"
    (tmp_path / "metrics.csv").write_text("step,epoch,name,value\n")
    assert outlook(tmp_path, planned(10.0), 100) is None


def test_counting_leaves_no_graph_behind() -> None:
    """A graph that held its own outputs was never freed: 64 MB for each pre-training of a sweep in one process."""
    made, outputs = training(), []
    made.method.backbone[2].register_forward_hook(lambda layer, inputs, output: outputs.append(weakref.ref(output)))
    step_memory.kept_for_an_image(made.method, made.method.backbone, lambda n: largest(made, n), 8, torch.device("cpu"))
    gc.collect()
    assert len(outputs) == 2 and all(output() is None for output in outputs)
