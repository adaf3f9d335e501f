"""HiPPO matrices: the official numbers, the impulse responses of the books, and memories that remember."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from longstate._checks import InputError
from longstate.theory import MEASURE_FACTS, MEASURES, discretize_dense, hippo

GOLDENS = Path(__file__).parents[1] / "goldens" / "s4_theory.npz"


def impulse_response(measure: str, d_state: int, t: torch.Tensor, **parameters: float) -> torch.Tensor:
    """e^{tA} B as (len(t), N)."""
    A, B = hippo(measure, d_state, **parameters)
    return torch.linalg.matrix_exp(t[:, None, None] * A) @ B


def waves(t: np.ndarray, count: int) -> np.ndarray:
    """1, 0, √2 cos(πt), √2 sin(πt), ... as (len(t), count)."""
    columns = [np.ones_like(t), np.zeros_like(t)]
    for j in range(1, count // 2):
        columns += [np.sqrt(2) * np.cos(np.pi * j * t), np.sqrt(2) * np.sin(np.pi * j * t)]
    return np.stack(columns, -1)


@pytest.mark.parametrize("d_state", [4, 16])
@pytest.mark.parametrize("measure", ["legs", "legt", "fourier"])
def test_official_matrices(measure: str, d_state: int) -> None:
    golden = np.load(GOLDENS)
    A, B = hippo(measure, d_state)
    assert A.dtype == B.dtype == torch.float64
    np.testing.assert_allclose(A.numpy(), golden[f"hippo/{measure}/{d_state}/A"], rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(B.numpy(), golden[f"hippo/{measure}/{d_state}/B"], rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("alias", "name"), [("fout", "fourier"), ("foud", "fourier_diag")])
def test_aliases(alias: str, name: str) -> None:
    for one, other in zip(hippo(alias, 6), hippo(name, 6), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("d_state", [6, 16, 64])
def test_facts_tell_the_contractions(measure: str, d_state: int) -> None:
    A, _ = hippo(measure, d_state)
    growth = torch.linalg.eigvalsh(A + A.T).max().item()
    assert MEASURE_FACTS[measure].contraction == (growth < 1e-11)


@given(alpha=st.floats(-0.9, 0.9), beta=st.floats(0.01, 3.0))
def test_glagt_contracts_from_alpha_zero_up(alpha: float, beta: float) -> None:
    A, _ = hippo("glagt", 16, alpha=abs(alpha), beta=beta)
    assert torch.linalg.eigvalsh(A + A.T).max() < 1e-12
    A, _ = hippo("glagt", 16, alpha=-0.8, beta=0.01)
    assert torch.linalg.eigvalsh(A + A.T).max() > 0.1


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


@pytest.mark.parametrize(
    ("measure", "beta", "decay", "gain"),
    [("lagt", None, 0.5, 1.0), ("lagt", 2.5, 0.5, 2.5), ("tlagt", None, 1.0, 1.0), ("tlagt", 0.3, 0.65, 0.3)],
)
def test_lagt_impulse_response(measure: str, beta: float | None, decay: float, gain: float) -> None:
    t = np.linspace(0, 6, 31)
    given = {} if beta is None else {"beta": beta}
    expected = np.stack([gain * np.exp(-decay * t) * special.eval_laguerre(n, t) for n in range(12)], -1)
    np.testing.assert_allclose(impulse_response(measure, 12, torch.tensor(t), **given).numpy(), expected, atol=1e-11)


@given(alpha=st.floats(-0.9, 0.9), beta=st.floats(0.01, 3.0))
def test_glagt_impulse_response(alpha: float, beta: float) -> None:
    t = np.linspace(0, 6, 31)
    gain = beta ** ((1 - alpha) / 2) / np.sqrt(special.gamma(1 - alpha))
    columns = []
    for n in range(12):
        norm = np.sqrt(special.gamma(n + alpha + 1) / special.gamma(n + 1))
        columns.append(gain * np.exp(-(1 + beta) / 2 * t) * special.eval_genlaguerre(n, alpha, t) / norm)
    found = impulse_response("glagt", 12, torch.tensor(t), alpha=alpha, beta=beta).numpy()
    np.testing.assert_allclose(found, np.stack(columns, -1), atol=1e-12 * np.abs(columns).max())


def test_glagt_without_parameters() -> None:
    for ours, default in zip(hippo("glagt", 6), hippo("glagt", 6, alpha=0.0, beta=0.01), strict=True):
        assert torch.equal(ours, default)


def test_lmu_is_legt_in_other_units() -> None:
    n = torch.arange(20, dtype=torch.float64)
    units = (1 - 2 * (n % 2)) * torch.sqrt(2 * n + 1)
    legt, lmu = hippo("legt", 20), hippo("lmu", 20)
    torch.testing.assert_close(units[:, None] * 2 * legt.A / units, lmu.A, rtol=1e-14, atol=0)
    torch.testing.assert_close(units * 2 * legt.B, lmu.B, rtol=1e-14, atol=0)
    expected = torch.tensor([[-1, -1, -1], [3, -3, -3], [-5, 5, -5]], dtype=torch.float64)
    assert torch.equal(hippo("lmu", 3).A, expected)
    assert torch.equal(hippo("lmu", 3).B, torch.tensor([1, -3, 5], dtype=torch.float64))


def test_foud_impulse_response() -> None:
    t = np.linspace(0, 5, 41)
    found = impulse_response("foud", 12, torch.tensor(t)).numpy()
    np.testing.assert_allclose(found, np.exp(-t / 2)[:, None] * waves(2 * t, 12), atol=1e-12)


def test_fourier2_is_fourier_twice_as_fast() -> None:
    for fast, slow in zip(hippo("fourier2", 10), hippo("fourier", 10), strict=True):
        assert torch.equal(fast, 2 * slow)


@pytest.mark.parametrize(("measure", "speed"), [("fourier", 1.0), ("fourier2", 2.0)])
def test_fourier_impulse_response_is_a_window(measure: str, speed: float) -> None:
    """On the window the waves, after it nothing; the distance falls as the inverse of the size."""
    inside, outside = np.array([0.3, 0.9, 1.4, 1.8]), np.array([2.3, 3.1, 5.2])
    worst = []
    for d_state in (64, 256):
        remembered = impulse_response(measure, d_state, torch.tensor(inside / speed))[:, :8].numpy()
        forgotten = impulse_response(measure, d_state, torch.tensor(outside / speed))[:, :8].numpy()
        worst.append(max(np.abs(remembered - 0.5 * speed * waves(inside, 8)).max(), np.abs(forgotten).max()))
    assert worst[0] < 3e-2 * speed
    assert worst[1] < worst[0] / 2.5


def test_fourier_decay_lays_stretches_upon_each_other() -> None:
    t = np.array([0.3, 0.9, 1.4, 2.3, 3.1, 5.2])
    expected = waves(t, 4) / 3 ** (1 + t // 2)[:, None]
    worst = [
        np.abs(impulse_response("fourier_decay", size, torch.tensor(t))[:, :4].numpy() - expected) for size in (64, 256)
    ]
    assert worst[0].max() < 4e-3
    assert worst[1].max() < worst[0].max() / 2.5


def test_legsd_is_the_normal_part_of_legs() -> None:
    A, B = hippo("legsd", 30)
    legs = hippo("legs", 30)
    torch.testing.assert_close(A, legs.A + 0.5 * torch.outer(legs.B, legs.B), rtol=0, atol=1e-13)
    assert torch.equal(B, 0.5 * legs.B)
    assert torch.equal(A + A.T, -torch.eye(30, dtype=torch.float64))


def test_legsd_comes_to_act_like_legs() -> None:
    """Theorem 3 of the S4D paper; compared by responses to a constant input, which converge at every moment."""
    t = torch.linspace(0.05, 3, 30, dtype=torch.float64)
    apart = []
    for d_state in (16, 64):
        steps = []
        for measure in ("legsd", "legs"):
            A, B = hippo(measure, d_state)
            steps.append(torch.linalg.solve(A, (torch.linalg.matrix_exp(t[:, None, None] * A) @ B - B).T)[:6])
        apart.append((steps[0] - steps[1]).abs().max().item())
    assert apart[0] < 0.06
    assert apart[1] < apart[0] / 4


@pytest.mark.parametrize("measure", [name for name in MEASURES if MEASURE_FACTS[name].window])
def test_windows(measure: str) -> None:
    window = MEASURE_FACTS[measure].window
    assert window == {"legt": 2.0, "lmu": 1.0, "fourier": 2.0, "fout": 2.0, "fourier2": 1.0}[measure]
    times = window * torch.tensor([0.5, 0.95, 1.05], dtype=torch.float64)
    response = impulse_response(measure, 64, times)
    units = torch.sqrt(2 * torch.arange(64) + 1) if measure == "lmu" else 1.0
    middle, inside, outside = (response / units).norm(dim=-1)
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
    with pytest.raises(InputError, match=r"`measure` is 'chebyshev', but one of legs, legsd, .*, foud is needed"):
        hippo("chebyshev", 4)


def test_odd_fourier() -> None:
    for measure in ("fourier", "fourier2", "fourier_decay", "fourier_diag"):
        with pytest.raises(InputError, match=rf"`d_state` is 5, but the {measure} measure needs an even size.*use 6\."):
            hippo(measure, 5)


def test_size_must_be_positive() -> None:
    with pytest.raises(InputError, match="`d_state` is 0, but a positive integer is needed"):
        hippo("legs", 0)


def test_parameters_belong_to_measures() -> None:
    with pytest.raises(InputError, match=r"`beta` is 2.0 with measure 'legs', but only lagt, tlagt, glagt has one"):
        hippo("legs", 4, beta=2.0)
    with pytest.raises(InputError, match=r"`alpha` is 0.5 with measure 'lagt', but only glagt has one; leave `alpha`"):
        hippo("lagt", 4, alpha=0.5)
    with pytest.raises(InputError, match=r"`alpha` is 1.0, but a number between -1 and 1 is needed"):
        hippo("glagt", 4, alpha=1.0)
    for beta in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match=r"`beta` is .*, but a positive number is needed"):
            hippo("tlagt", 4, beta=beta)
