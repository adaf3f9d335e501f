"""Normal plus low rank: the identity that defines it, the official numbers, and the rules that make it unique."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from longstate._checks import InputError
from longstate.theory import MEASURE_FACTS, MEASURES, NPLR_MEASURES, hippo, nplr

GOLDENS = Path(__file__).parents[1] / "goldens" / "s4_theory.npz"
REAL_PARTS = {"legs": -0.5, "legsd": -0.5, "fourier_diag": -0.5, "foud": -0.5, "tlagt": -0.5, "glagt": -0.005}


def full_basis(V: torch.Tensor) -> torch.Tensor:
    return torch.cat([V, V.conj()], dim=1)


def rebuilt(measure: str, d_state: int) -> torch.Tensor:
    """2 Re(V diag(Λ) V*) - Σ_j (2 Re V P_j)(2 Re V P_j)ᵀ."""
    A, P, _, V = nplr(measure, d_state)
    low_rank = 2 * (V @ P.mT).real
    return 2 * (V @ torch.diag(A) @ V.mH).real - low_rank @ low_rank.mT


@pytest.mark.parametrize("measure", NPLR_MEASURES)
def test_identity(measure: str) -> None:
    assert_close(rebuilt(measure, 64), hippo(measure, 64).A, rtol=0, atol=1e-12)


@given(measure=st.sampled_from(NPLR_MEASURES), half=st.integers(1, 32))
@settings(max_examples=80)
def test_every_size(measure: str, half: int) -> None:
    system = hippo(measure, 2 * half)
    _, _, B, V = nplr(measure, 2 * half)
    scale = system.A.abs().max().item()
    assert_close(rebuilt(measure, 2 * half), system.A, rtol=0, atol=5e-14 * scale)
    assert_close(2 * (V @ B).real, system.B, rtol=0, atol=5e-14 * scale)
    W = full_basis(V)
    assert_close(W.mH @ W, torch.eye(2 * half, dtype=W.dtype), rtol=0, atol=1e-12)


@pytest.mark.parametrize("measure", NPLR_MEASURES)
def test_shapes_and_types(measure: str) -> None:
    form = nplr(measure, 10)
    rank = MEASURE_FACTS[measure].rank
    assert rank == {"legt": 2, "legsd": 0, "fourier_diag": 0, "foud": 0}.get(measure, 1)
    assert [tuple(part.shape) for part in form] == [(5,), (rank, 5), (5,), (10, 5)]
    assert all(part.dtype == torch.complex128 for part in form)


@pytest.mark.parametrize("measure", NPLR_MEASURES)
def test_real_parts_are_exact(measure: str) -> None:
    expected = torch.full((32,), REAL_PARTS.get(measure, 0.0), dtype=torch.float64)
    assert torch.equal(nplr(measure, 64).A.real, expected)


@pytest.mark.parametrize("measure", ["lagt", "tlagt", "glagt"])
def test_beta(measure: str) -> None:
    """The tilt moves the spectrum to the left; the frequencies and P are those of lagt."""
    system, form, plain = hippo(measure, 16, beta=0.3), nplr(measure, 16, beta=0.3), nplr("lagt", 16)
    assert torch.equal(form.A.real, torch.full((8,), 0.0 if measure == "lagt" else -0.15, dtype=torch.float64))
    assert_close(form.A.imag, plain.A.imag, rtol=0, atol=1e-14)
    assert_close(form.P, plain.P, rtol=0, atol=1e-14)
    assert_close(2 * (form.V @ form.B).real, system.B, rtol=0, atol=1e-14)
    low_rank = 2 * (form.V @ form.P.mT).real
    found = 2 * (form.V @ torch.diag(form.A) @ form.V.mH).real - low_rank @ low_rank.mT
    assert_close(found, system.A, rtol=0, atol=1e-13)


def test_the_diagonal_forms_are_the_normal_parts() -> None:
    legs, legsd = nplr("legs", 32), nplr("legsd", 32)
    assert_close(legsd.A, legs.A, rtol=0, atol=1e-12)
    assert_close(legsd.B, 0.5 * legs.B, rtol=0, atol=1e-12)
    foud = nplr("fourier_diag", 12)
    assert_close(foud.A.imag, -2 * torch.pi * torch.arange(6, dtype=torch.float64), rtol=1e-14, atol=0)
    assert torch.equal(nplr("fourier2", 12).A.imag, foud.A.imag)


@pytest.mark.parametrize("measure", NPLR_MEASURES)
def test_order_and_phase(measure: str) -> None:
    A, _, B, V = nplr(measure, 64)
    assert (A.imag <= 0).all()
    assert (A.imag.diff() < 0).all()
    assert (B.real > 0).all()
    assert torch.equal(B.imag, torch.zeros_like(B.imag))
    assert_close(V.mH @ hippo(measure, 64).B.to(V.dtype), B, rtol=0, atol=1e-12)


@pytest.mark.parametrize("measure", ["fourier", "fourier_decay", "fourier2", "fourier_diag"])
def test_fourier_zero_mode(measure: str) -> None:
    A, _, _, V = nplr(measure, 8)
    speed = 1 if measure in ("fourier", "fourier_decay") else 2
    assert_close(A.imag, -speed * torch.pi * torch.arange(4, dtype=torch.float64), rtol=1e-14, atol=0)
    expected = torch.zeros(8, dtype=torch.complex128)
    expected[0], expected[1] = 0.5**0.5, 1j * 0.5**0.5
    assert A[0].imag == 0
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


def test_measures_without_a_form() -> None:
    assert set(MEASURES) - set(NPLR_MEASURES) == {"lmu"}
    with pytest.raises(InputError, match=r"`measure` is 'lmu', but one of legs, legsd, legt, lagt, .* is needed"):
        nplr("lmu", 8)
