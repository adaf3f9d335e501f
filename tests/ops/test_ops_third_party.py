"""Other people's kernels: their arguments, by stand-ins with their interface, and what they are not asked for."""

import math
import sys
import types

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from longstate import InputError, ops
from longstate.ops import _third_party


def selective_scan_fn(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
) -> tuple[Tensor, Tensor]:
    """mamba_ssm's interface over its own axes, as a plain loop."""
    delta = delta if delta_bias is None else delta + delta_bias[:, None]
    delta = F.softplus(delta) if delta_softplus else delta
    h, y = u.new_zeros(*u.shape[:2], A.shape[1]), []
    for t in range(u.shape[2]):
        h = torch.exp(delta[:, :, t, None] * A) * h + (delta * u)[:, :, t, None] * B[:, None, :, t]
        y.append((h * C[:, None, :, t]).sum(-1))
    out = torch.stack(y, -1)
    out = out if D is None else out + D[:, None] * u
    assert return_last_state
    return (out if z is None else out * F.silu(z)), h


def mamba_chunk_scan_combined(
    x,
    dt,
    A,
    B,
    C,
    chunk_size,
    D=None,
    dt_bias=None,
    initial_states=None,
    dt_softplus=False,
    dt_limit=(0.0, math.inf),
    return_final_states=False,
) -> tuple[Tensor, Tensor]:
    assert return_final_states
    return ops.ssd(
        x,
        dt,
        A,
        B,
        C,
        D,
        dt_bias=dt_bias,
        dt_softplus=dt_softplus,
        dt_limit=dt_limit,
        state=initial_states,
        block=chunk_size,
        backend="reference",
    )


def causal_conv1d_fn(x, weight, bias=None, activation=None) -> Tensor:
    y = F.conv1d(F.pad(x, (weight.shape[1] - 1, 0)), weight[:, None], bias, groups=len(weight))
    return F.silu(y) if activation == "silu" else y


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, function in (
        ("mamba_ssm.ops.selective_scan_interface", selective_scan_fn),
        ("mamba_ssm.ops.triton.ssd_combined", mamba_chunk_scan_combined),
        ("causal_conv1d", causal_conv1d_fn),
    ):
        module = types.ModuleType(name)
        setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, name, module)
        parent = name.rpartition(".")[0]
        while parent:
            monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
            parent = parent.rpartition(".")[0]


LENGTHS = torch.tensor([9, 4])
VALID = torch.arange(9) < LENGTHS[:, None]


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_selective_scan(lengths: Tensor | None) -> None:
    u, dt, z = (torch.randn(2, 9, 4) for _ in range(3))
    A, D, bias = -torch.rand(4, 3), torch.randn(4), torch.randn(4)
    B, C = torch.randn(2, 9, 3), torch.randn(2, 9, 3)
    arguments = (u, dt, A, B, C, D, z, bias, True, None, lengths, None)
    y, state = _third_party.selective_scan(*arguments)
    expected, final = ops.selective_scan(*arguments[:6], z=z, dt_bias=bias, dt_softplus=True, lengths=lengths)
    inside = VALID if lengths is not None else torch.ones_like(VALID)
    assert torch.allclose(y[inside], expected[inside], atol=1e-5)
    assert torch.allclose(state, final, atol=1e-5)


@pytest.mark.usefixtures("stand_ins")
def test_a_gradient_through_a_final_state_that_has_none_is_an_error() -> None:
    u = torch.randn(2, 9, 4, requires_grad=True)
    rest = (torch.randn(2, 9, 4), -torch.rand(4, 3), torch.randn(2, 9, 3), torch.randn(2, 9, 3))
    y, state = _third_party.selective_scan(u, *rest, None, None, None, True, None, None, None)
    y.sum().backward(retain_graph=True)
    assert u.grad is not None
    with pytest.raises(InputError, match="a gradient came to the final state of mamba_ssm's selective scan"):
        state.sum().backward()


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_ssd(lengths: Tensor | None) -> None:
    x, dt, A = torch.randn(2, 9, 4, 3), torch.randn(2, 9, 4), -torch.rand(4)
    B, C, state = torch.randn(2, 9, 2, 5), torch.randn(2, 9, 2, 5), torch.randn(2, 4, 3, 5)
    limit = (0.1, 2.0)
    y, final = _third_party.ssd(x, dt, A, B, C, torch.ones(4), torch.ones(4), True, limit, state, lengths, None, 64)
    expected, last = ops.ssd(
        x,
        dt,
        A,
        B,
        C,
        torch.ones(4),
        dt_bias=torch.ones(4),
        dt_softplus=True,
        dt_limit=limit,
        state=state,
        lengths=lengths,
    )
    inside = VALID if lengths is not None else torch.ones_like(VALID)
    assert torch.allclose(y[inside], expected[inside], atol=1e-4)
    assert torch.allclose(final, last, atol=1e-5)


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_causal_conv1d(lengths: Tensor | None) -> None:
    x, weight, bias, tail = torch.randn(2, 9, 4), torch.randn(4, 3), torch.randn(4), torch.randn(2, 2, 4)
    y, new = _third_party.causal_conv1d(x, weight, bias, tail, "silu", lengths, None)
    expected, last = ops.causal_conv1d(x, weight, bias, tail, activation="silu", lengths=lengths)
    inside = VALID if lengths is not None else torch.ones_like(VALID)
    assert torch.allclose(y[inside], expected[inside], atol=1e-5)
    assert torch.equal(new, last)


def test_reasons() -> None:
    u, A, B = torch.zeros(1, 4, 2), torch.zeros(2, 3), torch.zeros(1, 4, 3)
    given = (u, u, A, B, B, None, None, None, False)
    reasons = dict(ops.explain("selective_scan", *given, None, None, None))
    assert reasons["mamba_ssm"] == "needs tensors on cuda, got cpu"
    reasons = dict(ops.explain("selective_scan", *given, torch.zeros(1, 2, 3), None, None))
    assert reasons["mamba_ssm"] == "starts from rest only, got a state"
    reasons = dict(ops.explain("causal_conv1d", u, torch.zeros(2, 7), None, torch.zeros(1, 6, 2), None, None, None))
    assert reasons["causal_conv1d"] == "has kernels of 2 to 4 taps, got 7"
    x, dt = torch.zeros(1, 4, 2, 3), torch.zeros(1, 4, 2)
    given = (x, dt, torch.zeros(2), torch.zeros(1, 4, 1, 3), torch.zeros(1, 4, 1, 3), None, None, True, (0.0, 1.0))
    reasons = dict(ops.explain("ssd", *given, None, None, torch.zeros(1, 4, dtype=torch.bool), 64))
    assert reasons["mamba_ssm"] == "packed sequences beside a state are not its contract, got `starts`"
    meta = [part.to("meta") if isinstance(part, Tensor) else part for part in given]
    assert dict(ops.explain("ssd", *meta, None, None, None, 64))["mamba_ssm"] == "needs tensors on cuda, got meta"
