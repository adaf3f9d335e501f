"""Normal plus low rank: the identity that defines it, the official numbers, and the rules that make it unique."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from longstate._checks import InputError
from longstate.theory import hippo, nplr

GOLDENS = Path(__file__).parents[1] / "goldens" / "s4_theory.npz"
FOUR = ["legs", "legt", "lagt", "fourier"]


def full_basis(V: torch.Tensor) -> torch.Tensor:
    return torch.cat([V, V.conj()], dim=1)


def rebuilt(measure: str, d_state: int) -> torch.Tensor:
    """2 Re(V diag(Λ) V*) - Σ_j (2 Re V P_j)(2 Re V P_j)ᵀ."""
    A, P, _, V = nplr(measure, d_state)
    low_rank = 2 * (V @ P.mT).real
    return 2 * (V @ torch.diag(A) @ V.mH).real - low_rank @ low_rank.mT


@pytest.mark.parametrize("measure", FOUR)
def test_identity(measure: str) -> None:
    assert_close(rebuilt(measure, 64), hippo(measure, 64).A, rtol=0, atol=1e-12)


@given(measure=st.sampled_from(FOUR), half=st.integers(1, 32))
@settings(max_examples=40)
def test_every_size(measure: str, half: int) -> None:
    system = hippo(measure, 2 * half)
    _, _, B, V = nplr(measure, 2 * half)
    scale = system.A.abs().max().item()
    assert_close(rebuilt(measure, 2 * half), system.A, rtol=0, atol=5e-14 * scale)
    assert_close(2 * (V @ B).real, system.B, rtol=0, atol=5e-14 * scale)
    W = full_basis(V)
    assert_close(W.mH @ W, torch.eye(2 * half, dtype=W.dtype), rtol=0, atol=1e-12)


@pytest.mark.parametrize("measure", FOUR)
def test_shapes_and_types(measure: str) -> None:
    form = nplr(measure, 10)
    rank = 2 if measure == "legt" else 1
    assert [tuple(part.shape) for part in form] == [(5,), (rank, 5), (5,), (10, 5)]
    assert all(part.dtype == torch.complex128 for part in form)


@pytest.mark.parametrize(("measure", "real_part"), [("legs", -0.5), ("legt", 0.0), ("lagt", 0.0), ("fourier", 0.0)])
def test_real_parts_are_exact(measure: str, real_part: float) -> None:
    assert torch.equal(nplr(measure, 64).A.real, torch.full((32,), real_part, dtype=torch.float64))


@pytest.mark.parametrize("measure", FOUR)
def test_order_and_phase(measure: str) -> None:
    A, _, B, V = nplr(measure, 64)
    assert (A.imag <= 0).all()
    assert (A.imag.diff() < 0).all()
    assert (B.real > 0).all()
    assert torch.equal(B.imag, torch.zeros_like(B.imag))
    assert_close(V.mH @ hippo(measure, 64).B.to(V.dtype), B, rtol=0, atol=1e-12)


def test_fourier_zero_mode() -> None:
    A, _, _, V = nplr("fourier", 8)
    assert_close(A.imag, -torch.pi * torch.arange(4, dtype=torch.float64), rtol=1e-14, atol=0)
    expected = torch.zeros(8, dtype=torch.complex128)
    expected[0], expected[1] = 0.5**0.5, 1j * 0.5**0.5
    assert A[0] == 0
    assert_close(V[:, 0], expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("d_state", [16, 64])
@pytest.mark.parametrize("measure", ["legs", "legt", "fourier"])
def test_official_numbers(measure: str, d_state: int) -> None:
    golden = np.load(GOLDENS)
    A, P, B, _ = (part.numpy() for part in nplr(measure, d_state))
    order = np.argsort(-golden[f"nplr/{measure}/{d_state}/lambda"].imag)
    A0, P0, B0 = (golden[f"nplr/{measure}/{d_state}/{name}"][..., order] for name in ("lambda", "P", "B"))
    if measure == "fourier":
        # There √2 in P, and P Pᵀ, were rounded to float32; undo it, so that the rest is compared in full.
        root = np.float32(2**0.5)
        P0[:, 1:] *= 2**0.5 / float(root)
        A0 = A0 - (float(root * root) - 2) * (d_state / 2 - 1) / d_state
    np.testing.assert_allclose(A, A0, rtol=0, atol=1e-10)
    np.testing.assert_allclose(np.abs(P), np.abs(P0), rtol=0, atol=1e-10)
    np.testing.assert_allclose(np.abs(B), np.abs(B0), rtol=0, atol=1e-10)
    np.testing.assert_allclose(P * B.conj(), P0 * B0.conj(), rtol=0, atol=1e-10)


def test_clip() -> None:
    plain, clipped = nplr("legs", 64), nplr("legs", 64, b_clip=2.0)
    assert_close(torch.linalg.vector_norm(full_basis(plain.B[None])), torch.tensor(64.0, dtype=torch.float64))
    assert int((plain.B.abs() > 2).sum()) == 11
    assert torch.equal(clipped.B.real, plain.B.real.clamp(max=2.0))
    assert torch.linalg.vector_norm(full_basis(clipped.B[None])).item() == pytest.approx(12.2368, abs=1e-4)
    for name in ("A", "P", "V"):
        assert torch.equal(getattr(clipped, name), getattr(plain, name))


def test_odd_size() -> None:
    with pytest.raises(InputError, match=r"`d_state` is 7, but an even size is needed, .*; use 8\."):
        nplr("legs", 7)


@pytest.mark.parametrize("b_clip", [0.0, -1.0, float("nan")])
def test_clip_must_be_positive(b_clip: float) -> None:
    with pytest.raises(InputError, match=r"`b_clip` is .*, but a positive number is needed; pass None to clip nothing"):
        nplr("legs", 8, b_clip=b_clip)


def test_unknown_measure() -> None:
    with pytest.raises(InputError, match="`measure` is 'hippo', but one of legs"):
        nplr("hippo", 8)
