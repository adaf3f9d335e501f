"""Discretisation: scipy as the judge, orders of agreement, contraction, dt = 0, gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, signal
from torch.testing import assert_close

from longstate._checks import InputError
from longstate.theory import (
    MEASURE_FACTS,
    MEASURES,
    NPLR_MEASURES,
    RULES,
    diagonal,
    discretize_dense,
    discretize_diagonal,
    discretize_dplr,
    hippo,
    nplr,
    phi1,
    real_form,
    real_vector,
)

SCIPY = {"zoh": "zoh", "bilinear": "bilinear", "euler": "euler", "backward_euler": "backward_diff"}


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.complex128) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def stable(*shape: int, seed: int) -> torch.Tensor:
    """Eigenvalues in the open left half plane."""
    A = draw(*shape, seed=seed)
    return torch.complex(-A.real.abs() - 0.1, 3 * A.imag)


def by_scipy(A: torch.Tensor, B: torch.Tensor, dt: float, rule: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ā and B̄ of one dense system."""
    if rule == "dirac":
        return torch.from_numpy(linalg.expm(dt * A.numpy())), B
    row = np.zeros((1, len(A)))
    A_bar, B_bar, *_ = signal.cont2discrete((A.numpy(), B.numpy()[:, None], row, [[0.0]]), dt, SCIPY[rule])
    return torch.from_numpy(A_bar), torch.from_numpy(B_bar[:, 0])


# phi1


def phi1_in_long_double(z: np.ndarray) -> np.ndarray:
    """The power series, in extended precision."""
    z = z.astype(np.clongdouble)
    term = total = np.ones_like(z)
    for k in range(2, 80):
        term = term * z / k
        total = total + term
    return total


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 4e-16), (torch.float32, 2e-7)])
@pytest.mark.parametrize("angle", [0.0, 0.4, 1.5707963, 2.5, 3.1415927])
def test_phi1_is_accurate_to_rounding(dtype: torch.dtype, tolerance: float, angle: float) -> None:
    modulus = torch.cat([torch.zeros(1), torch.logspace(-12, 0.4, 200), torch.linspace(0.06, 0.065, 21)]).double()
    z = torch.polar(modulus, torch.full_like(modulus, angle)).to(dtype.to_complex())
    expected = phi1_in_long_double(z.numpy())
    assert np.abs((phi1(z).numpy() - expected) / expected).max() < 4 * tolerance
    if angle == 0.0:
        assert np.abs((phi1(z.real).numpy() - expected.real) / expected.real).max() < tolerance


def test_phi1_far_from_zero() -> None:
    z = torch.tensor([-1e300, -800.0, 700.0], dtype=torch.float64, requires_grad=True)
    values = phi1(z)
    assert_close(values, torch.expm1(z) / z, rtol=0, atol=0)
    assert torch.autograd.grad(values.sum(), z)[0].isfinite().all()


