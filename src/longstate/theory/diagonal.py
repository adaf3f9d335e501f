"""Diagonal initialisations: spectra that do the work of a HiPPO matrix without its low-rank part."""

import math

import torch
from torch import Tensor

from longstate._checks import InputError, check_choice, check_positive
from longstate.theory.nplr import nplr

INITS = ("lin", "inv", "legs", "random", "real")


def diagonal(init: str, d_state: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Initial diagonal state matrix A of S4D.

        lin      λ_n = -1/2 + iπn
        inv      λ_n = -1/2 + i (N/π) (N/(2n+1) - 1)
        legs     the eigenvalues of the normal part of HiPPO-LegS, in the order of increasing frequency
        random   λ_n = -1/2 + i exp(Normal(0, 1))
        real     λ_n = -(n+1)

    for n = 0 .. N/2-1, or 0 .. N-1 for real. Of every conjugate pair the mode with Im λ >= 0 is given: legs is the
    complex conjugate of `nplr("legs", d_state).A`.

    Args:
        init: "lin", "inv", "legs", "random" or "real".
        d_state: Size N of the real state; even except for real.
        generator: Source of the numbers of random; the global one if omitted.

    Returns:
        A (N/2,) complex128; for real A (N,) float64.

    Raises:
        InputError: If the name is unknown or the size does not fit.

    Source:
        Gu, Gupta, Goel, Ré 2022 (arXiv 2206.11893).

    Example:
        >>> diagonal("lin", 6)
        tensor([-0.5000+0.0000j, -0.5000+3.1416j, -0.5000+6.2832j],
               dtype=torch.complex128)
    """
    check_choice(init, INITS, name="init")
    check_positive(d_state=d_state)
    if init == "real":
        return -torch.arange(1, d_state + 1, dtype=torch.float64)
    if d_state % 2:
        raise InputError(
            f"`d_state` is {d_state}, but init {init!r} needs an even size, since its modes come in conjugate pairs; "
            f"use {d_state + 1}, or init 'real'."
        )
    frequency = _frequencies(init, d_state, generator)
    return torch.complex(torch.full_like(frequency, -0.5), frequency)


def _frequencies(init: str, d_state: int, generator: torch.Generator | None) -> Tensor:
    """The imaginary parts (N/2,) of a complex initialisation."""
    n = torch.arange(d_state // 2, dtype=torch.float64)
    if init == "lin":
        return math.pi * n
    if init == "inv":
        return d_state / math.pi * (d_state / (2 * n + 1) - 1)
    if init == "legs":
        return -nplr("legs", d_state).A.imag
    return torch.randn(d_state // 2, dtype=torch.float64, generator=generator).exp()
