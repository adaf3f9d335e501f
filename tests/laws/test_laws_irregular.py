"""S4D under steps that vary, with every rule: the laws of intervals, of sub-steps, and longer sequences."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longstate import S4, S4D, InputError
from longstate.diagnostics import laws as checks
from longstate.layers import Residual

ORDERS = {"zoh": None, "bilinear": 2, "euler": 1, "backward_euler": 1, "dirac": None}
EACH_RULE = pytest.mark.parametrize("rule", ORDERS)
EACH_KIND = pytest.mark.parametrize("init", ["lin", "real"])


@EACH_RULE
@EACH_KIND
def test_intervals_mean_the_same_in_every_view(rule: str, init: str) -> None:
    layer = S4D(4, 8, rule=rule, init=init, channels=2, n_ssm=2)
    checks.check_irregular_rate(layer, length=13)
    checks.check_irregular_rate(layer.double(), length=13)
    checks.check_gradients_of_rate(layer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_intervals_of_longer_sequences(dtype: torch.dtype) -> None:
    checks.check_irregular_rate(S4D(4, 8).to(dtype), length=300)


@EACH_RULE
@EACH_KIND
@pytest.mark.parametrize("rate", [0.5, 3.0])
def test_substeps_follow_the_order_of_the_rule(rule: str, init: str, rate: float) -> None:
    layer = S4D(4, 8, rule=rule, init=init).double()
    checks.check_substeps(layer, order=ORDERS[rule], rate=rate)
    for order in {None, 1, 2} - {ORDERS[rule]}:
        with pytest.raises(checks.LawViolation, match="sub-steps"):
            checks.check_substeps(layer, order=order, rate=rate)


@pytest.mark.parametrize("rule", ["zoh", "dirac", "bilinear"])
def test_substeps_of_s4_by_numbers(rule: str) -> None:
    layer = S4(4, 8, rule=rule).double()
    checks.check_substeps(layer, order=ORDERS[rule])


def test_the_laws_refuse_what_takes_no_intervals() -> None:
    for check in (checks.check_irregular_rate, checks.check_gradients_of_rate):
        with pytest.raises(InputError, match="S4 is time invariant and takes one number"):
            check(Residual(S4(4, 8)))


@given(data=st.data(), length=st.integers(1, 20), rule=st.sampled_from(sorted(ORDERS)))
def test_an_element_without_input_and_interval_may_stand_anywhere(data: st.DataObject, length: int, rule: str) -> None:
    layer = S4D(4, 8, rule=rule).double()
    x, rate = torch.randn(1, length, 4).double(), torch.rand(1, length).double()
    at = data.draw(st.integers(0, length))
    longer = torch.cat([x[:, :at], torch.zeros(1, 1, 4).double(), x[:, at:]], dim=1)
    longer_rate = torch.cat([rate[:, :at], torch.zeros(1, 1).double(), rate[:, at:]], dim=1)
    start = layer.initial_state(1)
    y, state = layer.forward_with_state(x, start, rate=rate)
    found, after = layer.forward_with_state(longer, start, rate=longer_rate)
    kept = [t for t in range(length + 1) if t != at]
    torch.testing.assert_close(found[:, kept], y, rtol=0, atol=1e-12)
    torch.testing.assert_close(after.x, state.x, rtol=0, atol=1e-12)


def test_silence_in_one_step_or_in_many() -> None:
    """Zero-order hold of a constant input is exact, however it is cut."""
    layer = S4D(4, 8, rule="zoh").double()
    whole = layer.forward_with_state(torch.ones(1, 1, 4).double(), layer.initial_state(1), rate=7.0)[1]
    parts = torch.rand(1, 20).double()
    parts = 7 * parts / parts.sum()
    cut = layer.forward_with_state(torch.ones(1, 20, 4).double(), layer.initial_state(1), rate=parts)[1]
    torch.testing.assert_close(cut.x, whole.x, rtol=1e-12, atol=1e-12)
