"""Laguerre measures: their matrices, and the functions in which they remember."""

import math

import torch
from torch import Tensor


def lagt(d_state: int, beta: float) -> tuple[Tensor, Tensor]:
    """A and B of the translated Laguerre measure, tilted to a flat one; β scales the input."""
    A, _ = tlagt(d_state, 0.0)
    return A, torch.full((d_state,), beta, dtype=torch.float64)


def tlagt(d_state: int, beta: float) -> tuple[Tensor, Tensor]:
    """A and B of the translated Laguerre measure e^{-βτ}."""
    eye, ones = torch.eye(d_state, dtype=torch.float64), torch.ones(d_state, d_state, dtype=torch.float64)
    return 0.5 * (1 - beta) * eye - torch.tril(ones), torch.full((d_state,), beta, dtype=torch.float64)


def glagt(d_state: int, alpha: float, beta: float) -> tuple[Tensor, Tensor]:
    """A and B of the generalised Laguerre measure τ^α e^{-βτ}, in orthonormal units."""
    A, _ = tlagt(d_state, beta)
    scale = norms(alpha, d_state)
    B = scale * (gain(alpha, beta) / math.gamma(1 + alpha))  # binom(n + α, n) = scale² / Γ(1 + α)
    return A * scale / scale[:, None], B


def gain(alpha: float, beta: float) -> float:
    """Γ(1-α)^(-1/2) β^((1-α)/2): the factor of the input of glagt."""
    return math.gamma(1 - alpha) ** -0.5 * beta ** ((1 - alpha) / 2)


def norms(alpha: float, count: int) -> Tensor:
    """√(Γ(n+α+1) / Γ(n+1)): the norms of the Laguerre polynomials L_n^(α) under x^α e^{-x}."""
    n = torch.arange(count, dtype=torch.float64)
    return torch.exp(0.5 * (torch.lgamma(n + alpha + 1) - torch.lgamma(n + 1)))


def laguerre(x: Tensor, count: int, alpha: float = 0.0) -> Tensor:
    """The Laguerre functions e^{-x/2} L_n^(α)(x) for n = 0 .. count-1, by their recurrence.

        (n + 1) L_{n+1}(x) = (2n + 1 + α - x) L_n(x) - (n + α) L_{n-1}(x)

    Args:
        x: Points >= 0, any shape.
        count: How many functions.
        alpha: Parameter of the polynomials, above -1.

    Returns:
        Values (count, ...).

    Example:
        >>> laguerre(torch.tensor([0.0, 2.0]), 3)
        tensor([[ 1.0000,  0.3679],
                [ 1.0000, -0.3679],
                [ 1.0000, -0.3679]])
    """
    values = [torch.exp(-x / 2)]
    values += [(1 + alpha - x) * values[0]] * (count > 1)
    for n in range(1, count - 1):
        values.append(((2 * n + 1 + alpha - x) * values[n] - (n + alpha) * values[n - 1]) / (n + 1))
    return torch.stack(values)
