"""Diagonal systems under steps that vary: the chunked scan against the loop in value, gradient and final state."""

import importlib
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from systems import random_system
from torch import Tensor

from longstate import InputError, ops
from peak import Peak

KINDS = ["complex", "real"]
module = importlib.import_module("longstate.ops.varying_scan")  # the name in `ops` is the function


def made(kind: str, features: int = 3, d_state: int = 4) -> tuple[list[Tensor], Callable[..., ops.VaryingSystem]]:
    """Parameters, and how they make a system: A(rate) = |A|^rate e^(i rate arg A), B(rate) = rate B."""
    A, B, C, D = random_system(kind, features, d_state)
    z = A.log() if kind == "complex" else -A.abs()

    def build(z: Tensor, B: Tensor, C: Tensor, D: Tensor) -> ops.VaryingSystem:
        def discretize(rate: Tensor) -> tuple[Tensor, Tensor]:
            rate = rate.to(D.dtype)[..., None, None]
            return torch.exp(rate * z), rate * B

        return ops.VaryingSystem(discretize, C, D)

    return [z, B, C, D], build


def close(a: Tensor, b: Tensor, tolerance: float = 1e-11) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1.0)) if b.numel() else a.shape == b.shape


def draw(batch: int, length: int, features: int = 3) -> tuple[Tensor, Tensor]:
    rate = 2 * torch.rand(batch, length, dtype=torch.float64)
    rate[:, ::5] = 0.0  # two events at one instant
    return torch.randn(batch, length, features, dtype=torch.float64), rate


