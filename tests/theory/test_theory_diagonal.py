"""Diagonal initialisations: the published formulas, stable spectra, sizes and errors."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from longstate._checks import InputError
from longstate.theory import INITS, diagonal, hippo, nplr


@given(init=st.sampled_from([name for name in INITS if name != "real"]), half=st.integers(1, 20))
def test_complex_spectra(init: str, half: int) -> None:
    A = diagonal(init, 2 * half, generator=torch.Generator().manual_seed(0))
    assert A.shape == (half,)
    assert A.dtype == torch.complex128
    assert torch.equal(A.real, torch.full((half,), -0.5, dtype=torch.float64))
    assert (A.imag >= 0).all()


def test_lin() -> None:
    assert_close(diagonal("lin", 8).imag, torch.tensor([0, 1, 2, 3], dtype=torch.float64) * math.pi)


def test_inv() -> None:
    expected = [8 / math.pi * (8 / (2 * n + 1) - 1) for n in range(4)]
    assert_close(diagonal("inv", 8).imag, torch.tensor(expected, dtype=torch.float64))


def test_legs_is_the_normal_part() -> None:
    A = diagonal("legs", 16)
    assert torch.equal(A, nplr("legs", 16).A.conj())
    system = hippo("legs", 16)
    spectrum = torch.linalg.eigvals(system.A + 0.5 * torch.outer(system.B, system.B))
    expected = torch.sort(spectrum.imag[spectrum.imag > 0]).values
    assert_close(A.imag, expected, rtol=1e-10, atol=1e-10)


def test_real() -> None:
    assert torch.equal(diagonal("real", 5), torch.tensor([-1.0, -2, -3, -4, -5], dtype=torch.float64))


def test_random_follows_its_generator() -> None:
    draws = [diagonal("random", 4000, generator=torch.Generator().manual_seed(seed)).imag for seed in (3, 3, 4)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    log = draws[0].log()
    assert abs(log.mean().item()) < 0.1
    assert abs(log.std().item() - 1) < 0.1


def test_unknown_init() -> None:
    with pytest.raises(InputError, match="`init` is 'quad', but one of lin, inv, legs, random, real is needed"):
        diagonal("quad", 8)


def test_odd_size() -> None:
    with pytest.raises(InputError, match=r"`d_state` is 3, but init 'lin' needs an even size.*use 4, or init 'real'\."):
        diagonal("lin", 3)
