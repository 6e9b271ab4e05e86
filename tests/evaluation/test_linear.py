"""The batched solver against scikit-learn's logistic regression: same objective, same solution."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from rsssl.evaluation import fit_linear
from rsssl.evaluation.linear import principal_axes

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
        fit_linear(x, y, [1.0], n_classes=4)
    with pytest.raises(ValueError, match="every class needs"):
        fit_linear(x, y, [1.0], masks=(y != 1)[None])


@pytest.mark.parametrize("shape", [(6, 40), (40, 6)])
def test_principal_axes_rotate(shape: tuple[int, int]) -> None:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).double()
    x -= x.mean(0)
    z, axes, energy = principal_axes(x)
    torch.testing.assert_close(z @ axes.T, x)
    torch.testing.assert_close(z.T @ z, energy.diag(), atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(axes.T @ axes, torch.eye(len(energy)).double())
    assert len(energy) == min(shape[0] - (shape[0] < shape[1]), shape[1])  # centring takes one dimension
