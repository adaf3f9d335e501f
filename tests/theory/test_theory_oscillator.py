"""Oscillators: eigenvalues, limits of stability, orbits that stay bounded, powers that keep their digits."""

import math

import pytest
import torch

from longstate import InputError, ops, theory

DOUBLE = {"dtype": torch.float64}


def moduli(M: torch.Tensor) -> torch.Tensor:
    return torch.linalg.eigvals(M).abs()


def some(count: int = 40) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Stiffness within reach of the step, steps, friction."""
    dt, G = torch.rand(count, **DOUBLE), 2 * torch.rand(count, **DOUBLE)
    low, high = theory.stiffness_bounds(dt, G)
    return low + torch.rand(count, **DOUBLE) * (high - low), dt, G


def test_implicit_oscillators_decay() -> None:
    A, dt, _ = some()
    A = 100 * A
    M, _ = theory.discretize_oscillator(A, dt, "im")
    assert (moduli(M) - (1 + dt**2 * A).rsqrt()[:, None]).abs().max() <= 1e-12


def test_imex_oscillators_turn() -> None:
    _, dt, _ = some()
    A = 3.999 * torch.rand(40, **DOUBLE) / dt**2
    M, _ = theory.discretize_oscillator(A, dt, "imex")
    assert (moduli(M) - 1).abs().max() <= 1e-7
    assert (torch.linalg.det(M) - 1).abs().max() <= 1e-13
    beyond, _ = theory.discretize_oscillator(4.1 / dt**2, dt, "imex")
    assert moduli(beyond).amax(-1).min() > 1.3


def test_damped_oscillators_lose_what_their_friction_says() -> None:
    A, dt, G = some()
    M, _ = theory.discretize_oscillator(A, dt, "damped", G=G)
    assert (moduli(M) - (1 + dt * G).rsqrt()[:, None]).abs().max() <= 1e-7
    _, high = theory.stiffness_bounds(dt, G)
    # Between `high` and this limit both eigenvalues are negative, one of them near -1; after it one passes -1.
    limit = (4 + 2 * dt * G) / dt**2
    assert (limit >= high).all()
    assert moduli(theory.discretize_oscillator(1.001 * limit, dt, "damped", G=G)[0]).amax(-1).min() > 1


def test_bounds_are_where_the_eigenvalues_meet() -> None:
    _, dt, G = some()
    for A in theory.stiffness_bounds(dt, G):
        M, _ = theory.discretize_oscillator(A, dt, "damped", G=G)
        trace, det = M.diagonal(dim1=-2, dim2=-1).sum(-1), torch.linalg.det(M)
        assert (trace**2 - 4 * det).abs().max() <= 1e-13


def test_short_steps_keep_a_bound_of_finite_slope() -> None:
    dt = torch.tensor([0.0, 1e-9], **DOUBLE, requires_grad=True)
    low, high = theory.stiffness_bounds(dt, torch.ones(2, **DOUBLE))
    (slope,) = torch.autograd.grad((low + high).sum(), dt)
    assert slope.isfinite().all()
    assert (dt**2 * high <= (torch.sqrt(1 + dt) + 1) ** 2).all()


def test_ring_gives_the_eigenvalues_it_was_asked_for() -> None:
    dt = torch.rand(50, **DOUBLE)
    modulus, phase = 0.5 + 0.5 * torch.rand(50, **DOUBLE), math.pi * torch.rand(50, **DOUBLE)
    A, G = theory.ring_oscillator(modulus, phase, dt)
    M, _ = theory.discretize_oscillator(A, dt, "damped", G=G)
    upper = torch.linalg.eigvals(M)
    upper = torch.where(upper.imag[:, 0] >= 0, upper[:, 0], upper[:, 1])
    assert (upper - torch.polar(modulus, phase)).abs().max() <= 1e-7
    low, high = theory.stiffness_bounds(dt, G)
    assert (low * (1 - 1e-12) <= A).all()
    assert (high * (1 + 1e-12) >= A).all()


@pytest.mark.parametrize("rule", theory.OSCILLATOR_RULES)
def test_rules_follow_the_equation_of_motion(rule: str) -> None:
    A, G, u = torch.tensor([2.0], **DOUBLE), torch.tensor([0.3], **DOUBLE), 0.7
    errors = []
    for steps in (100, 200, 400):
        dt = torch.tensor([3.0 / steps], **DOUBLE)
        M, drive = theory.discretize_oscillator(A, dt, rule, G=G)
        x = torch.tensor([[1.0, -0.5]], **DOUBLE)
        for _ in range(steps):
            x = (M @ x[..., None])[..., 0] + drive * u
        friction = 0.3 if rule == "damped" else 0.0
        flow = torch.linalg.matrix_exp(3.0 * torch.tensor([[-friction, -2.0, u], [1.0, 0.0, 0.0], [0, 0, 0]], **DOUBLE))
        exact = flow[:2] @ torch.tensor([1.0, -0.5, 1.0], **DOUBLE)
        errors.append(float((x - exact).abs().max()))
    assert errors[2] <= 0.05
    assert errors[1] / errors[2] == pytest.approx(2.0, rel=0.1)  # first order


@pytest.mark.parametrize("rule", theory.OSCILLATOR_RULES)
def test_a_step_of_no_length_changes_nothing(rule: str) -> None:
    M, drive = theory.discretize_oscillator(
        torch.rand(3, **DOUBLE), torch.zeros(3, **DOUBLE), rule, G=torch.rand(3, **DOUBLE)
    )
    assert torch.equal(M, torch.eye(2, **DOUBLE).expand(3, 2, 2))
    assert torch.equal(drive, torch.zeros(3, 2, **DOUBLE))


def test_powers_by_squaring_keep_their_digits() -> None:
    """M^n of imex in closed form: det M = 1, so M^n = (sin nθ M - sin (n-1)θ) / sin θ with 2 cos θ the trace."""
    dt = torch.tensor([0.7, 0.5, 0.6, 0.9, 0.5], **DOUBLE)
    A = torch.tensor([1e-6, 1.0, 0.3, 3.9 / 0.81, 1e-3], **DOUBLE)
    M, _ = theory.discretize_oscillator(A, dt, "imex")
    theta = 2 * torch.asin(dt * A.sqrt() / 2)
    n = 2**16
    found = ops.lti_system.powers(M, 17)[-1]
    exact = (torch.sin(n * theta)[:, None, None] * M).sub_(
        torch.sin((n - 1) * theta)[:, None, None] * torch.eye(2, **DOUBLE)
    ) / torch.sin(theta)[:, None, None]
    scale = exact.abs().amax((-2, -1))
    assert ((found - exact).abs().amax((-2, -1)) / scale).max() <= 1e-9


def test_powers_of_a_free_mass_grow_like_n() -> None:
    M, _ = theory.discretize_oscillator(torch.zeros(1, **DOUBLE), torch.full((1,), 0.3, **DOUBLE), "imex")
    found = ops.lti_system.powers(M, 17)[-1][0]
    assert (found - torch.tensor([[1.0, 0.0], [2**16 * 0.3, 1.0]], **DOUBLE)).abs().max() <= 1e-9 * 2**16


def test_unknown_rules_are_refused() -> None:
    one = torch.ones(1, **DOUBLE)
    with pytest.raises(InputError, match="`rule` is 'zoh', but one of im, imex, damped is needed"):
        theory.discretize_oscillator(one, one, "zoh")
