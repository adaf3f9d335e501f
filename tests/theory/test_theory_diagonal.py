"""Diagonal initialisations: the published formulas, stable spectra, sizes and errors."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from longstate._checks import InputError
from longstate.theory import B_INITS, INITS, diagonal, diagonal_input, hippo, nplr


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


def test_inv2() -> None:
    expected = [8 / math.pi * (8 / (n + 1) - 1) for n in range(4)]
    assert_close(diagonal("inv2", 8).imag, torch.tensor(expected, dtype=torch.float64))


def test_quad() -> None:
    expected = [1 / math.pi, 9 / math.pi, 25 / math.pi, 49 / math.pi]
    assert_close(diagonal("quad", 8).imag, torch.tensor(expected, dtype=torch.float64))


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


@pytest.mark.parametrize("init", INITS)
def test_random_real_parts(init: str) -> None:
    size = 64 if init == "legs" else 4000
    first, again, other = (
        diagonal(init, size, real_random=True, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first.real, other.real)
    share = -first.real / (size if init == "real" else 1)
    assert (share > 0).all()
    assert (share <= 1).all()
    assert abs(share.mean().item() - 0.5) < 1.5 / len(share) ** 0.5
    assert abs(share.var().item() - 1 / 12) < 0.5 / len(share) ** 0.5
    if init not in ("real", "random"):
        assert torch.equal(first.imag, diagonal(init, size).imag)


def test_inputs() -> None:
    n = torch.arange(4, dtype=torch.float64)
    assert torch.equal(diagonal_input("constant", 8), torch.ones(4, dtype=torch.complex128))
    assert torch.equal(diagonal_input("alternating", 8), torch.tensor([1, -1, 1, -1], dtype=torch.complex128))
    assert_close(diagonal_input("unit_ccw", 8), torch.exp(2j * math.pi / 8 * n), rtol=0, atol=1e-15)
    assert torch.equal(diagonal_input("unit_cw", 8), diagonal_input("unit_ccw", 8).conj_physical())
    assert torch.equal(diagonal_input("legs", 8), 0.5 * nplr("legs", 8).B.conj_physical())
    assert torch.equal(diagonal_input("alternating", 3, real=True), torch.tensor([1, -1, 1], dtype=torch.float64))
    assert torch.equal(diagonal_input("constant", 3, real=True), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("real", [False, True])
def test_random_inputs_have_unit_variance(real: bool) -> None:
    draws = [
        diagonal_input("random", 8000, real=real, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert draws[0].abs().square().mean().item() == pytest.approx(1, abs=0.05)
    assert draws[0].mean().abs().item() < 0.05


def test_unknown_init() -> None:
    with pytest.raises(
        InputError, match="`init` is 'cubic', but one of lin, inv, inv2, quad, legs, random, real is ne"
    ):
        diagonal("cubic", 8)
    with pytest.raises(
        InputError, match="`b_init` is 'ones', but one of constant, random, alternating, unit_cw, unit_ccw"
    ):
        diagonal_input("ones", 8)


@pytest.mark.parametrize("b_init", ["unit_cw", "unit_ccw", "legs"])
def test_real_systems_have_real_inputs(b_init: str) -> None:
    with pytest.raises(InputError, match=f"`b_init` is '{b_init}' with a real system, but its numbers are complex"):
        diagonal_input(b_init, 8, real=True)


@pytest.mark.parametrize("b_init", B_INITS)
def test_odd_inputs(b_init: str) -> None:
    with pytest.raises(InputError, match="`d_state` is 3, but modes come in conjugate pairs; use 4"):
        diagonal_input(b_init, 3)


def test_odd_size() -> None:
    with pytest.raises(InputError, match=r"`d_state` is 3, but init 'lin' needs an even size.*use 4, or init 'real'\."):
        diagonal("lin", 3)
