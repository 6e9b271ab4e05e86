"""torch's DistributedDataParallel trains the weights that the one exchange after the backward pass trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

METHODS = ["barlow_twins", "byol", "dino", "inpainting", "mae", "marta_gan", "moco_v2", "simclr", "swav"]
BOTH = """
for name in {methods!r}:
    for exchange in ("flat", "ddp"):
        train(name, {pack!r}, f"{{name}}-{{exchange}}", 3, exchange=exchange, log_every=1)
"""


def test_both_ways_train_the_same_weights(workshop, pack_of_tiles: Path, tmp_path: Path) -> None:
    workshop.run(tmp_path, code=BOTH.format(methods=METHODS, pack=str(pack_of_tiles)), ranks=2, seconds=300)
    for name in METHODS:
        flat, ddp = (torch.load(tmp_path / f"{name}-{way}" / "final.pt", weights_only=True) for way in ("flat", "ddp"))
        assert flat.keys() == ddp.keys()
        for key in flat:
            torch.testing.assert_close(ddp[key], flat[key], rtol=1e-5, atol=1e-6, msg=lambda m: f"{name} {key}: {m}")  # noqa: B023


UNUSED = """
method_of_before = method_of
run, method = fit("simclr", {pack!r}, "run", 4, exchange="ddp")
method.extra = torch.nn.Parameter(torch.zeros(3))
run.run()
"""


def test_weights_that_take_no_part_are_said(workshop, pack_of_tiles: Path, tmp_path: Path) -> None:
    text = workshop.run(tmp_path, code=UNUSED.format(pack=str(pack_of_tiles)), ranks=2, exits=1)
    assert "distributed=ddp needs of all: type distributed=flat" in text


@pytest.mark.parametrize("accumulate", [1, 3])
def test_accumulated_batches_are_exchanged_once(accumulate: int, workshop, pack_of_tiles: Path, tmp_path: Path) -> None:
    code = f"""
for exchange in ("flat", "ddp"):
    run, method = fit("vicreg", {str(pack_of_tiles)!r}, exchange, 2, exchange=exchange)
    from dataclasses import replace
    run.batches = PoolBatches(run.batches.pool, run.batches.views, method.n_views, run.batches.preprocess,
                              replace(run.batches.sampling, accumulate={accumulate}))
    Path(exchange).mkdir(exist_ok=True)
    run.run()
    if distributed.rank() == 0:
        torch.save(method.state_dict(), exchange + ".pt")
"""
    workshop.run(tmp_path, code=code, ranks=2)
    flat, ddp = (torch.load(tmp_path / f"{way}.pt", weights_only=True) for way in ("flat", "ddp"))
    for key in flat:
        torch.testing.assert_close(ddp[key], flat[key], rtol=1e-5, atol=1e-6)


GRAPHS = """
import timm
from rsssl.engine.distributed import keep_from_compiler
graphs = []
def count(module, inputs):
    graphs.append(module)
    return module.forward
torch.manual_seed(0)
keep_from_compiler()
network = over_all_ranks(timm.create_model("resnet18", num_classes=0)).train()
images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(distributed.rank()))
eager = network(images)
eager.square().sum().backward()
first = network.conv1.weight.grad.clone()
network.zero_grad()
network.compile(backend=count, dynamic=False)
compiled = network(images)
compiled.square().sum().backward()
assert len(graphs) == 1, len(graphs)
torch.testing.assert_close(compiled, eager)
torch.testing.assert_close(network.conv1.weight.grad, first, rtol=1e-4, atol=1e-4)
"""


def test_a_network_on_two_ranks_is_one_graph(workshop, tmp_path: Path) -> None:
    """Batch normalisation over the ranks is an operation that the compiler does not look into."""
    workshop.run(tmp_path, code=GRAPHS, ranks=2, seconds=120)
