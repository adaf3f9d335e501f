"""Other people's kernels: their arguments, by stand-ins with their interface, and what they are not asked for."""

import importlib.metadata
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


def chunk_simple_gla(
    q, k, v, g, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None
) -> tuple[Tensor, Tensor]:
    """fla's interface (batch, length, heads, width), states (sequences, heads, keys, values), as a plain loop."""
    batch, length, heads, keys = q.shape
    assert k.shape == q.shape
    assert v.shape[:3] == g.shape == q.shape[:3]
    assert q.dtype is k.dtype is v.dtype
    assert g.dtype is torch.float32
    assert output_final_state
    assert cu_seqlens is None or (batch == 1 and cu_seqlens.dtype is torch.int64)
    ends = [length] if cu_seqlens is None else cu_seqlens.tolist()[1:]
    count = batch if cu_seqlens is None else len(ends)
    if initial_state is None:
        initial_state = torch.zeros(count, heads, keys, v.shape[3])
    assert initial_state.shape == (count, heads, keys, v.shape[3])
    assert initial_state.is_contiguous()
    S, y, final = (initial_state if cu_seqlens is None else initial_state[:1]), [], []
    for t in range(length):
        if t in ends:
            final.append(S)
            S = initial_state[len(final)][None]
        S = g[:, t].exp()[..., None, None] * S + k[:, t, :, :, None].float() * v[:, t, :, None].float()
        y.append((S * q[:, t, :, :, None].float()).sum(2) * scale)
    return torch.stack(y, 1).to(q.dtype), torch.cat([*final, S])


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, function in (
        ("mamba_ssm.ops.selective_scan_interface", selective_scan_fn),
        ("mamba_ssm.ops.triton.ssd_combined", mamba_chunk_scan_combined),
        ("causal_conv1d", causal_conv1d_fn),
        ("fla.ops.simple_gla", chunk_simple_gla),
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
@pytest.mark.parametrize("operator", ["selective_scan", "ssd", "ssd_by_fla"])
def test_padding_reaches_no_gradient(operator: str) -> None:
    x, dt, bias = torch.randn(2, 9, 4), torch.randn(2, 9, 4), torch.ones(4, requires_grad=True)
    x[1, 4:] = dt[1, 4:] = math.nan
    dt.requires_grad_()
    if operator == "selective_scan":
        rest = (-torch.rand(4, 3), torch.randn(2, 9, 3), torch.randn(2, 9, 3), None, None, bias, True)
        y, _ = _third_party.selective_scan(x, dt, *rest, None, LENGTHS, None)
    else:
        rest = (-torch.rand(4), torch.randn(2, 9, 1, 6), torch.randn(2, 9, 1, 6), None, bias, True, (0.0, math.inf))
        run = _third_party.ssd if operator == "ssd" else _third_party.ssd_by_fla
        y, _ = run(x[..., None].expand(-1, -1, -1, 2), dt, *rest, None, LENGTHS, None, 64)
    y[VALID].sum().backward()
    assert dt.grad is not None
    assert bias.grad is not None
    assert not dt.grad[1, 4:].any()
    assert torch.isfinite(bias.grad).all()


STARTS = torch.tensor([[0, 0, 1, 1, 0, 0, 0, 1, 0], [1, 0, 0, 1, 0, 1, 0, 0, 0]], dtype=torch.bool)


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("starts", [None, STARTS])
@pytest.mark.parametrize("lengths", [None, LENGTHS, torch.tensor([0, 9])])
@pytest.mark.parametrize("rests", [True, False])
@pytest.mark.parametrize("softplus", [True, False])
def test_ssd_by_fla(softplus: bool, rests: bool, lengths: Tensor | None, starts: Tensor | None) -> None:
    x, dt, A = torch.randn(2, 9, 4, 6), torch.randn(2, 9, 4), -torch.rand(4)
    B, C = torch.randn(2, 9, 2, 5), torch.randn(2, 9, 2, 5)
    state, D = None if rests else torch.randn(2, 4, 6, 5), torch.randn(4) if softplus else torch.randn(4, 6)
    bias, limit = torch.ones(4) if softplus else None, (0.1, 2.0)
    inside = torch.ones_like(VALID) if lengths is None else torch.arange(9) < lengths[:, None]
    if lengths is not None:
        x, dt, B, C = (
            torch.where(inside[(...,) + (None,) * (part.dim() - 2)], part, math.nan) for part in (x, dt, B, C)
        )
    inputs = [part.requires_grad_() for part in (x, dt, A, B, C, D, state) if part is not None]
    y, final = _third_party.ssd_by_fla(x, dt, A, B, C, D, bias, softplus, limit, state, lengths, starts, 64)
    options = {"dt_bias": bias, "dt_softplus": softplus, "dt_limit": limit, "lengths": lengths, "starts": starts}
    expected, last = ops.ssd(x, dt, A, B, C, D, state=state, backend="reference", **options)
    assert torch.allclose(y[inside], expected[inside], atol=1e-5)
    assert torch.allclose(final, last, atol=1e-5)
    weight = torch.randn_like(y[inside])
    found = torch.autograd.grad((y[inside] * weight).sum() + final.square().sum(), inputs)
    wanted = torch.autograd.grad((expected[inside] * weight).sum() + last.square().sum(), inputs)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(found, wanted, strict=True))


