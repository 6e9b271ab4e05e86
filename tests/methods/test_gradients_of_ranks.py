"""W ranks have the gradient, the loss and the state of one process on the whole batch, for every method."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rsssl.groups import group_options

METHODS = [m for m in group_options("ssl") if m not in ("none", "distil")]  # distil: see test_distil.py
# With four ranks one method of each kind of exchange: negatives, a queue, nearest neighbours, covariances, assignments
# over all images, a centre, places, and none but batch norm's.
KINDS = ["simclr", "moco_v2", "nnclr", "vicreg", "swav", "dino", "seasonal", "simsiam"]
CODE = """
from rsssl.batch import Batch
from rsssl.methods.distillation import Distillation
from rsssl.models.batch_norm import keep_statistics
from rsssl.engine.ranks import alone, rank, share

def steps(name):
    method = method_of(name)[0]
    if KEPT:  # from published weights: batch norm with the statistics that it has, and a pull towards them
        keep_statistics(method)
        Distillation(method, 1.0)
    method = over_all_ranks(method).double().train()
    draws, method.draws = method.draws, lambda *a: draws(*a).double()
    trained = [p for m in method.trained_modules() for p in m.parameters()]
    results = []
    for step in range(2):
        numbers = torch.Generator().manual_seed(step)
        n = 8 + 8 * step  # the batches are of another size
        size = 24 if name.startswith("jigsaw") else 16
        views = torch.randn(method.n_views, n, 3, size, size, generator=numbers, dtype=torch.double)
        local = torch.randn(2, n, 3, 8, 8, generator=numbers, dtype=torch.double) if method.uses_local else None
        part = share(n)
        places = torch.arange(n)[part] // 2 if name == "seasonal" else None
        batch = Batch(torch.arange(n)[part] + 100 * step, 0, views[:, part], None,
                      None if local is None else local[:, part], 5, places)
        method.zero_grad(set_to_none=True)
        loss = method(batch)["loss"]
        loss.backward()
        numbers = distributed.average_gradients(method, torch.stack([loss.detach()]))
        gradient = {k: p.grad.clone() for k, p in method.named_parameters() if p.grad is not None}
        results.append((numbers[0] / distributed.world_size(), gradient))
        with torch.no_grad():
            for p in trained:
                if p.grad is not None:
                    p -= 1e-3 * p.grad / numbers[1]
        method.after_step(step, 2)
    return results, method.state_dict()

torch.set_default_dtype(torch.double)  # rounding would move activations over the edge of a ReLU
several, one = {}, {}
for name in METHODS:
    several[name] = steps(name)
if rank() == 0:
    with alone():
        for name in METHODS:
            one[name] = steps(name)
    torch.save((several, one), "results.pt")
"""


@pytest.mark.parametrize(
    ("ranks", "methods", "kept"),
    [(2, METHODS, False), (2, ["simclr", "byol", "mae"], True), (4, KINDS, False)],
    ids=["2", "2, batch norm kept", "4"],
)
def test_gradients_of_ranks_equal_those_of_one_process(
    ranks: int, methods: list[str], kept: bool, workshop, tmp_path: Path
) -> None:
    code = f"METHODS, KEPT = {methods}, {kept}\n" + CODE
    workshop.run(tmp_path, code=code, methods=methods, ranks=ranks)
    several, one = torch.load(tmp_path / "results.pt", weights_only=True)
    for name in methods:
        for step, ((loss, gradient), (whole_loss, whole)) in enumerate(
            zip(several[name][0], one[name][0], strict=True)
        ):
            assert float(loss) == pytest.approx(float(whole_loss), rel=1e-5, abs=1e-6), (name, step)
            assert gradient.keys() == whole.keys()
            scale = max(float(g.abs().max()) for g in whole.values())
            error = max(float((gradient[k] - whole[k]).abs().max()) for k in whole)
            assert error < 1e-5 * scale, (name, step, error / scale)
        a, b = several[name][1], one[name][1]
        assert all(torch.allclose(a[k].double(), b[k].double(), rtol=1e-5, atol=1e-5) for k in b), name
