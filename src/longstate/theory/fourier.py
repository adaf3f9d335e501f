"""Fourier measures: their matrices, and the waves in which they remember."""

import math

import torch
from torch import Tensor


def fourier(d_state: int, *, speed: float, loss: float, gain: float) -> tuple[Tensor, Tensor]:
    """A = S - loss b bᵀ and B = gain b; states 2j and 2j+1 are the cosine and the sine of frequency speed πj."""
    S, b = _rotation(d_state, speed)
    return S - loss * torch.outer(b, b), gain * b


def fourier_diag(d_state: int) -> tuple[Tensor, Tensor]:
    """A = S - I/2 and B = b, S with frequencies 2πj: exactly normal."""
    S, b = _rotation(d_state, 2.0)
    return S - 0.5 * torch.eye(d_state, dtype=torch.float64), b


def waves(x: Tensor, count: int) -> Tensor:
    """The waves 1, 0, √2 cos(πx), √2 sin(πx), √2 cos(2πx), ...: the second is the sine of frequency 0.

    Args:
        x: Points, any shape.
        count: How many, even.

    Returns:
        Values (count, ...).

    Example:
        >>> waves(torch.tensor([0.0, 0.25]), 4)
        tensor([[1.0000, 1.0000],
                [0.0000, 0.0000],
                [1.4142, 1.0000],
                [0.0000, 1.0000]])
    """
    j = torch.arange(count // 2, dtype=x.dtype, device=x.device).reshape(-1, *[1] * x.dim())
    angle = math.pi * j * x
    values = math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], dim=1).flatten(0, 1)
    values[0] = 1.0
    return values


def _rotation(d_state: int, speed: float) -> tuple[Tensor, Tensor]:
    """S antisymmetric with S[2j+1, 2j] = speed πj, and b = (1, 0, √2, 0, √2, ...)."""
    j = torch.arange(d_state // 2)
    S = torch.zeros(d_state, d_state, dtype=torch.float64)
    S[2 * j + 1, 2 * j] = speed * math.pi * j.double()
    b = torch.zeros(d_state, dtype=torch.float64)
    b[0::2] = math.sqrt(2)
    b[0] = 1.0
    return S - S.T, b