@pytest.mark.usefixtures("stand_ins")
def test_ssd_by_fla_keeps_types() -> None:
    x, dt = torch.randn(2, 9, 4, 6).bfloat16(), torch.randn(2, 9, 4).bfloat16()
    B, C = torch.randn(2, 9, 1, 8).bfloat16(), torch.randn(2, 9, 1, 8).bfloat16()
    y, final = _third_party.ssd_by_fla(
        x, dt, -torch.rand(4), B, C, torch.ones(4), torch.ones(4), True, (0.0, math.inf), None, None, None, 64
    )
    assert (y.dtype, final.dtype, final.shape) == (torch.bfloat16, torch.float32, (2, 4, 6, 8))


def fla_reason(x: Tensor, N: int = 4) -> str | None:
    batch, length, heads = x.shape[:3]
    B = x.new_zeros(batch, length, 1, N)
    given = (x, x[..., 0], x.new_zeros(heads), B, B, None, None, True, (0.0, 1.0), None, None, None, 64)
    return dict(ops.explain("ssd", *given))["fla"]


def test_reasons_of_fla(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1, 4, 2, 6, dtype=torch.bfloat16)
    assert fla_reason(x) == "needs tensors on cuda, got cpu"
    assert (
        fla_reason(x.float()) == "multiplies bfloat16 or float16 exactly, and anything wider in TF32, got torch.float32"
    )
    wanted = "takes sequences no shorter than the number of heads, got 1 elements and 2 heads"
    assert fla_reason(x[:, :1]) == wanted
    assert fla_reason(x[..., :3]) == "needs an even number of channels and of states, got 3 and 4"
    assert fla_reason(x, N=5) == "needs an even number of channels and of states, got 6 and 5"
    monkeypatch.setattr(_third_party, "_why_not_here", lambda package, x: None)
    for version, reason in (
        ("0.1.2", "takes (batch, length, heads) since 0.2, and an older one is installed"),
        ("0.2.0", None),
        ("0.10.0", None),
        ("1.0", None),
    ):
        _third_party._fla_has_heads_first.cache_clear()
        monkeypatch.setattr(importlib.metadata, "version", {"flash-linear-attention": version}.__getitem__)
        assert fla_reason(x) == reason
    _third_party._fla_has_heads_first.cache_clear()


def test_the_name_to_install_is_that_of_the_distribution() -> None:
    class OnCuda:
        device, dtype = torch.device("cuda"), torch.bfloat16

    reason = _third_party._why_not_here("fla", OnCuda())  # pyright: ignore[reportArgumentType]
    assert reason == "`fla` is not installed (pip install flash-linear-attention)"


def test_fla_is_left_out_of_programs() -> None:
    x = torch.zeros(1, 4, 2, 6, dtype=torch.bfloat16)
    found = torch.compile(
        lambda x: x + (fla_reason(x) == "is left out of torch.compile by its authors"), backend="eager"
    )
    assert bool(found(x).all())


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
