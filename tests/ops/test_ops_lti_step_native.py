"""The compiled step of time-invariant systems, and when it stands back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from systems import KINDS, random_system

from longstate import InputError, ops
from longstate.ops import _native

pytestmark = pytest.mark.skipif(_native.library() is None, reason="no compiled kernels on this machine")


def draw(kind: str, batch: int = 2, features: int = 3, d_state: int = 4, channels: int = 2):
    system = random_system(kind, features, d_state, channels)
    state = torch.randn(batch, *system.state_shape)
    return torch.randn(batch, features), state, ops.lti_constants(system, torch.float32)


@given(
    kind=st.sampled_from(KINDS),
    batch=st.integers(1, 3),
    features=st.sampled_from([1, 7, 33]),
    d_state=st.sampled_from([1, 5, 16, 33]),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
)
def test_equals_the_equation(kind: str, batch: int, features: int, d_state: int, channels: int, seed: int) -> None:
    torch.manual_seed(seed)
    u, state, constants = draw(kind, batch, features, d_state, channels)
    y, new = ops.lti_step(u, state, constants, backend="native")
    wide = ops.StepConstants(*(part.double() for part in constants))
    expected_y, expected = ops.lti_step(u.double(), state.double(), wide, backend="reference")
    assert (y - expected_y).abs().max() <= 1e-5 * expected_y.abs().max() + 1e-5
    assert (new - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_many_rows_in_the_thread_pool() -> None:
    torch.manual_seed(0)
    u, state, constants = draw("complex", 64, 40, 32, 1)
    y, new = ops.lti_step(u, state, constants, backend="native")
    same_y, same = ops.lti_step(u, state, constants, backend="torch")
    torch.testing.assert_close(y, same_y, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(new, same, rtol=1e-5, atol=1e-5)


def test_stands_back_where_a_gradient_or_a_trace_would_be_lost() -> None:
    u, state, constants = draw("complex")
    assert ops.explain("lti_step", u, state, constants)[0] == ("native", None)
    assert torch.equal(*(ops.lti_step(u, state, constants, backend=name)[0] for name in ("auto", "native")))
    wants = state.clone().requires_grad_()
    assert "no gradient of its own" in str(ops.explain("lti_step", u, wants, constants)[0][1])
    with pytest.raises(InputError, match="cannot run this call of lti_step: needs no_grad or inference_mode"):
        ops.lti_step(u, wants, constants, backend="native")
    assert ops.lti_step(u, wants, constants)[0].requires_grad
    with torch.no_grad():
        assert ops.explain("lti_step", u, wants, constants)[0] == ("native", None)
    assert "contiguous float32" in str(ops.explain("lti_step", u.double(), state, constants)[0][1])
    mapped = torch.vmap(lambda x: ops.lti_step(x, state, constants)[0])(torch.stack([u, 2 * u]))
    torch.testing.assert_close(mapped[0], ops.lti_step(u, state, constants)[0], rtol=1e-5, atol=1e-5)
