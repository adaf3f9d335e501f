"""Reading the past: the functions of every measure by scipy, and signals that a memory must give back."""

import numpy as np
import pytest
import torch
from scipy import special

from longstate._checks import InputError
from longstate.theory import MEASURE_FACTS, MEASURES, discretize_dense, hippo, reconstruct

SLIDING = [name for name in MEASURES if MEASURE_FACTS[name].reconstructs]


def by_scipy(measure: str, x: np.ndarray, time: np.ndarray, alpha: float = 0.0, beta: float = 1.0) -> np.ndarray:
    """The formulas of `reconstruct` for memories with a window."""
    n = np.arange(len(x))[:, None]
    r = np.sqrt(2 * n + 1)
    laguerre = special.eval_genlaguerre(n, alpha, time)
    scale = np.sqrt(special.gamma(n + alpha + 1) / special.gamma(n + 1))
    j, odd = n // 2, n % 2
    phase = np.pi * j * time * (2 if measure == "fourier2" else 1)
    waves = np.where(odd, np.sin(phase), np.cos(phase)) * np.where(j == 0, 1.0, np.sqrt(2))
    basis = {
        "legs": r * special.eval_legendre(n, 2 * np.exp(-time) - 1),
        "legt": r * special.eval_legendre(n, 1 - time),
        "lmu": special.eval_legendre(n, 2 * time - 1),
        "lagt": np.exp(-time / 2) * laguerre / beta,
        "tlagt": np.exp(-(1 - beta) * time / 2) * laguerre / beta,
        "glagt": np.sqrt(special.gamma(1 - alpha))
        * beta ** ((alpha - 1) / 2)
        * time**alpha
        * laguerre
        / scale
        * np.exp(-(1 - beta) * time / 2),
        "fourier": waves,
        "fout": waves,
        "fourier2": waves,
    }
    return x @ basis[measure]


@pytest.mark.parametrize("measure", SLIDING)
def test_formulas(measure: str) -> None:
    x = torch.randn(3, 10, dtype=torch.float64)
    lags = torch.tensor([0.0, 3.0, 17.25, 59.0], dtype=torch.float64)
    given = {"glagt": {"alpha": 0.3, "beta": 0.5}, "lagt": {"beta": 2.0}, "tlagt": {"beta": 0.7}}.get(measure, {})
    found = reconstruct(x, lags, measure=measure, window=60.0, **given)
    time = (lags.numpy() + 0.5) / 60 * (MEASURE_FACTS[measure].window or 1.0)
    expected = np.stack([by_scipy(measure, row.numpy(), time, **given) for row in x])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-11, atol=1e-12)


def test_all_of_the_past() -> None:
    x, steps = torch.randn(2, 3, 6, dtype=torch.float64), torch.tensor([[5], [40]])
    lags = torch.tensor([0, 2, 4, 5, 39, 40])
    found = reconstruct(x, lags, measure="legs", steps=steps)
    n = np.arange(6)[:, None]
    for row, count in enumerate((5, 40)):
        place = 1 - (lags.numpy() + 0.5) / count
        basis = np.sqrt(2 * n + 1) * special.eval_legendre(n, 2 * place - 1) * (place > 0)
        np.testing.assert_allclose(found[row].numpy(), x[row].numpy() @ basis, rtol=0, atol=1e-12)
    assert torch.equal(found[0, :, 3:], torch.zeros(3, 3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("measure", "given"),
    [
        ("legs", {}),
        ("lagt", {"beta": 2.0}),
        ("tlagt", {}),
        ("tlagt", {"beta": 0.5}),
        ("glagt", {}),
        ("glagt", {"alpha": 0.4, "beta": 0.8}),
        ("glagt", {"alpha": -0.4, "beta": 0.8}),
    ],
)
def test_a_signal_made_of_the_functions_comes_back(measure: str, given: dict[str, float]) -> None:
    """Run the memory over what coefficients stand for, and they are found again, to the order of the held input."""
    order = 5
    x = torch.tensor([1.0, -0.6, 0.3, 0.8, -0.5], dtype=torch.float64)
    apart = []
    for window in (50.0, 100.0):
        lags = torch.arange(int(60 * window))
        u = reconstruct(x, lags, measure=measure, window=window, **given)
        A_bar, B_bar = discretize_dense(*hippo(measure, order, **given), 1 / window, "zoh")
        found = torch.zeros(order, dtype=torch.float64)
        for u_t in u.flip(0):
            found = A_bar @ found + B_bar * u_t
        apart.append((found - x).abs().max().item())
    assert apart[0] < 3e-2
    # Second order in the step, but for τ^α near 0, which is held for a step: order 1 + α.
    order_of_step = 1 + given["alpha"] if "alpha" in given else 2
    assert apart[1] < apart[0] / (0.9 * 2**order_of_step)


@pytest.mark.parametrize("measure", ["fourier_decay", "fourier_diag", "foud", "legsd"])
def test_stretches_that_lie_on_each_other_cannot_be_read(measure: str) -> None:
    with pytest.raises(
        InputError, match=f"`measure` is '{measure}', but it lays stretches of the past upon each other"
    ):
        reconstruct(torch.zeros(4), torch.arange(3), measure=measure, window=9)


def test_errors_say_what_to_do() -> None:
    x, lags = torch.zeros(4), torch.arange(3)
    with pytest.raises(InputError, match="`measure` is 'chebt', but one of legs, legsd"):
        reconstruct(x, lags, measure="chebt", window=9)
    with pytest.raises(
        InputError, match="`window` is None with measure 'legt', but only legs remembers all of the past"
    ):
        reconstruct(x, lags, measure="legt", steps=torch.tensor(9))
    with pytest.raises(InputError, match=r"`steps` is None without a `window`, .* such as `state.steps\[:, None\]`"):
        reconstruct(x, lags, measure="legs")
    with pytest.raises(InputError, match="`lags` holds -1, but lags of at least 0 are needed; 0 is the newest"):
        reconstruct(x, lags - 1, measure="legs", window=9)
    with pytest.raises(InputError, match=r"`lags` holds 2, but a window of 2 elements ends at lag 1\.5; ask for less"):
        reconstruct(x, lags, measure="legt", window=2)
    with pytest.raises(InputError, match=r"`window` is -3, but a positive number of elements is needed"):
        reconstruct(x, lags, measure="legs", window=-3)
    with pytest.raises(InputError, match=r"`beta` is 2.0 with measure 'legs', but only lagt, tlagt, glagt has one"):
        reconstruct(x, lags, measure="legs", window=9, beta=2.0)


def test_types_are_kept() -> None:
    x = torch.randn(2, 4)
    assert reconstruct(x, torch.arange(3), measure="legt", window=9).dtype == torch.float32
    assert reconstruct(x, torch.arange(3), measure="legs", steps=torch.tensor([3, 4])).dtype == torch.float32