def test_phi1_gradient_around_zero() -> None:
    """The n-th derivative at 0 is 1 / (n+1); the two branches join smoothly."""
    z = torch.zeros((), dtype=torch.float64, requires_grad=True)
    first = torch.autograd.grad(phi1(z), z, create_graph=True)[0]
    second = torch.autograd.grad(first, z)[0]
    assert (first.item(), second.item()) == pytest.approx((1 / 2, 1 / 3), rel=1e-15)
    points = torch.tensor([0.0, 1e-9, -0.0624, 0.0624, 0.0626, -2.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(phi1, points.clone().requires_grad_())
    assert torch.autograd.gradgradcheck(phi1, points.clone().requires_grad_())
    rotated = torch.polar(points.abs(), torch.arange(6.0, dtype=torch.float64))
    assert torch.autograd.gradcheck(phi1, rotated.requires_grad_())


# The three forms of a system


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("measure", MEASURES)
def test_dense_equals_scipy(measure: str, rule: str) -> None:
    A, B = hippo(measure, 8)
    for dt in (1e-3, 0.1, 1.0):
        for ours, theirs in zip(discretize_dense(A, B, dt, rule), by_scipy(A, B, dt, rule), strict=True):
            assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_singular_matrix(rule: str) -> None:
    """A double integrator has no inverse; zoh must not need one."""
    A = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    B = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for ours, theirs in zip(discretize_dense(A, B, 0.3, rule), by_scipy(A, B, 0.3, rule), strict=True):
        assert_close(ours, theirs, rtol=0, atol=1e-14)


@pytest.mark.parametrize("rule", ["zoh", "dirac"])
def test_exponential_of_one_small_matrix(rule: str) -> None:
    """The norms at which torch.linalg.matrix_exp, given one matrix, is wrong (pytorch issue 196592)."""
    A, B = hippo("legs", 8)
    for dt in torch.logspace(-5, 0, 26, dtype=torch.float64).tolist():
        for shape in ((8, 8), (1, 8, 8)):
            ours, _ = discretize_dense(A.reshape(shape), B, dt, rule)
            assert_close(ours.reshape(8, 8), torch.from_numpy(linalg.expm(dt * A.numpy())), rtol=0, atol=1e-13)


@given(seed=st.integers(0, 99), half=st.integers(1, 4), dt=st.floats(1e-4, 2.0), rule=st.sampled_from(RULES))
@settings(max_examples=40)
def test_diagonal_equals_scipy(seed: int, half: int, dt: float, rule: str) -> None:
    A, B = stable(half, seed=seed), draw(half, seed=seed + 100)
    A_bar, B_bar = discretize_diagonal(A, B, dt, rule)
    dense = real_form(A, B[:0].reshape(0, half), B, B)
    A_scipy, B_scipy = by_scipy(dense.A, dense.B, dt, rule)
    assert_close(real_form(A_bar, B[:0].reshape(0, half), B, B).A, A_scipy, rtol=1e-11, atol=1e-12)
    assert_close(real_vector(B_bar), B_scipy, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_real_diagonal_equals_dense(rule: str) -> None:
    A, B = diagonal("real", 6), draw(6, seed=0, dtype=torch.float64)
    A_bar, B_bar = discretize_diagonal(A, B, 0.2, rule)
    A_dense, B_dense = discretize_dense(torch.diag(A), B, 0.2, rule)
    assert_close(torch.diag(A_bar), A_dense, rtol=0, atol=1e-14)
    assert_close(B_bar, B_dense, rtol=0, atol=1e-14)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("measure", NPLR_MEASURES)
def test_dplr_equals_scipy_on_hippo(measure: str, rule: str) -> None:
    """Rank 0, 1 and 2: normal basis, Woodbury, and back is the discretised HiPPO matrix."""
    system = hippo(measure, 16)
    A, P, B, V = nplr(measure, 16)
    basis = real_vector(V.conj())
    for dt in (1e-3, 0.1, 0.5):
        A_bar, B_bar = discretize_dplr(A, P, B, dt, rule)
        A_scipy, B_scipy = by_scipy(system.A, system.B, dt, rule)
        assert_close(basis @ A_bar @ basis.mT, A_scipy, rtol=1e-10, atol=1e-11)
        assert_close(basis @ B_bar, B_scipy, rtol=1e-10, atol=1e-11)


@given(seed=st.integers(0, 99), heads=st.integers(1, 3), half=st.integers(1, 4), rank=st.integers(0, 3))
@settings(max_examples=40)
def test_woodbury_equals_dense(seed: int, heads: int, half: int, rank: int) -> None:
    A, B, P = stable(heads, half, seed=seed), draw(heads, half, seed=seed + 1), draw(rank, heads, half, seed=seed + 2)
    dt = torch.linspace(0.0, 1.0, heads, dtype=torch.float64)
    system = real_form(A, P, B, B)
    woodbury = discretize_dplr(A, P, B, dt, "bilinear")
    for ours, theirs in zip(woodbury, discretize_dense(system.A, system.B, dt, "bilinear"), strict=True):
        assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


# What every rule must keep


@pytest.mark.parametrize("rule", RULES)
def test_no_time_passes(rule: str) -> None:
    A, B, P = stable(2, 3, seed=0), draw(2, 3, seed=1), draw(1, 2, 3, seed=2)
    dt = torch.zeros(2, dtype=torch.float64)
    A_bar, B_bar = discretize_diagonal(A, B, dt, rule)
    assert torch.equal(A_bar, torch.ones_like(A))
    assert torch.equal(B_bar, B if rule == "dirac" else torch.zeros_like(B))
    for pair in (discretize_dplr(A, P, B, dt, rule), discretize_dense(*real_form(A, P, B, B)[:2], dt, rule)):
        assert torch.equal(pair[0], torch.eye(6, dtype=torch.float64).expand(2, 6, 6))
        assert torch.equal(pair[1], real_vector(B) if rule == "dirac" else torch.zeros(2, 6, dtype=torch.float64))


@given(
    re=st.floats(-50.0, -1e-2),
    im=st.floats(-200.0, 200.0),
    dt=st.floats(1e-4, 1.0),
    rule=st.sampled_from([rule for rule in RULES if rule != "euler"]),
)
@settings(max_examples=100)
def test_stable_stays_stable(re: float, im: float, dt: float, rule: str) -> None:
    A = torch.tensor([complex(re, im)], dtype=torch.complex128)
    assert discretize_diagonal(A, torch.ones_like(A), dt, rule)[0].abs().item() < 1


def test_forward_euler_can_explode() -> None:
    A = torch.tensor([-0.5 + 20j], dtype=torch.complex128)
    assert discretize_diagonal(A, torch.ones_like(A), 0.1, "euler")[0].abs().item() > 1


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "euler"])
@pytest.mark.parametrize("measure", [name for name in MEASURES if MEASURE_FACTS[name].contraction])
def test_hippo_contracts(measure: str, rule: str) -> None:
    dt = torch.tensor([1e-4, 1e-3, 1e-2, 0.1, 0.5], dtype=torch.float64)
    A, B = hippo(measure, 64)
    norms = torch.linalg.matrix_norm(discretize_dense(A, B, dt, rule)[0], 2)
    assert (norms <= 1 + 1e-12).all()
    A_modes, P, B_modes, _ = nplr(measure, 64)
    of_modes = torch.linalg.matrix_norm(
        discretize_dplr(A_modes.expand(5, -1), P[:, None].expand(-1, 5, -1), B_modes.expand(5, -1), dt, rule)[0], 2
    )
    assert (of_modes <= 1 + 1e-12).all()
    assert_close(of_modes, norms, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("rule", "order_A", "order_B"), [("bilinear", 3, 3), ("euler", 2, 2), ("backward_euler", 2, 2)]
)
def test_rules_agree_as_dt_vanishes(rule: str, order_A: int, order_B: int) -> None:
    """Halving dt divides the distance from zoh by two to the order."""
    A, B = stable(4, seed=5), draw(4, seed=6)
    differences = []
    for dt in (2e-3, 1e-3):
        exact, other = discretize_diagonal(A, B, dt, "zoh"), discretize_diagonal(A, B, dt, rule)
        differences.append([(a - b).abs().max().item() for a, b in zip(exact, other, strict=True)])
    coarse, fine = np.log2(differences)
    assert coarse[0] - fine[0] == pytest.approx(order_A, abs=0.02)
    assert coarse[1] - fine[1] == pytest.approx(order_B, abs=0.02)


def test_zoh_is_exact_for_held_input() -> None:
    """Two steps are one step of twice the length."""
    A, B = stable(2, 3, seed=0), draw(2, 3, seed=1)
    dt = torch.tensor([0.1, 0.7], dtype=torch.float64)
    A_one, B_one = discretize_diagonal(A, B, dt, "zoh")
    A_two, B_two = discretize_diagonal(A, B, 2 * dt, "zoh")
    assert_close(A_one**2, A_two, rtol=1e-14, atol=0)
    assert_close(A_one * B_one + B_one, B_two, rtol=1e-13, atol=0)


# Shapes, types, gradients


@pytest.mark.parametrize("rule", RULES)
def test_dt_belongs_to_heads(rule: str) -> None:
    A, B, P = stable(3, 2, seed=0), draw(3, 2, seed=1), draw(2, 3, 2, seed=2)
    dt = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    dense = real_form(A, P, B, B)
    for h in range(3):
        pairs = [
            (discretize_diagonal(A, B, dt, rule), discretize_diagonal(A[h], B[h], dt[h], rule)),
            (discretize_dplr(A, P, B, dt, rule), discretize_dplr(A[h], P[:, h], B[h], dt[h], rule)),
            (discretize_dense(*dense[:2], dt, rule), discretize_dense(dense.A[h], dense.B[h], dt[h].item(), rule)),
        ]
        for of_all, of_one in pairs:
            assert_close(of_all[0][h], of_one[0], rtol=0, atol=1e-14)
            assert_close(of_all[1][h], of_one[1], rtol=0, atol=1e-14)


@pytest.mark.parametrize("rule", RULES)
def test_irregular_steps_lead(rule: str) -> None:
    A, B, dt = stable(3, 2, seed=0), draw(3, 2, seed=1), draw(5, 7, 3, seed=2, dtype=torch.float64).abs()
    A_bar, B_bar = discretize_diagonal(A, B, dt, rule)
    assert A_bar.shape == B_bar.shape == (5, 7, 3, 2)
    alone = discretize_diagonal(A, B, dt[4, 6], rule)
    assert_close((A_bar[4, 6], B_bar[4, 6]), alone, rtol=0, atol=1e-15)
    dense = real_form(A, B[None], B, B)
    A_dense, B_dense = discretize_dense(dense.A, dense.B, dt, rule)
    assert (A_dense.shape, B_dense.shape) == ((5, 7, 3, 4, 4), (5, 7, 3, 4))


@pytest.mark.parametrize("rule", RULES)
def test_types_are_kept(rule: str) -> None:
    A, B, dt = stable(3, 2, seed=0).to(torch.complex64), draw(3, 2, seed=1).to(torch.complex64), torch.full((3,), 0.1)
    for step in (dt, 0.1):
        assert {part.dtype for part in discretize_diagonal(A, B, step, rule)} == {torch.complex64}
        assert {part.dtype for part in discretize_diagonal(A.real, B.real, step, rule)} == {torch.float32}
        assert {part.dtype for part in discretize_dplr(A, B[None], B, step, rule)} == {torch.float32}
        dense = real_form(A, B[None], B, B)
        assert {part.dtype for part in discretize_dense(dense.A, dense.B, step, rule)} == {torch.float32}


@pytest.mark.parametrize("rule", RULES)
def test_gradients(rule: str) -> None:
    """Through A, B, P and dt; the first mode stands at zero, the first head at dt = 0."""
    A = stable(2, 2, seed=0)
    A[:, 0] = 0
    A.requires_grad_()
    B, P = draw(2, 2, seed=1).requires_grad_(), draw(2, 2, 2, seed=2).requires_grad_()
    dt = torch.tensor([0.0, 0.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *args: discretize_diagonal(*args, rule), (A, B, dt))
    assert torch.autograd.gradcheck(lambda *args: discretize_dplr(*args, rule), (A, P, B, dt))
    A_dense, B_dense, _ = (part.detach().requires_grad_() for part in real_form(A, P, B, B))
    assert torch.autograd.gradcheck(lambda *args: discretize_dense(*args, rule), (A_dense, B_dense, dt))


def test_unknown_rule() -> None:
    A = torch.zeros(2, 2)
    for function in (discretize_diagonal, discretize_dense):
        with pytest.raises(
            InputError, match="`rule` is 'tustin', but one of zoh, bilinear, euler, backward_euler, dirac"
        ):
            function(A, A[0], 0.1, "tustin")
    with pytest.raises(InputError, match="`rule` is 'tustin'"):
        discretize_dplr(A + 0j, A[None] + 0j, A + 0j, 0.1, "tustin")


def test_dense_needs_square_matrices() -> None:
    with pytest.raises(InputError, match=r"`A` has shape \(3,\), but square matrices .*; use `discretize_diagonal`"):
        discretize_dense(torch.zeros(3), torch.zeros(3), 0.1, "zoh")
    with pytest.raises(InputError, match=r"`A` has shape \(2, 3\), but square matrices"):
        discretize_dense(torch.zeros(2, 3), torch.zeros(2), 0.1, "zoh")
