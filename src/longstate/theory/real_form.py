"""The real orthonormal form of a state stored as half of its conjugate pairs."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class RealForm(NamedTuple):
    """A system over the real state r = [√2 Re x, √2 Im x]: A (..., N, N), B (..., N), C (..., N)."""

    A: Tensor
    B: Tensor
    C: Tensor


def real_form(A: Tensor, P: Tensor, B: Tensor, C: Tensor) -> RealForm:
    """Write a half-stored diagonal-plus-low-rank system over real numbers.

        r = [√2 Re x, √2 Im x]
        A_r = [[Re Λ, -Im Λ], [Im Λ, Re Λ]] - Σ_j p_j p_jᵀ,   p_j = [√2 Re P_j, √2 Im P_j]
        B_r = [√2 Re B, √2 Im B],   C_r = [√2 Re C, -√2 Im C],   C_r r = 2 Re(C x)

    The change of basis is unitary on the full state: norms are kept, and A_r has a negative semidefinite symmetric
    part whenever Re Λ <= 0. B and C are converted each by itself, so either may carry more leading axes than A
    (channels, for example). Gradients flow through all four; the type of the result is the real type of the input.

    Args:
        A: Diagonal Λ (..., N/2), complex.
        P: Low-rank vectors (rank, ..., N/2), complex; rank 0 for a diagonal system.
        B: Input vector (..., N/2), complex.
        C: Output vector (..., N/2), complex.

    Returns:
        A (..., N, N), B (..., N), C (..., N), real.

    Source:
        The real form of Gu, Goel, Ré 2021 (arXiv 2111.00396) with conjugate pairs joined.

    Example:
        >>> A, P, B = (torch.randn(3, 4, dtype=torch.complex128) for _ in range(3))
        >>> C = torch.randn(3, 4, dtype=torch.complex128)
        >>> system = real_form(A, P[None], B, C)
        >>> torch.allclose((system.C * system.B).sum(-1), 2 * (C * B).sum(-1).real)
        True
    """
    p = real_vector(P)
    low_rank = torch.einsum("r...i,r...j->...ij", p, p)
    return RealForm(rotations(A) - low_rank, real_vector(B), real_vector(C.conj_physical()))


def real_vector(x: Tensor) -> Tensor:
    """A half-stored complex vector in real orthonormal coordinates: [√2 Re x, √2 Im x].

    States, B and P are converted so; C is a row vector and is conjugated first: `real_vector(C.conj())`.

    Args:
        x: Complex (..., N/2).

    Returns:
        Real (..., N), with the 2-norm of the full complex vector [x, conj x].

    Example:
        >>> real_vector(torch.tensor([1 + 2j]))
        tensor([1.4142, 2.8284])
    """
    return math.sqrt(2) * torch.cat([x.real, x.imag], dim=-1)


def rotations(a: Tensor) -> Tensor:
    """[[Re a, -Im a], [Im a, Re a]] (..., N, N): the matrix of multiplication by diag(a), a (..., N/2)."""
    re, im = torch.diag_embed(a.real), torch.diag_embed(a.imag)
    return torch.cat([torch.cat([re, -im], dim=-1), torch.cat([im, re], dim=-1)], dim=-2)
