"""Factors of a chunk by the kernel, against powers of the written-out matrix in float64: values and every gradient."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from systems import random_system
from torch import Tensor

from longstate import InputError, ops, theory
from longstate.ops import _native
from longstate.ops.lti_factors import chunk_of, factors_of

needs_kernels = pytest.mark.skipif(_native.library() is None, reason="no compiled kernels on this machine")


def low_rank_system(features: int, d_state: int, channels: int, rank: int) -> ops.LowRankSystem:
    """What the bilinear rule makes of a stable system."""
    real = {"dtype": torch.float64}
    A = torch.complex(-torch.rand(features, d_state // 2, **real), 5 * torch.randn(features, d_state // 2, **real))
    P, B = (torch.randn(*lead, features, d_state // 2, dtype=torch.complex128) for lead in ((rank,), ()))
    C, D = torch.randn(channels, features, d_state, **real), torch.randn(channels, features, **real)
    return ops.LowRankSystem(*theory.bilinear_low_rank(A, P, B, 0.02 + 0.3 * torch.rand(features, **real)), C, D)


def by_powers(system: ops.LTISystem) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """taps, rows, columns and carry as the kernels have them, from all powers of A."""
    A, B, C, D = system
    T = chunk_of(system)
    A = A if system.is_dense else torch.diag_embed(A)
    powers = [torch.eye(A.shape[-1], dtype=A.dtype).expand_as(A)]
    for _ in range(T):
        powers.append(powers[-1] @ A)
    columns = torch.stack([(powers[T - 1 - t] @ B[..., None])[..., 0] for t in range(T)])
    rows = torch.stack([(C[..., None, :] @ powers[t + 1])[..., 0, :] for t in range(T)], dim=1)
    taps = torch.stack([torch.einsum("chi,hij,hj->ch", C, powers[t], B) for t in range(T)], dim=1)
    taps = torch.cat([taps[:, :1].real + D[:, None], taps[:, 1:].real], dim=1)
    if system.is_dense:
        return taps, rows.mT, columns.mT, powers[T].permute(1, 2, 0)
    carry = torch.diagonal(powers[T], dim1=-2, dim2=-1)
    return taps, features_last(rows.conj()), features_last(columns), features_last(carry)


def features_last(x: Tensor) -> Tensor:
    """(..., H, N) as (..., N, H), complex numbers as pairs."""
    return (torch.view_as_real(x.resolve_conj()).flatten(-2) if x.is_complex() else x).mT


def written_out(system: ops.LTISystem | ops.LowRankSystem) -> ops.LTISystem:
    return system.dense() if isinstance(system, ops.LowRankSystem) else system


@needs_kernels
@given(
    kind=st.sampled_from(["real", "complex", 0, 1, 2]),
    features=st.sampled_from([1, 5, 8, 19]),
    d_state=st.sampled_from([2, 6, 8]),
    channels=st.sampled_from([1, 2]),
    seed=st.integers(0, 99),
)
def test_values_and_gradients(kind: str | int, features: int, d_state: int, channels: int, seed: int) -> None:
    torch.manual_seed(seed)
    if isinstance(kind, int):
        system = low_rank_system(features, d_state, channels, kind)
    else:
        system = random_system(kind, features, d_state, channels)
    system = type(system)(*(part.clone().requires_grad_() for part in system))
    found, expected = factors_of(system)[:4], by_powers(written_out(system))
    weights = [torch.randn_like(part) for part in found]
    slopes = [
        torch.autograd.grad(sum((a * w).sum() for a, w in zip(made, weights, strict=True)), list(system))
        for made in (found, expected)
    ]
    for name, value, true in zip(("taps", "rows", "columns", "carry"), found, expected, strict=True):
        assert value.shape == true.shape, name
        assert value.dtype is torch.float32, name
        assert (value - true).abs().max() <= 1e-7 * true.abs().max(), name
    for name, slope, true in zip(system._fields, *slopes, strict=True):
        if true.numel():
            assert (slope - true).abs().max() <= 1e-11 * true.abs().max(), name


@needs_kernels
@pytest.mark.parametrize("rank", [None, 2])
def test_the_operator_obeys_torchs_rules(rank: int | None) -> None:
    torch.manual_seed(1)
    system = random_system("complex", 5, 3, 2) if rank is None else low_rank_system(5, 4, 2, rank)
    terms = [torch.zeros(0, 5, 3, dtype=torch.float64)] * 2 if rank is None else [system.left, system.right]
    parts = [system.A, *terms, system.B, system.C, system.D]
    given = [(torch.view_as_real(part) if part.is_complex() else part).clone().requires_grad_() for part in parts]
    kind = _native.COMPLEX if rank is None else _native.DENSE
    utils = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(torch.ops.longstate.lti_factors.default, (*given, 8, kind), test_utils=utils)


@needs_kernels
def test_systems_in_float32_and_none_at_all() -> None:
    torch.manual_seed(2)
    system = low_rank_system(3, 4, 1, 1)
    single = ops.LowRankSystem(*(part.to(torch.complex64 if part.is_complex() else torch.float32) for part in system))
    for found, expected in zip(factors_of(single)[:4], factors_of(system)[:4], strict=True):
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    nothing = ops.LTISystem(*(part[..., :0, :] for part in random_system("real", 3, 4, 1)[:3]), torch.zeros(1, 0))
    assert [part.shape for part in factors_of(nothing)[:4]] == [(1, 32, 0), (1, 32, 4, 0), (32, 4, 0), (4, 0)]


@pytest.mark.parametrize("backend", ["torch", "reference", "auto"])
def test_a_system_of_low_rank_is_its_matrix(backend: str) -> None:
    torch.manual_seed(3)
    system = low_rank_system(16, 6, 2, 2)
    u, lengths = torch.randn(2, 700, 16), torch.tensor([700, 130])
    y = ops.lti_conv(u, system, lengths=lengths, backend=backend)
    expected = ops.lti_conv(u.double(), system.dense(), lengths=lengths, backend="reference")
    for row, length in enumerate(lengths):
        error = (y[row, :length] - expected[row, :length]).abs().max()
        assert error <= 1e-5 * expected[row, :length].abs().max()


@needs_kernels
def test_a_system_of_low_rank_takes_the_kernel_at_every_length() -> None:
    torch.manual_seed(5)
    system, u = low_rank_system(16, 6, 1, 1), torch.randn(1, 40, 16)
    assert ops.explain("lti_conv", u, system, None, None)[0] == ("native", None)
    assert ops.explain("lti_conv", u, system.dense(), None, None)[0][1] is not None
    y, expected = ops.lti_conv(u, system), ops.lti_conv(u.double(), system.dense(), backend="reference")
    assert (y - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_shapes_of_low_rank_systems() -> None:
    torch.manual_seed(4)
    system = low_rank_system(3, 4, 1, 1)
    with pytest.raises(InputError, match=r"has A \(3, 2\), left \(1, 3, 3\), right \(1, 3, 4\).*check which axis is H"):
        ops.lti_conv(torch.randn(1, 8, 3), system._replace(left=system.left[..., :3]))
    with pytest.raises(InputError, match="check which axis is H"):
        ops.lti_conv(torch.randn(1, 8, 3), system._replace(A=system.A.real))