@pytest.mark.parametrize("kind", KINDS)
@given(
    length=st.integers(1, 40),
    padded=st.booleans(),
    packed=st.booleans(),
    carried=st.booleans(),
    short_chunks=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_is_the_loop(
    kind: str, length: int, padded: bool, packed: bool, carried: bool, short_chunks: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    parameters, build = made(kind)
    u, rate = draw(4, length)
    state = torch.randn(4, 3, 4, *[2] * (kind == "complex"), dtype=torch.float64)
    lengths = torch.tensor([0, length, length // 2, max(length - 1, 0)]) if padded else None
    starts = torch.rand(4, length) < 0.2 if packed else None
    valid = torch.ones(4, length, dtype=torch.bool) if lengths is None else torch.arange(length) < lengths[:, None]
    u, rate = u.masked_fill(~valid[..., None], torch.nan), rate.masked_fill(~valid, torch.nan)
    inputs = [part.requires_grad_() for part in (u, rate, *parameters, state)]
    results = []
    with pytest.MonkeyPatch.context() as patch:
        if short_chunks:
            patch.setattr(module, "_CHUNK_NUMBERS", 0)
            patch.setattr(module, "_SHORTEST_CHUNK", 7)
        for backend in ("torch", "reference"):
            y, final = ops.varying_scan(
                u,
                rate,
                build(*inputs[2:6]),
                inputs[6] if carried else None,
                lengths=lengths,
                starts=starts,
                backend=backend,
            )
            total = (y[valid] * torch.cos(torch.arange(y[valid].numel())).reshape(y[valid].shape)).sum()
            total = total + final.to(torch.float64).sin().sum()
            slopes = torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)
            results.append((y[valid], final, *slopes))
    for found, expected in zip(*results, strict=True):
        assert close(found, expected, 1e-10)
    slope_u, slope_rate = results[0][2:4]
    assert not slope_u[~valid].any()
    assert not slope_rate[~valid].any()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    parameters, build = made(kind, features=2, d_state=2)
    u, rate = draw(2, 6, features=2)
    state = torch.randn(2, 2, 2, *[2] * (kind == "complex"), dtype=torch.float64)
    inputs = tuple(part.requires_grad_() for part in (u, rate + 0.1, *parameters, state))
    assert torch.autograd.gradcheck(
        lambda u, rate, *rest: ops.varying_scan(u, rate, build(*rest[:4]), rest[4]), inputs, fast_mode=True
    )


def test_nothing_comes_of_nothing() -> None:
    parameters, build = made("complex")
    u, rate = draw(2, 0)
    state = torch.randn(2, 3, 4, 2)
    for backend in ("torch", "reference"):
        y, final = ops.varying_scan(u, rate, build(*parameters), state, backend=backend)
        assert y.shape == (2, 0, 2, 3)
        assert torch.equal(final, state)


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_rate_is_a_time_invariant_system(kind: str) -> None:
    (z, B, C, D), build = made(kind)
    u, _ = draw(2, 60)
    state = torch.randn(2, 3, 4, *[2] * (kind == "complex"), dtype=torch.float64)
    y, final = ops.varying_scan(u, torch.full((2, 60), 0.7, dtype=torch.float64), build(z, B, C, D), state)
    fixed = ops.LTISystem(torch.exp(0.7 * z), 0.7 * B, C, D)
    expected, expected_final = ops.lti_scan(u, fixed, state)
    assert close(y, expected)
    assert close(final, expected_final)


def test_states_are_never_held_for_the_whole_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONGEST_CHUNK", 16)
    parameters, build = made("complex", features=4, d_state=16)
    peaks = []
    for length in (1024, 2048):
        u, rate = draw(2, length, features=4)
        inputs = [part.detach().requires_grad_() for part in (u, rate, *parameters)]
        with Peak() as peak:
            y, _ = ops.varying_scan(*inputs[:2], build(*inputs[2:]))
            y.sum().backward()
        peaks.append(peak.most)
        every_state = 2 * length * 4 * 16 * 16
        assert peak.most < every_state
    assert peaks[1] <= 2.2 * peaks[0]


def test_autocast_changes_nothing() -> None:
    parameters, build = made("complex")
    system = build(*parameters)
    u, rate = (part.float() for part in draw(2, 50))
    plain = ops.varying_scan(u, rate, system)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = ops.varying_scan(u, rate, system)
    assert torch.equal(plain[0], cast[0])
    assert torch.equal(plain[1], cast[1])


def test_bfloat16_input_is_computed_in_float32() -> None:
    parameters, build = made("complex")
    system = build(*parameters)
    u, rate = draw(2, 50)
    u = u.bfloat16()
    y, final = ops.varying_scan(u, rate, system)
    exact, _ = ops.varying_scan(u.double(), rate, system, backend="reference")
    assert y.dtype is torch.bfloat16
    assert final.dtype is torch.float32
    assert (y.double() - exact).abs().max() <= 2**-8 * exact.abs().max()


def test_explain_names_the_backends() -> None:
    parameters, build = made("real")
    u, rate = draw(2, 5)
    native, *others = ops.explain("varying_scan", u, rate, build(*parameters), None, None, None)
    assert native == ("native", "needs complex exponents, got a system that is a function of the intervals")
    assert others == [("torch", None), ("reference", None)]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda u, r, s: ops.varying_scan(u[..., :2], r, s), r"`u` has shape \(2, 5, 2\), but \(batch, length, 3\) is"),
        (
            lambda u, r, s: ops.varying_scan(u, 2.0, s),
            "`rate` is 2.0, but a tensor of intervals is needed; use",
        ),
        (lambda u, r, s: ops.varying_scan(u, r[0], s), r"of shape \(5,\), but floating numbers of shape \(2, 5\) are"),
        (lambda u, r, s: ops.varying_scan(u, r.long(), s), "`rate` is torch.int64 .* in units of the training step"),
        (
            lambda u, r, s: ops.varying_scan(u, r - 5, s),
            r"`rate` holds -\d.*, but an interval is at least 0; sort",
        ),
        (
            lambda u, r, s: ops.varying_scan(u, r / 0, s),
            "`rate` holds (nan|inf), but an interval is",
        ),
        (lambda u, r, s: ops.varying_scan(u, r, s, u[:, 0]), r"`state` has shape \(2, 3\), but \(2, 3, 4\) is needed"),
        (
            lambda u, r, s: ops.varying_scan(u, r, s._replace(D=s.C)),
            r"D \(2, 3, 4\), but \(channels, H, N\)",
        ),
        (lambda u, r, s: ops.varying_scan(u, r, s, lengths=torch.tensor([1, 6])), "the sequence length 5; row 1 has 6"),
        (lambda u, r, s: ops.varying_scan(u, r, s, starts=torch.ones(2, 5)), "mark the first element of each packed"),
        (lambda u, r, s: ops.varying_scan(u, r, s, backend="cuda"), "varying_scan has auto, native, torch, reference"),
    ],
)
def test_errors_say_what_to_do(call: Callable[..., object], text: str) -> None:
    parameters, build = made("real")
    u, rate = draw(2, 5)
    with pytest.raises(InputError, match=text):
        call(u, rate, build(*parameters))
