"""Legendre measures: their matrices, and the polynomials in which they remember."""

import torch
from torch import Tensor


def legs(d_state: int) -> tuple[Tensor, Tensor]:
    """A and B of the scaled Legendre measure, time invariant."""
    r = norms(d_state)
    n = torch.arange(d_state, dtype=torch.float64)
    return torch.tril(torch.outer(-r, r), -1) - torch.diag(n + 1), r


def legsd(d_state: int) -> tuple[Tensor, Tensor]:
    """The normal part of legs: S - I/2, with S antisymmetric to the bit."""
    below = torch.tril(torch.outer(norms(d_state), norms(d_state)), -1) / 2
    return below.T - below - 0.5 * torch.eye(d_state, dtype=torch.float64), 0.5 * norms(d_state)


def legt(d_state: int) -> tuple[Tensor, Tensor]:
    """A and B of the translated Legendre measure, halved."""
    r = norms(d_state)
    return -0.5 * _signs(d_state) * torch.outer(r, r), 0.5 * r


def lmu(d_state: int) -> tuple[Tensor, Tensor]:
    """A and B of the Legendre memory unit: legt twice as fast, x_n in units of (-1)^n / r_n."""
    n = torch.arange(d_state)
    parity = torch.where(n % 2 == 0, 1.0, -1.0).double()
    weight = 2 * n.double() + 1
    signs = parity[:, None] * _signs(d_state) * parity
    return -weight[:, None] * signs, parity * weight


def legendre(x: Tensor, count: int, *, start: Tensor | None = None) -> Tensor:
    """The Legendre polynomials P_0 .. P_{count-1} at points of [-1, 1], by their recurrence.

        (n + 1) P_{n+1}(x) = (2n + 1) x P_n(x) - n P_{n-1}(x)

    Args:
        x: Points, any shape.
        count: How many polynomials.
        start: What P_0 is, broadcast against `x`, where every polynomial is wanted times a factor; 1 if None.

    Returns:
        Values (count, ...).

    Example:
        >>> legendre(torch.tensor([0.0, 0.5, 1.0]), 3)
        tensor([[ 1.0000,  1.0000,  1.0000],
                [ 0.0000,  0.5000,  1.0000],
                [-0.5000, -0.1250,  1.0000]])
    """
    first = torch.ones_like(x) if start is None else start.expand(x.shape)
    values, scales = [first, x * first][:count], [1.0, 1.0][:count]
    # In units that shrink with n, and signs that alternate in pairs, a step is one fused operation.
    for n in range(1, count - 1):
        scales.append(-n / (n + 1) * scales[n - 1])
        weight = (2 * n + 1) / (n + 1) * scales[n] / scales[n + 1]
        values.append(torch.addcmul(values[n - 1], x, values[n], value=weight))
    unit = torch.tensor(scales, dtype=x.dtype, device=x.device)
    return torch.stack(values) * unit.reshape(-1, *[1] * x.dim())


def norms(count: int, *, device: torch.device | None = None) -> Tensor:
    """r_n = √(2n+1): r_n P_n(2s - 1) are orthonormal on [0, 1]."""
    return torch.sqrt(2 * torch.arange(count, dtype=torch.float64, device=device) + 1)


def _signs(d_state: int) -> Tensor:
    """1 on and below the diagonal, (-1)^(n-k) above."""
    n = torch.arange(d_state)
    odd_above = (n[:, None] < n) & ((n - n[:, None]) % 2 == 1)
    return torch.where(odd_above, -1.0, 1.0).double()
