"""The generalised bilinear transform against scipy, against the rules it holds, and in its derivative."""

import numpy as np
import pytest
import torch
from scipy import signal

from longstate import InputError, theory


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("measure", ["legs", "legt", "fourier"])
def test_it_is_that_of_scipy(measure: str, alpha: float) -> None:
    A, B = theory.hippo(measure, 6)
    system = (A.numpy(), B.numpy()[:, None], np.eye(6), np.zeros((6, 1)))
    expected = signal.cont2discrete(system, 0.03, method="gbt", alpha=alpha)
    A_bar, B_bar = theory.gbt(A, B, 0.03, alpha)
    assert np.abs(A_bar.numpy() - expected[0]).max() <= 1e-13
    assert np.abs(B_bar.numpy() - expected[1][:, 0]).max() <= 1e-13


@pytest.mark.parametrize(("alpha", "rule"), [(0.0, "euler"), (0.5, "bilinear"), (1.0, "backward_euler")])
def test_it_holds_three_rules(alpha: float, rule: str) -> None:
    A, B = torch.randn(4, 3, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    dt = torch.rand(4, dtype=torch.float64)
    for ours, theirs in zip(theory.gbt(A, B, dt, alpha), theory.discretize_dense(A, B, dt, rule), strict=True):
        assert torch.equal(ours, theirs)


def test_no_step_is_the_identity() -> None:
    A, B = theory.hippo("legs", 5)
    A_bar, B_bar = theory.gbt(A, B, 0.0, 0.3)
    assert torch.equal(A_bar, torch.eye(5, dtype=torch.float64))
    assert torch.equal(B_bar, torch.zeros(5, dtype=torch.float64))


def test_derivatives() -> None:
    A, B = torch.randn(2, 3, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    inputs = (A.requires_grad_(), B.requires_grad_(), torch.rand(2, dtype=torch.float64).requires_grad_())
    assert torch.autograd.gradcheck(lambda A, B, dt: theory.gbt(A, B, dt, 0.3), inputs)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_an_alpha_outside_is_refused(alpha: float) -> None:
    with pytest.raises(InputError, match=r"`alpha` is .*, but a number from 0 to 1 is needed; 0.5 is the bilinear"):
        theory.gbt(*theory.hippo("legs", 3), 0.1, alpha)


def test_what_is_not_square_is_refused() -> None:
    with pytest.raises(InputError, match=r"`A` has shape \(3, 2\), but square matrices"):
        theory.gbt(torch.zeros(3, 2), torch.zeros(3), 0.1, 0.5)
