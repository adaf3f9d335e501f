"""Driven harmonic oscillators, y'' = -A y - G y' + u, and the steps of LinOSS that follow them."""

import torch
from torch import Tensor

from longstate._checks import check_choice

OSCILLATOR_RULES = ("im", "imex", "damped")

# Shorter steps take the upper bound of this one, which is inside their own and whose slope is finite.
_SMALLEST_STEP = 1e-4


def discretize_oscillator(A: Tensor, dt: Tensor, rule: str, *, G: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One step of oscillators, as matrices that act on (z, y) = (velocity, position).

        z_t = S (z_{t-1} + dt (u_t - A y_{t-1})),    y_t = y_{t-1} + dt z_t

        M = [[S, -dt A S], [dt S, 1 - dt² A S]],    F = [dt S, dt² S],    (z, y)_t = M (z, y)_{t-1} + F u_t

        im       S = 1 / (1 + dt² A)     the force is that of the new position: stable for every A >= 0, and decaying
        imex     S = 1                   the force is that of the old position: |eigenvalues| = 1 while dt² A <= 4
        damped   S = 1 / (1 + dt G)      imex with friction: |eigenvalues| = √S between the `stiffness_bounds`

    dt = 0 gives M = 1 and F = 0. A = 0 is a free mass: M^n grows like n under imex, its velocity stays.

    Args:
        A: Stiffness of each oscillator (..., P), in (unit of dt)^-2.
        dt: Steps (..., P), broadcast against A: (P,), or (batch, length, P) for steps that vary.
        rule: "im", "imex" or "damped".
        G: Friction of each oscillator (..., P), in (unit of dt)^-1; for "damped" alone, none if left out.

    Returns:
        M (..., P, 2, 2) and F (..., P, 2), with the leading axes of A, dt and G broadcast together.

    Raises:
        InputError: If the rule is unknown.

    Source:
        Rusch, Rus: Oscillatory State-Space Models, arXiv 2410.03943, section 2 (im, imex); Boyer, Rusch, Rus: Learning
        to Dissipate Energy in Oscillatory State-Space Models, arXiv 2505.12171 (damped). One form serves all three.

    Example:
        >>> import torch
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> M, F = discretize_oscillator(one, 0.5 * one, "imex")
        >>> M, torch.linalg.eigvals(M).abs()
        (tensor([[[ 1.0000, -0.5000],
                 [ 0.5000,  0.7500]]], dtype=torch.float64), tensor([[1., 1.]], dtype=torch.float64))
    """
    check_choice(rule, OSCILLATOR_RULES, name="rule")
    if rule == "im":
        S = 1 / (1 + dt * dt * A)
    elif rule == "damped" and G is not None:
        S = 1 / (1 + dt * G)
    else:
        S = torch.ones_like(dt)
    pull = dt * A * S
    S, drive, pull, held = torch.broadcast_tensors(S, dt * S, pull, 1 - dt * pull)
    M = torch.stack([torch.stack([S, -pull], dim=-1), torch.stack([drive, held], dim=-1)], dim=-2)
    return M, torch.stack([drive, dt * drive], dim=-1)


def stiffness_bounds(dt: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
    """The stiffness between which a damped oscillator swings, and above which its step would be too long.

        low = ((√(1 + dt G) - 1) / dt)²,    high = ((√(1 + dt G) + 1) / dt)²

    Between them the eigenvalues of the damped rule are a conjugate pair of modulus 1/√(1 + dt G); at `high` they meet
    on the negative axis, one half turn a step. Without friction, low = 0 and high = 4 / dt².

    Args:
        dt: Steps, any shape.
        G: Friction, broadcast against dt.

    Returns:
        low and high.

    Source:
        Boyer, Rusch, Rus, arXiv 2505.12171, proposition on the eigenvalues of D-LinOSS.

    Example:
        >>> import torch
        >>> stiffness_bounds(torch.tensor(0.5), torch.tensor(0.0))
        (tensor(0.), tensor(16.))
    """
    root = torch.sqrt(1 + dt * G)
    return (G / (root + 1)) ** 2, ((root + 1) / dt.clamp(min=_SMALLEST_STEP)) ** 2


def ring_oscillator(modulus: Tensor, phase: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """The damped oscillator whose step has the eigenvalues r e^{±iθ}.

        G = (1/r² - 1) / dt,    A = |1 - r e^{iθ}|² / (r dt)²

    Args:
        modulus: r in (0, 1].
        phase: θ in [0, π], radians a step.
        dt: Steps.

    Returns:
        A and G.

    Source:
        Boyer, Rusch, Rus, arXiv 2505.12171, initialisation; solved here for A and G in closed form.

    Example:
        >>> import torch
        >>> A, G = ring_oscillator(torch.tensor([0.9]), torch.tensor([1.0]), torch.tensor([0.5]))
        >>> M, _ = discretize_oscillator(A, torch.tensor([0.5]), "damped", G=G)
        >>> torch.linalg.eigvals(M).abs()
        tensor([[0.9000, 0.9000]])
    """
    G = (modulus**-2 - 1) / dt
    A = (1 - 2 * modulus * torch.cos(phase) + modulus**2) / (modulus * dt) ** 2
    return A, G
