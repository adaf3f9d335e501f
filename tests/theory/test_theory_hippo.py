"""HiPPO matrices: the official numbers, the impulse responses of the books, and memories that remember."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from longstate._checks import InputError
from longstate.theory import discretize_dense, hippo

GOLDENS = Path(__file__).parents[1] / "goldens" / "s4_theory.npz"


def impulse_response(measure: str, d_state: int, t: torch.Tensor) -> torch.Tensor:
    """e^{tA} B as (len(t), N)."""
    A, B = hippo(measure, d_state)
    return torch.linalg.matrix_exp(t[:, None, None] * A) @ B


@pytest.mark.parametrize("d_state", [4, 16])
@pytest.mark.parametrize("measure", ["legs", "legt", "fourier"])
def test_official_matrices(measure: str, d_state: int) -> None:
    golden = np.load(GOLDENS)
    A, B = hippo(measure, d_state)
    assert A.dtype == B.dtype == torch.float64
    np.testing.assert_allclose(A.numpy(), golden[f"hippo/{measure}/{d_state}/A"], rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(B.numpy(), golden[f"hippo/{measure}/{d_state}/B"], rtol=1e-14, atol=1e-14)


def test_fout_is_fourier() -> None:
    for one, other in zip(hippo("fout", 6), hippo("fourier", 6), strict=True):
        assert torch.equal(one, other)


@given(d_state=st.integers(1, 40))
def test_legs_eigenvalues(d_state: int) -> None:
    A = hippo("legs", d_state).A
    assert torch.equal(torch.triu(A, 1), torch.zeros_like(A))
    assert torch.equal(torch.diagonal(A), -torch.arange(1.0, d_state + 1, dtype=torch.float64))


def test_legs_impulse_response() -> None:
    t = torch.linspace(0, 4, 41, dtype=torch.float64)
    decay = np.exp(-t.numpy())
    expected = np.stack([np.sqrt(2 * n + 1) * decay * special.eval_legendre(n, 2 * decay - 1) for n in range(12)], -1)
    np.testing.assert_allclose(impulse_response("legs", 12, t).numpy(), expected, atol=1e-10)


def test_lagt_impulse_response() -> None:
    t = torch.linspace(0, 6, 31, dtype=torch.float64)
    expected = np.stack([np.exp(-t.numpy() / 2) * special.eval_laguerre(n, t.numpy()) for n in range(12)], -1)
    np.testing.assert_allclose(impulse_response("lagt", 12, t).numpy(), expected, atol=1e-11)


@pytest.mark.parametrize("measure", ["legt", "fourier"])
def test_window_has_length_two(measure: str) -> None:
    middle, inside, outside = impulse_response(measure, 64, torch.tensor([1.0, 1.9, 2.1]).double()).norm(dim=-1)
    assert inside > 0.9 * middle
    assert outside < 0.3 * inside


@pytest.mark.parametrize(("d_state", "error"), [(8, 2e-2), (16, 1e-2), (32, 2e-3)])
def test_legt_reconstructs_its_window(d_state: int, error: float) -> None:
    dt, steps = 1e-3, 5000
    u = torch.sin(3.0 * dt * torch.arange(steps, dtype=torch.float64)) + 0.3
    A_bar, B_bar = discretize_dense(*hippo("legt", d_state), dt, "bilinear")
    state = torch.zeros(d_state, dtype=torch.float64)
    for u_t in u:
        state = A_bar @ state + B_bar * u_t
    lag = np.linspace(0.2, 1.8, 81)
    values = sum(state[n].item() * np.sqrt(2 * n + 1) * special.eval_legendre(n, 1 - lag) for n in range(d_state))
    expected = np.sin(3.0 * (dt * (steps - 1) - lag)) + 0.3
    assert np.abs(values - expected).max() < error


@pytest.mark.parametrize(("d_state", "error"), [(4, 5e-1), (8, 1e-2), (16, 2e-3)])
def test_legs_reconstructs_all_of_the_past(d_state: int, error: float) -> None:
    steps = 4000
    time = torch.arange(1, steps, dtype=torch.float64)
    A, B = hippo("legs", d_state)
    # In log time the memory of all of the past is time invariant: x' = (A x + B u) / t.
    A_bar, B_bar = discretize_dense(A, B, torch.log((time + 1) / time), "zoh")
    u = torch.cos(9.0 * torch.arange(steps, dtype=torch.float64) / steps)
    state = torch.zeros(d_state, dtype=torch.float64)
    state[0] = u[0]
    for k in range(steps - 1):
        state = A_bar[k] @ state + B_bar[k] * u[k + 1]
    s = np.linspace(0.05, 0.95, 91)
    values = sum(state[n].item() * np.sqrt(2 * n + 1) * special.eval_legendre(n, 2 * s - 1) for n in range(d_state))
    assert np.abs(values - np.cos(9.0 * s)).max() < error


def test_unknown_measure() -> None:
    with pytest.raises(InputError, match="`measure` is 'lmu', but one of legs, legt, lagt, fourier, fout is needed"):
        hippo("lmu", 4)


def test_odd_fourier() -> None:
    with pytest.raises(InputError, match=r"`d_state` is 5, but the fourier measure needs an even size.*use 6\."):
        hippo("fourier", 5)


def test_size_must_be_positive() -> None:
    with pytest.raises(InputError, match="`d_state` is 0, but a positive integer is needed"):
        hippo("legs", 0)
