"""Moving averages, queues, centres, assignments, masks and tiles, against a few lines of numpy."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.errors import UserError
from rsssl.methods import masks, tiles
from rsssl.methods.permutations import group, multiply, puzzle_orders
from rsssl.methods.prototypes import Prototypes, sinkhorn
from rsssl.methods.queue import Queue
from rsssl.methods.rotation import all_turns
from rsssl.models.backbone import build_backbone
from rsssl.models.ema import MovingAverage

FROZEN = "d54764be55b770f403ff4db6a669731ead673711a5fc56201ddb54513ffb0811"  # of the 1000 orders


def test_a_moving_average_follows_its_source() -> None:
    source = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = MovingAverage(*source, momentum=0.9)
    expected = {k: v.detach().double().numpy().copy() for k, v in source.named_parameters()}
    for step in range(5):
        with torch.no_grad():
            for p in source.parameters():
                p.add_(torch.randn_like(p))
        average.follow(step, 10)
        m = 1 - (1 - 0.9) * (math.cos(math.pi * step / 10) + 1) / 2
        for name, p in source.named_parameters():
            expected[name] = m * expected[name] + (1 - m) * p.detach().double().numpy()
    for name, p in average.module.named_parameters():
        np.testing.assert_allclose(p.numpy(), expected[name], atol=1e-6)
    assert not any(p.requires_grad for p in average.parameters())
    assert average.momentum(10, 10) == 1 and MovingAverage(source, momentum=0.9, final=None).momentum(7, 10) == 0.9
    assert len(list(average.parameters())) == 4, "the source is not its own"


@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 9), pushes=st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_a_queue_holds_the_newest(length: int, pushes: list[int]) -> None:
    queue = Queue(length, 2)
    everything = [tuple(row) for row in queue.rows.tolist()]
    for number, n in enumerate(pushes):
        x = torch.full((n, 2), float(number)) + torch.arange(n)[:, None] / 16
        queue.push(x)
        everything += [tuple(row) for row in x.tolist()]
    assert sorted(tuple(r) for r in queue.rows.tolist()) == sorted(everything[-length:])
    assert queue.full == (sum(pushes) >= length)


def test_assignments_are_sinkhorns() -> None:
    """The alternating scaling of exp(scores / epsilon), written out."""
    scores = np.random.default_rng(0).normal(size=(10, 4)) * 0.3
    q = np.exp(scores / 0.05)
    for _ in range(3):
        q /= q.sum(0, keepdims=True)
        q /= q.sum(1, keepdims=True)
    np.testing.assert_allclose(sinkhorn(torch.tensor(scores), 0.05, 3).numpy(), q, atol=1e-6)
    even = sinkhorn(torch.tensor(scores), 0.5, 100).numpy()
    np.testing.assert_allclose(even.sum(0), 10 / 4, atol=1e-4)
    np.testing.assert_allclose(even.sum(1), 1, atol=1e-6)
    assert torch.isfinite(sinkhorn(torch.tensor(scores) * 1e4, 0.05)).all(), "no score overflows"


def test_prototypes_are_cosines() -> None:
    prototypes = Prototypes(5, 3)
    with torch.no_grad():
        prototypes.weight.mul_(torch.tensor([[1.0], [4.0], [0.1]]))
    z, w = np.random.default_rng(0).normal(size=(6, 5)), prototypes.weight.detach().double().numpy()
    expected = (z / np.linalg.norm(z, axis=1, keepdims=True)) @ (w / np.linalg.norm(w, axis=1, keepdims=True)).T
    np.testing.assert_allclose(prototypes(torch.tensor(z).float()).detach().numpy(), expected, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):  # in float32 all the same
        np.testing.assert_allclose(prototypes(torch.tensor(z).float()).detach().numpy(), expected, atol=1e-6)


def test_neighbours_are_the_nearest_of_the_queue(method_of) -> None:
    method = method_of("nnclr", build_backbone("resnet10t", 3), queue=20, out=6)
    z = np.random.default_rng(0).normal(size=(5, 6))
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    np.testing.assert_allclose(method.neighbours(torch.tensor(z)).numpy(), unit, atol=1e-6)  # until the queue is full
    rows = np.random.default_rng(1).normal(size=(20, 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    method.queue.push(torch.tensor(rows))
    with torch.autocast("cpu", torch.bfloat16):
        nearest = method.neighbours(torch.tensor(z)).numpy()
    np.testing.assert_allclose(nearest, rows[(unit @ rows.T).argmax(1)], atol=1e-6)


def test_keys_of_moco_come_in_groups_in_the_order_of_the_images(method_of) -> None:
    method = method_of("moco_v2", build_backbone("resnet10t", 3), groups=3).eval()
    batch = Batch(torch.arange(7), 0, torch.randn(2, 7, 3, 32, 32), key=5)
    calls = []
    method.key.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    keys = method.keys(batch)
    assert sorted(calls) == [2, 2, 3]
    torch.testing.assert_close(keys, method.key(batch.views[0]))


def test_each_network_of_a_gan_lowers_its_own_loss_alone(method_of) -> None:
    """The gradient of the one loss is, for each network, that of its own part of it."""
    torch.manual_seed(0)
    method = method_of("marta_gan", build_backbone("resnet10t", 3), size=32)
    method.backbone.eval()  # batch norm's statistics stay as they are from one pass to the next
    batch = Batch(torch.arange(4), 0, torch.randn(1, 4, 3, 32, 32), key=1)
    groups = {
        "generator": list(method.generator.parameters()),
        "discriminator": [*method.backbone.parameters(), *method.judge.parameters()],
    }
    for name, parameters in groups.items():
        gradients = torch.autograd.grad(method(batch)["loss"], parameters)
        out = method(batch)
        part = (
            out["discriminator"] if name == "discriminator" else out["perceptual"] + method.matching * out["matching"]
        )
        for a, b in zip(gradients, torch.autograd.grad(part, parameters), strict=True):
            torch.testing.assert_close(a, b)
    with pytest.raises(UserError, match=r"ssl\.size=64"):
        method.generate(Batch(torch.arange(4), 0, torch.randn(1, 4, 3, 48, 48)))


def test_the_centre_follows_the_teachers_outputs(method_of) -> None:
    method = method_of("dino", build_backbone("resnet10t", 3), prototypes=8, centre_momentum=0.8)
    expected = np.zeros(8)
    for seed in range(4):
        teacher = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(seed))
        method.move_centre(teacher)
        expected = 0.8 * expected + 0.2 * teacher.double().numpy().mean((0, 1))
    np.testing.assert_allclose(method.centre.numpy(), expected, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 9), st.integers(1, 5), st.floats(0.05, 0.95), st.integers(0, 99))
def test_patches_hide_exactly_their_share(grid: int, patch: int, hidden: float, seed: int) -> None:
    draws = torch.rand(3, grid**2, generator=torch.Generator().manual_seed(seed))
    mask = masks.patches(draws, grid, patch, hidden)
    assert mask.shape == (3, 1, grid * patch, grid * patch)
    squares = mask.view(3, grid, patch, grid, patch).float().mean((2, 4))
    assert set(squares.unique().tolist()) <= {0.0, 1.0}, "a square is hidden whole or not at all"
    shown = max(1, min(grid**2 - 1, round((1 - hidden) * grid**2)))
    assert (squares == 0).flatten(1).sum(1).tolist() == [shown] * 3


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 40), st.integers(1, 4), st.integers(0, 99))
def test_blocks_are_rectangles_within_the_image(size: int, count: int, seed: int) -> None:
    draws = torch.rand(2, 4 * count, generator=torch.Generator().manual_seed(seed))
    mask = masks.blocks(draws, size, 0.2, 0.4)
    for n in range(2):
        expected = np.zeros((size, size), bool)
        height, width, top, left = draws[n].view(4, count).double().numpy()
        for k in range(count):
            h, w = 0.2 + 0.2 * height[k], 0.2 + 0.2 * width[k]
            t, l = top[k] * (1 - h), left[k] * (1 - w)  # noqa: E741
            centre = (np.arange(size) + 0.5) / size
            expected |= np.outer((centre >= t) & (centre < t + h), (centre >= l) & (centre < l + w))
        assert (mask[n, 0].numpy() != expected).mean() < 0.02, "except for rounding at an edge"
    central = masks.central(2, size, 0.5, torch.device("cpu"))
    assert central.float().mean().item() == pytest.approx((round(size / 2) / size) ** 2)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(2, 3), st.integers(18, 40), st.floats(0.5, 1.0), st.integers(0, 99))
def test_tiles_are_squares_of_their_cells(n: int, grid: int, size: int, share: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, 2, size, size, generator=generator)
    draws = torch.rand(n, 2 * grid**2, generator=generator)
    cut = tiles.cut(images, grid, share, draws)
    cell = size // grid
    side = max(1, round(share * cell))
    for i, row, column in np.ndindex(n, grid, grid):
        d = draws[i].view(2, grid, grid)[:, row, column]
        top, left = row * cell + int(d[0] * (cell - side + 1)), column * cell + int(d[1] * (cell - side + 1))
        assert top + side <= (row + 1) * cell and left + side <= (column + 1) * cell
        assert torch.equal(cut[(i * grid + row) * grid + column], images[i, :, top : top + side, left : left + side])
    joined = tiles.join(cut, grid)
    assert torch.equal(joined[0, :, :side, side : 2 * side], cut[1])
    plain = tiles.normalise(cut)
    np.testing.assert_allclose(plain.flatten(1).mean(1).numpy(), 0, atol=1e-4)
    np.testing.assert_allclose(plain.flatten(1).std(1).numpy(), 1, atol=0.05)


def test_the_orders_of_the_puzzles() -> None:
    small = puzzle_orders(2)
    assert small.shape == (24, 4) and len(np.unique(small, axis=0)) == 24 and (np.sort(small, 1) == np.arange(4)).all()
    orders = puzzle_orders(3)
    assert orders.shape == (1000, 9) and (np.sort(orders, 1) == np.arange(9)).all()
    assert len(group()) == 1512
    digits = "".join("".join(map(str, order)) + "\n" for order in orders)
    assert hashlib.sha256(digits.encode()).hexdigest() == FROZEN, "a jigsaw that was trained before has another head"
    distance = (orders[:, None] != orders[None]).sum(2)
    np.fill_diagonal(distance, 9)
    assert distance.min() == 6, "the most that 1000 permutations of 9 can have: 7 leaves room for 9 * 8 * 7 = 504"
    assert distance[:504, :504].min() == 7


def test_the_field_of_eight_is_a_field() -> None:
    powers = [1, 2, 4, 3, 6, 7, 5]  # of x, modulo x^3 + x + 1
    for i, j in np.ndindex(7, 7):
        assert multiply(powers[i], powers[j]) == powers[(i + j) % 7]
    for a in range(1, 8):
        assert sorted(multiply(a, b) for b in range(1, 8)) == list(range(1, 8))
        for b in range(8):
            for c in range(8):
                assert multiply(a, b ^ c) == multiply(a, b) ^ multiply(a, c)
                assert multiply(a, multiply(b, c)) == multiply(multiply(a, b), c)


def test_a_puzzle_shows_the_head_what_it_shows_people(method_of) -> None:
    """A head that knows each tile's place reads the order off; put in that order, the pictures are the image."""
    method = method_of("jigsaw3x3", build_backbone("resnet10t", 3), orders=5)
    batch = Batch(torch.arange(4), 0, torch.rand(1, 4, 3, 36, 36), key=7)

    class Place(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return (torch.arange(9.0).repeat(4)[:, None] + 1).expand(-1, 128)

    class ByPlace(nn.Module):
        def forward(self, shown: Tensor) -> Tensor:
            order = shown.unflatten(1, (9, 128))[:, :, 0].round().long() - 1  # (k * n, 9)
            return (order[:, None] == method.known[None]).all(2).float()

    method.each, method.head = Place(), ByPlace()  # type: ignore[assignment]
    assert method(batch)["puzzles_solved"] == 1
    columns = method.pictures(batch)
    assert torch.equal(columns["solved"], columns["image"]) and not torch.equal(columns["puzzle"], columns["image"])


def test_turns_are_quarter_turns() -> None:
    x = torch.rand(2, 3, 5, 5)
    turned = all_turns(x).unflatten(0, (4, 2)).numpy()
    for k in range(4):
        np.testing.assert_array_equal(turned[k], np.rot90(x.numpy(), k, (2, 3)))
