"""The batched solver against scikit-learn's logistic regression: same objective, same solution."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from rsssl.evaluation.linear import LinearFit, fit_linear, principal_axes

Make = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def reference(x: torch.Tensor, y: torch.Tensor, c: float) -> LogisticRegression:
    return LogisticRegression(C=c, tol=1e-10, max_iter=20000).fit(x.double().numpy(), y.numpy())


@pytest.mark.parametrize(("per_class", "d"), [(4, 60), (30, 20), (12, 60)])  # fewer samples than dimensions, and more
@pytest.mark.parametrize("c", [0.01, 1.0, 30.0])
def test_coefficients_equal_scikit_learn(make: Make, per_class: int, d: int, c: float) -> None:
    x, y = make(per_class, d, classes=5, seed=1)
    x = x + 3  # the origin is nowhere near the samples: the free bias must take care of it
    fit = fit_linear(x, y, [c], tolerance=1e-8)
    expected = reference(x, y, c)
    scale = np.abs(expected.coef_).max()
    assert bool(fit.converged.all())
    np.testing.assert_allclose(fit.weight[0, 0], expected.coef_, atol=2e-4 * scale)
    logits = expected.decision_function(x.double().numpy())
    np.testing.assert_allclose(fit.logits[0, 0], logits, atol=2e-4 * np.abs(logits).max())
    ours = x.double() @ fit.weight[0, 0].T + fit.bias[0, 0]
    np.testing.assert_allclose(ours, fit.logits[0, 0], atol=1e-8)


def test_is_the_minimum(make: Make) -> None:
    """By autograd on the objective as documented: the gradient vanishes."""
    x, y = make(10, 30, classes=4, seed=2)
    fit = fit_linear(x, y, [5.0], tolerance=1e-9)
    weight, bias = (t[0, 0].clone().requires_grad_() for t in (fit.weight, fit.bias))
    loss = 5.0 * torch.nn.functional.cross_entropy(x.double() @ weight.T + bias, y, reduction="sum")
    (loss + weight.square().sum() / 2).backward()
    assert weight.grad is not None and bias.grad is not None
    assert float(weight.grad.abs().max()) < 1e-6 and float(bias.grad.abs().max()) < 1e-6


def test_every_mask_and_strength_is_its_own_problem(make: Make) -> None:
    x, y = make(10, 25, classes=3, seed=3)
    masks = torch.stack([torch.arange(30) % 5 != r for r in range(5)])
    strengths = [0.03, 0.3, 3.0]
    batch = fit_linear(x, y, strengths, masks=masks, tolerance=1e-8)
    for f in range(5):
        for s, c in enumerate(strengths):
            alone = fit_linear(x[masks[f]], y[masks[f]], [c], tolerance=1e-8)
            atol = 1e-4 * float(alone.weight.abs().max())
            torch.testing.assert_close(batch.weight[f, s], alone.weight[0, 0], atol=atol, rtol=0)
            held = x[~masks[f]].double() @ alone.weight[0, 0].T + alone.bias[0, 0]
            torch.testing.assert_close(batch.logits[f, s][~masks[f]], held, atol=1e-3, rtol=1e-3)


def test_every_subset_is_its_own_problem(make: Make) -> None:
    """A batch of subsets, with other strengths and masks beside them, gives each what it gets alone: to rounding."""
    parts = [make(8, 30, classes=4, seed=s) for s in (10, 11, 12)]
    x, y = (torch.stack(t) for t in zip(*parts, strict=True))
    x[1, :, 5:] = 0  # a subset of lower rank than the others: n < D for them, n > rank for it
    y[2] = y[2].flip(0)
    masks = torch.stack([torch.stack([torch.arange(32) % 4 != r for r in range(2)])] * 3)
    strengths = [0.1, 1.0, 100.0]
    batch = fit_linear(x, y, strengths, masks=masks, tolerance=1e-7)
    assert batch.weight.shape == (3, 2, 3, 4, 30) and bool(batch.converged.all())
    for i in range(3):
        alone = fit_linear(x[i], y[i], strengths, masks=masks[i], tolerance=1e-7)
        for name in ("weight", "bias", "logits"):
            ours, theirs = getattr(batch, name)[i], getattr(alone, name)
            torch.testing.assert_close(ours, theirs, atol=1e-7 * float(theirs.abs().max()), rtol=0)
        expected = reference(x[i][masks[i, 1]], y[i][masks[i, 1]], 1.0)
        np.testing.assert_allclose(batch.weight[i, 1, 1], expected.coef_, atol=2e-4 * np.abs(expected.coef_).max())


@pytest.mark.parametrize(("per_class", "d"), [(5, 60), (40, 20)])
def test_strengths_in_any_order_and_far_apart(make: Make, per_class: int, d: int) -> None:
    """Each strength starts from the ones before it: where it ends must not depend on which these were."""
    x, y = make(per_class, d, classes=5, seed=13)
    strengths = [1e4, 0.01, 1.0, 1.0, 30.0]
    fit = fit_linear(x, y, strengths, tolerance=1e-7)
    assert bool(fit.converged.all())
    for s, c in enumerate(strengths):
        alone = fit_linear(x, y, [c], tolerance=1e-7)
        scale = float(alone.weight.abs().max())
        torch.testing.assert_close(fit.weight[0, s], alone.weight[0, 0], atol=1e-4 * scale, rtol=0)


def test_tolerance_bounds_the_objective(make: Make) -> None:
    """Stopped early, the objective is above its minimum by about the tolerance squared; else it is not converged."""
    x, y = make(20, 64, classes=6, seed=14)

    def objective(fit: LinearFit, s: int, c: float) -> float:
        loss = torch.nn.functional.cross_entropy(fit.logits[0, s].double(), y, reduction="sum")
        return float(c * loss + fit.weight[0, s].double().square().sum() / 2)

    strengths = [0.3, 30.0, 3000.0]
    exact = fit_linear(x, y, strengths, tolerance=1e-7)
    for dtype, tolerance in ((torch.float32, 1e-2), (torch.float64, 1e-3)):
        loose = fit_linear(x, y, strengths, tolerance=tolerance, dtype=dtype)
        assert bool(loose.converged.all()) and loose.iterations < exact.iterations
        for s, c in enumerate(strengths):
            least = objective(exact, s, c)
            assert least - 1e-6 * least <= objective(loose, s, c) <= least * (1 + 30 * tolerance**2)
    assert not fit_linear(x, y, [3000.0], tolerance=1e-7, max_iterations=3).converged.any()


def test_two_classes_are_half_scikit_learns_strength(make: Make) -> None:
    x, y = make(20, 10, classes=2, seed=4)
    ours = fit_linear(x, y, [1.0], tolerance=1e-8)
    expected = reference(x, y, 2.0)
    margin = ours.logits[0, 0, :, 1] - ours.logits[0, 0, :, 0]
    np.testing.assert_allclose(margin, expected.decision_function(x.double().numpy()), rtol=1e-3, atol=1e-4)


def test_single_precision_ranks_the_same(make: Make) -> None:
    x, y = make(20, 64, classes=6, seed=5)
    new, truth = make(200, 64, classes=6, seed=5, draw=1)
    fit = fit_linear(x, y, [0.1, 1.0, 10.0], tolerance=5e-3, max_iterations=100, dtype=torch.float32)
    for s, c in enumerate([0.1, 1.0, 10.0]):
        expected = reference(x, y, c).predict(new.numpy())
        ours = (new @ fit.weight[0, s].T + fit.bias[0, s]).argmax(1)
        assert abs(float((ours == truth).double().mean()) - float((expected == truth.numpy()).mean())) <= 0.005


def test_odd_features(make: Make) -> None:
    """Constant features, duplicates and a thousandfold spread of scales end in the same minimum as scikit-learn's."""
    x, y = make(15, 12, classes=3, seed=6)
    x = torch.cat([x * torch.logspace(-1.5, 1.5, 12), x[:, :3], torch.full((len(x), 2), 7.0)], 1)
    fit = fit_linear(x, y, [1.0], tolerance=1e-8, max_iterations=5000)
    logits = reference(x, y, 1.0).decision_function(x.double().numpy())
    np.testing.assert_allclose(fit.logits[0, 0].log_softmax(1).exp(), torch.tensor(logits).softmax(1), atol=2e-3)
    nothing = fit_linear(torch.zeros(6, 4), torch.tensor([0, 0, 0, 1, 1, 2]), [1.0])  # the class shares remain
    expected = torch.tensor([3.0, 2.0, 1.0]).double() / 6
    torch.testing.assert_close(nothing.logits[0, 0].softmax(1)[0], expected, atol=1e-5, rtol=0)


def test_class_without_samples_is_refused(make: Make) -> None:
    x, y = make(5, 8, classes=3, seed=7)
    with pytest.raises(ValueError, match="every class needs"):
        fit_linear(x, torch.where(y == 1, 3, y), [1.0])
    with pytest.raises(ValueError, match="every class needs"):
        fit_linear(x, y, [1.0], masks=(y != 1)[None])
    both = torch.stack([y, torch.where(y == 1, 0, y)])  # missing in one subset of two
    with pytest.raises(ValueError, match="every class needs"):
        fit_linear(torch.stack([x, x]), both, [1.0])


@pytest.mark.parametrize("shape", [(6, 40), (40, 6)])
def test_principal_axes_rotate(shape: tuple[int, int]) -> None:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).double()
    x -= x.mean(0)
    z, axes, energy = principal_axes(x)
    torch.testing.assert_close(z @ axes.T, x)
    torch.testing.assert_close(z.T @ z, energy.diag(), atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(axes.T @ axes, torch.eye(len(energy)).double())
    assert len(energy) == min(shape[0] - (shape[0] < shape[1]), shape[1])  # centring takes one dimension
