"""What is drawn for a view depends on its sample, epoch and number alone: not on batch, rank or order of work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from rsssl.augment import Colour, Policy
from rsssl.batch import Batch
from rsssl.data.loader import PoolBatches, Sampling
from rsssl.data.pack import Pack
from rsssl.data.pool import Pool, Source
from rsssl.methods.base import Method
from rsssl.models.preprocess import Preprocess
from rsssl.rng import fold

CONF = Path(__file__).resolve().parents[2] / "conf" / "augment"
Where = tuple[int, int, int]  # epoch, view, sample
EPOCHS, VIEWS = 3, 2


@pytest.fixture
def whole(packed: Callable[..., Pack], root: Path) -> Pack:
    return packed(root)


class Drawn:
    """Every view that is rendered, and the numbers that were drawn for it, of one epoch after the other."""

    def __init__(self, pack: Pack, name: str, patch: pytest.MonkeyPatch) -> None:
        self.pack, self.name, self.patch = pack, name, patch

    def run(self, batch_size: int, ranks: int = 1, seed: int = 0) -> tuple[dict[Where, Tensor], dict[Where, Tensor]]:
        views: dict[Where, Tensor] = {}
        draws: dict[Where, Tensor] = {}
        plain = Policy.draw
        now: list[dict[str, dict[str, Tensor]]] = []

        def noted(policy: Policy, key: int, ids: Tensor, *shape: int) -> dict[str, dict[str, Tensor]]:
            now.append(plain(policy, key, ids, *shape))
            return now[-1]

        with self.patch.context() as patch:
            patch.setattr(Policy, "draw", noted)
            for rank in range(ranks):
                patch.setenv("WORLD_SIZE", str(ranks))
                patch.setenv("RANK", str(rank))
                policy = instantiate(OmegaConf.load(CONF / f"{self.name}.yaml"), _convert_="all")
                policy.local = None
                batches = PoolBatches(
                    Pool([Source(self.pack, np.arange(12))]),
                    policy,
                    VIEWS,
                    Preprocess(self.pack.card, 24, (0.5,) * 3, (0.25,) * 3),
                    Sampling(batch_size, EPOCHS, seed, "order"),
                )
                for cursor in range(EPOCHS * 12 // batch_size):
                    epoch, ids = batches.ids(cursor)
                    now.clear()
                    batch = batches.again(epoch, ids, cursor)
                    for v in range(VIEWS):
                        flat = [
                            p.flatten(1) if p.ndim > 1 else p[:, None] for op in now[v].values() for p in op.values()
                        ]
                        rows = torch.cat([f.double() for f in flat], 1)
                        for sample, row, image in zip(ids.tolist(), rows, batch.views[v], strict=True):
                            assert (epoch, v, sample) not in views, "rendered twice"
                            views[epoch, v, sample], draws[epoch, v, sample] = image, row
        return views, draws


@pytest.mark.parametrize("name", ["rs", "s5", "simclr", "paper_simclr"])
def test_no_two_ranks_epochs_views_or_samples_share_their_draws(
    whole: Pack, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = Drawn(whole, name, monkeypatch)
    views, draws = drawn.run(12)
    assert len(draws) == EPOCHS * VIEWS * 12
    if name != "paper_simclr":  # its first view is a crop alone, in one of five the whole image
        rows = [tuple(row.tolist()) for row in draws.values()]
        assert len(set(rows)) == len(rows)
    for batch_size, ranks in ((1, 1), (4, 1), (12, 2), (4, 4), (6, 3)):
        again, same = drawn.run(batch_size, ranks)
        assert again.keys() == views.keys()
        for where in views:
            assert torch.equal(same[where], draws[where]), f"{where}: batches of {batch_size} on {ranks} ranks"
            torch.testing.assert_close(again[where], views[where], atol=2e-6, rtol=0)
    other = drawn.run(12, seed=1)[1]
    assert not any(torch.equal(other[where], row) for where, row in draws.items() if where[1] == 1)


def test_no_number_is_drawn_twice() -> None:
    """A generator that went on where a sample, view or operation ended would give another one's numbers."""
    colour = Colour(brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5)  # factors of 2 u, and u - 1/2
    policy, seen = Policy({"one": colour, "two": colour}), []
    for epoch in range(2):
        for view in range(2):
            for op in policy.draw(fold(0, epoch, view), torch.arange(20), 3, 24, 24, 24).values():
                seen += [(op[k].double() / 2).flatten() for k in ("brightness", "contrast", "saturation")]
                seen.append(op["hue"].double() + 0.5)
    numbers = torch.cat(seen)
    assert len(numbers) == 2 * 2 * 2 * 20 * 4 == len(numbers.unique())
    assert abs(float(numbers.mean()) - 0.5) < 0.05 and float(numbers.min()) < 0.01 and float(numbers.max()) > 0.99


class Hiding(Method):
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {"draws": self.draws(batch, "mask", 5)}


def test_a_methods_own_draws_follow_the_same_rule() -> None:
    """Masks, orders of patches: one row for each (epoch, view, sample), however the batch is cut."""
    backbone = torch.nn.Identity()
    backbone.num_features = 1  # type: ignore[assignment]
    method, seen = Hiding(backbone, views=2), set()
    for epoch in range(2):
        views = torch.zeros(2, 8, 1, 4, 4)
        rows = method(Batch(torch.arange(8), epoch, views, key=epoch + 7))["draws"].unflatten(0, (2, 8))
        for cut in ([5], [3, 1], list(range(8))):
            part = method(Batch(torch.tensor(cut), epoch, views[:, : len(cut)], key=epoch + 7))["draws"]
            assert torch.equal(part.unflatten(0, (2, len(cut))), rows[:, cut])
        seen |= {tuple(row.tolist()) for row in rows.flatten(0, 1)}
    assert len(seen) == 2 * 2 * 8
