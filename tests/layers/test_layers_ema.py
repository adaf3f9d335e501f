"""EMA against the closed form of its kernel, a filter by scipy, and its promises."""

import math

import pytest
import torch
from scipy import signal

from longstate import InputError, ops
from longstate.layers import EMA, SLOW


def test_kernel_is_the_closed_form() -> None:
    layer = EMA(3, 5, output="none").double()
    p = layer.delta.sigmoid()
    q = 1 - p * layer.alpha.sigmoid()
    expected = torch.zeros(3, 40, dtype=torch.float64)
    for lag in range(40):
        for n in range(5):
            expected[:, lag] += p[:, n] * layer.B[:, n] * q[:, n] ** lag * layer.C[0, :, n] / math.sqrt(5)
    K = ops.lti_kernel(layer.system(), 40, dtype=torch.float64)[0]
    assert (K - expected).abs().max() <= 1e-13


@torch.no_grad()
def test_scipy_filters_the_same() -> None:
    layer = EMA(2, 4, output="none").double()
    x = torch.randn(1, 60, 2, dtype=torch.float64)
    y, state = layer.forward_with_state(x, layer.initial_state(1))
    p = layer.delta.sigmoid()
    q = 1 - p * layer.alpha.sigmoid()
    for feature in range(2):
        total = layer.D[0, feature] * x[0, :, feature]
        for n in range(4):
            b, a = float(p[feature, n] * layer.B[feature, n]), [1.0, -float(q[feature, n])]
            average = torch.from_numpy(signal.lfilter([b], a, x[0, :, feature].numpy()))
            assert (state.x[0, feature, n] - average[-1]).abs() <= 1e-13
            total = total + layer.C[0, feature, n] / 2 * average
        assert (y[0, :, feature] - total).abs().max() <= 1e-12


def test_initial_values_are_those_of_the_publication() -> None:
    layer = EMA(500, 16)
    assert layer.alpha.std().item() == pytest.approx(0.2, rel=0.05)
    assert layer.delta.std().item() == pytest.approx(0.2, rel=0.05)
    assert (layer.B.mean(0) - torch.tensor([1.0, -1.0]).repeat(8)).abs().max() <= 0.01
    assert (layer.B - layer.B.mean(0)).std().item() == pytest.approx(0.02, rel=0.05)
    assert layer.C.std().item() == pytest.approx(1.0, rel=0.05)
    assert layer.D.std().item() == pytest.approx(1.0, rel=0.1)


def test_without_the_residual_an_element_enters_only_through_its_averages() -> None:
    layer = EMA(3, 4, residual=False, output="none").double()
    assert not layer.D.requires_grad
    x = torch.randn(1, 5, 3, dtype=torch.float64)
    system = layer.system()
    assert (layer(x)[0, 0] - (system.C[0] * system.B).sum(-1) * x[0, 0]).abs().max() <= 1e-14


def test_gates_learn_slowly() -> None:
    assert {name for name, rule in EMA.optimizer_rules.items() if rule is SLOW} == {"alpha", "delta", "B"}


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: EMA(4, 0), "`d_state` is 0, but a positive integer is needed"),
        (
            lambda: EMA(4)(torch.zeros(2, 9, 4), rate=1.0),
            "`rate` is 1.0, but EMA counts elements and has no time scale",
        ),
        (lambda: EMA(4)(torch.zeros(2, 9, 4), rate=torch.ones(2, 9)), "but EMA counts elements and has no time scale"),
        (
            lambda: EMA(4).constants(rate=2.0),
            "but EMA counts elements and has no time scale, so None is needed; resample",
        ),
        (lambda: EMA(4).step(torch.zeros(2, 4), EMA(4).initial_state(2), rate=torch.ones(2)), "has no time scale"),
    ],
)
def test_errors_say_what_to_do(build, text: str) -> None:
    with pytest.raises(InputError, match=text):
        build()
