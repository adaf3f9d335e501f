"""HiPPO measures: the state matrices that make a linear system remember its input."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from longstate._checks import InputError, check_choice, check_positive

MEASURES = ("legs", "legt", "lagt", "fourier", "fout")


class HippoSystem(NamedTuple):
    """The matrices of x'(t) = A x(t) + B u(t): A (N, N) and B (N,), float64."""

    A: Tensor
    B: Tensor


def hippo(measure: str, d_state: int) -> HippoSystem:
    """The HiPPO system of a measure.

        legs       A[n,k] = -r_n r_k (n > k), -(n+1) (n = k), 0 (n < k);           B[n] = r_n
        legt       A[n,k] = -r_n r_k / 2 (n >= k), -(-1)^(n-k) r_n r_k / 2 (n < k); B[n] = r_n / 2
        lagt       A[n,k] = -1 (n > k), -1/2 (n = k), 0 (n < k);                   B[n] = 1
        fourier    A = S - b b^T;                                                  B = b

    with r_n = sqrt(2n+1); b = (1, 0, √2, 0, √2, 0, ...); S antisymmetric with S[2j+1, 2j] = πj.

    legs (in its time-invariant form) and lagt forget exponentially; legt and fourier look back over a window.
    **legt is the halved form** of the S4 code, whose window has length 2: the HiPPO paper's own A and B are twice as
    large and remember a window of length 1. The window of fourier has length 2 too, so that a step dt = 2 / L fits
    either of them to L samples. State 1 of fourier, the sine of frequency 0, is never driven; its eigenvalue is 0.

    Args:
        measure: "legs", "legt", "lagt" or "fourier" ("fout" is the same).
        d_state: Size N of the state; even for fourier.

    Returns:
        A (N, N) and B (N,), float64.

    Raises:
        InputError: If the measure is unknown or the size does not fit.

    Source:
        Gu et al. 2020 (arXiv 2008.07669); Gu et al. 2022 (arXiv 2206.12037).

    Example:
        >>> hippo("legs", 3).A
        tensor([[-1.0000,  0.0000,  0.0000],
                [-1.7321, -2.0000,  0.0000],
                [-2.2361, -3.8730, -3.0000]], dtype=torch.float64)
    """
    check_choice(measure, MEASURES, name="measure")
    check_positive(d_state=d_state)
    if measure == "legs":
        return _legs(d_state)
    if measure == "legt":
        return _legt(d_state)
    if measure == "lagt":
        return _lagt(d_state)
    return _fourier(d_state)


def _legs(d_state: int) -> HippoSystem:
    """Scaled Legendre, time invariant."""
    n = torch.arange(d_state, dtype=torch.float64)
    r = torch.sqrt(2 * n + 1)
    return HippoSystem(torch.tril(torch.outer(-r, r), -1) - torch.diag(n + 1), r)


def _legt(d_state: int) -> HippoSystem:
    """Translated Legendre, halved."""
    n = torch.arange(d_state)
    r = torch.sqrt(2 * n.double() + 1)
    odd_above = (n[:, None] < n) & ((n - n[:, None]) % 2 == 1)
    sign = torch.where(odd_above, 1.0, -1.0).double()
    return HippoSystem(0.5 * sign * torch.outer(r, r), 0.5 * r)


def _lagt(d_state: int) -> HippoSystem:
    """Translated Laguerre, without tilt."""
    ones = torch.ones(d_state, d_state, dtype=torch.float64)
    return HippoSystem(0.5 * torch.eye(d_state, dtype=torch.float64) - torch.tril(ones), ones[0].clone())


def _fourier(d_state: int) -> HippoSystem:
    """Truncated Fourier; states 2j and 2j+1 are the cosine and the sine of frequency πj."""
    if d_state % 2:
        raise InputError(
            f"`d_state` is {d_state}, but the fourier measure needs an even size, a cosine and a sine for each "
            f"frequency; use {d_state + 1}."
        )
    j = torch.arange(d_state // 2)
    S = torch.zeros(d_state, d_state, dtype=torch.float64)
    S[2 * j + 1, 2 * j] = math.pi * j.double()
    b = torch.zeros(d_state, dtype=torch.float64)
    b[0::2] = math.sqrt(2)
    b[0] = 1.0
    return HippoSystem(S - S.T - torch.outer(b, b), b)
