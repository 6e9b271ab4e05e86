"""Each rank works out its own rows of a loss that compares all images: a share of the work and of the bytes."""

from __future__ import annotations

from pathlib import Path

import torch

CODE = """
from torch.utils.flop_counter import FlopCounterMode
from rsssl.engine.ranks import alone, rank, share
from rsssl.methods.losses import nt_xent
from rsssl.methods.swav import swapped_prediction

exchanged = [0]
plain = distributed.group.exchange
def counting(operation, *arguments, **options):
    exchanged[0] += arguments[0].nbytes if isinstance(arguments[0], torch.Tensor) else 0
    plain(operation, *arguments, **options)
distributed.group.exchange = counting

def work(call, whole, part):
    x = whole[:, part].clone().requires_grad_()
    exchanged[0] = 0
    with FlopCounterMode(display=False) as flops:
        loss = call(x)
        loss.backward()
    return loss.detach(), x.grad, flops.get_total_flops(), exchanged[0]

n, views, width = 64, 3, 32
z = torch.randn(views, n, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
earlier = torch.randn(40, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
places = torch.arange(n) // 2
losses = {
    "nt_xent": lambda x: nt_xent(x.float(), 0.2),
    "nt_xent with places": lambda x: nt_xent(x.float(), 0.2, places[share(n)]),
    "swapped prediction": lambda x: swapped_prediction(x.float(), 2, 0.1, 0.05, earlier.float()),
}
found = {}
for name, call in losses.items():
    loss, gradient, flops, received = work(call, z, share(n))
    mean = distributed.add_up(loss.clone()) / distributed.world_size()
    gradients = distributed.stack(gradient / distributed.world_size())
    with alone():
        whole_loss, whole, whole_flops, _ = work(call, z, slice(None))
    found[name] = (mean, whole_loss, torch.cat(list(gradients), 1), whole, flops, whole_flops, received)
if rank() == 0:
    torch.save(found, "found.pt")
"""


def test_a_quarter_of_the_work_and_the_whole_gradient(workshop, tmp_path: Path) -> None:
    workshop.run(tmp_path, code=CODE, ranks=4)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    for name, (loss, whole_loss, gradient, whole, flops, whole_flops, received) in found.items():
        torch.testing.assert_close(loss, whole_loss, rtol=1e-6, atol=1e-6, msg=name)
        assert float((gradient - whole).abs().max()) < 1e-6 * float(whole.abs().max()), name
        if name.startswith("nt_xent"):  # the products of the loss, and none of its backward pass
            assert flops <= 0.27 * whole_flops
            rows = 3 * 64
            assert received <= rows * 32 * 4 + 2 * rows * 4 + 64 * 8 + 16  # embeddings, two numbers a row, places
        else:
            assert received <= 4 * 3 * 2 * 32 * 4 + 16  # of four ranks, three times, of two views the columns' sums


CENTRE = """
from rsssl.engine.ranks import share
method = method_of("dino")[0]
outputs = torch.randn(2, 16, len(method.centre), generator=torch.Generator().manual_seed(0))
method.move_centre(outputs[:, share(16)])
if distributed.rank() == 0:
    torch.save((method.centre, outputs, method.centre_momentum), "centre.pt")
"""


def test_the_centre_follows_the_mean_of_all_ranks(workshop, tmp_path: Path) -> None:
    workshop.run(tmp_path, code=CENTRE, methods=["dino"], ranks=4)
    centre, outputs, momentum = torch.load(tmp_path / "centre.pt", weights_only=True)
    torch.testing.assert_close(centre, (1 - momentum) * outputs.mean((0, 1)))
