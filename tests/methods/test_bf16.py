"""bfloat16 as accelerators compute, here on a CPU: the losses stay float32, and near what float32 gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsssl.groups import group_options

METHODS = [name for name in group_options("ssl") if name not in ("none", "seasonal", "distil")]
CODE = """
from rsssl.batch import Batch
from rsssl.engine.ranks import share
torch.backends.mkldnn.set_flags(False)  # whose bfloat16 gradients of small maps overflow
for name in METHODS:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        method = over_all_ranks(method_of(name)[0]).train()
        numbers, n = torch.Generator().manual_seed(1), 16
        size = 24 if name.startswith("jigsaw") else 16
        views = torch.randn(method.n_views, n, 3, size, size, generator=numbers)[:, share(n)]
        local = torch.randn(2, n, 3, 8, 8, generator=numbers)[:, share(n)] if method.uses_local else None
        batch = Batch(torch.arange(n)[share(n)], 0, views, local=local, key=5)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
            outputs = method(batch)
        assert outputs["loss"].dtype == torch.float32, name
        outputs["loss"].backward()
        gradients = [p.grad for p in method.parameters() if p.grad is not None]
        assert gradients and all(g.dtype == torch.float32 and bool(torch.isfinite(g).all()) for g in gradients), name
        method.after_step(0, 9)
        found.append((float(outputs["loss"].detach()), float(torch.stack([g.norm() for g in gradients]).norm())))
    (loss, norm), (near, near_norm) = found
    assert abs(near - loss) < 0.05 * max(abs(loss), 0.2), (name, loss, near)
    assert near_norm < 2 * norm + 0.1 and norm < 2 * near_norm + 0.1, (name, norm, near_norm)
"""


@pytest.mark.parametrize("ranks", [1, 2])
def test_losses_are_float32_and_near(ranks: int, workshop, tmp_path: Path) -> None:
    workshop.run(tmp_path, code=f"METHODS = {METHODS}\n" + CODE, methods=METHODS, ranks=ranks, seconds=200)
