"""Diagonal initialisations: spectra that do the work of a HiPPO matrix without its low-rank part, and their inputs."""

import math

import torch
from torch import Tensor

from longstate._checks import InputError, check_choice, check_positive
from longstate.theory.nplr import nplr

INITS = ("lin", "inv", "inv2", "quad", "legs", "random", "real")
B_INITS = ("constant", "random", "alternating", "unit_cw", "unit_ccw", "legs")


def diagonal(init: str, d_state: int, *, real_random: bool = False, generator: torch.Generator | None = None) -> Tensor:
    """Initial diagonal state matrix A of S4D.

        lin      λ_n = -1/2 + iπn
        inv      λ_n = -1/2 + i (N/π) (N/(2n+1) - 1)
        inv2     λ_n = -1/2 + i (N/π) (N/(n+1) - 1)
        quad     λ_n = -1/2 + i (2n+1)²/π
        legs     the eigenvalues of the normal part of HiPPO-LegS, in the order of increasing frequency
        random   λ_n = -1/2 + i exp(Normal(0, 1))
        real     λ_n = -(n+1)

    for n = 0 .. N/2-1, or 0 .. N-1 for real. Of every conjugate pair the mode with Im λ >= 0 is given: legs is the
    complex conjugate of `nplr("legs", d_state).A`. With `real_random` the real parts are drawn, each by itself:
    uniformly from [-1, 0), and from [-N, 0) for real.

    Args:
        init: "lin", "inv", "inv2", "quad", "legs", "random" or "real".
        d_state: Size N of the real state; even except for real.
        real_random: Draw the real parts instead of the fixed ones.
        generator: Source of the drawn numbers; the global one if omitted.

    Returns:
        A (N/2,) complex128; for real A (N,) float64.

    Raises:
        InputError: If the name is unknown or the size does not fit.

    Source:
        Gu, Gupta, Goel, Ré 2022 (arXiv 2206.11893); inv2, quad and random after the authors' code.

    Example:
        >>> diagonal("lin", 6)
        tensor([-0.5000+0.0000j, -0.5000+3.1416j, -0.5000+6.2832j],
               dtype=torch.complex128)
    """
    check_choice(init, INITS, name="init")
    check_positive(d_state=d_state)
    if init == "real":
        if real_random:
            return -d_state * _above_zero(d_state, generator)
        return -torch.arange(1, d_state + 1, dtype=torch.float64)
    if d_state % 2:
        raise InputError(
            f"`d_state` is {d_state}, but init {init!r} needs an even size, since its modes come in conjugate pairs; "
            f"use {d_state + 1}, or init 'real'."
        )
    frequency = _frequencies(init, d_state, generator)
    decay = _above_zero(d_state // 2, generator) if real_random else torch.full_like(frequency, 0.5)
    return torch.complex(-decay, frequency)


def diagonal_input(
    b_init: str, d_state: int, *, real: bool = False, generator: torch.Generator | None = None
) -> Tensor:
    """Initial input vector B of a diagonal system.

        constant      1
        random        complex (real: real) normal numbers of unit variance
        alternating   (-1)^n
        unit_cw       e^{-2πin/N}
        unit_ccw      e^{+2πin/N}
        legs          half of the HiPPO-LegS input, which makes the diagonal act like HiPPO-LegS as N grows

    for n = 0 .. N/2-1, or 0 .. N-1 for real systems. legs belongs to the modes of `diagonal("legs", d_state)`.

    Args:
        b_init: "constant", "random", "alternating", "unit_cw", "unit_ccw" or "legs".
        d_state: Size N of the real state; even except for real systems.
        real: Whether the system is real, as that of init "real".
        generator: Source of the numbers of random; the global one if omitted.

    Returns:
        B (N/2,) complex128, or (N,) float64.

    Raises:
        InputError: If the name is unknown, the size does not fit, or a real system is to have complex numbers.

    Source:
        As `diagonal`; the factor 1/2 of legs: theorem 3 of arXiv 2206.11893.

    Example:
        >>> diagonal_input("alternating", 8).real
        tensor([ 1., -1.,  1., -1.], dtype=torch.float64)
    """
    check_choice(b_init, B_INITS, name="b_init")
    check_positive(d_state=d_state)
    if real and b_init in ("unit_cw", "unit_ccw", "legs"):
        raise InputError(
            f"`b_init` is {b_init!r} with a real system, but its numbers are complex; "
            "use 'constant', 'random' or 'alternating', or another init."
        )
    if not real and d_state % 2:
        raise InputError(f"`d_state` is {d_state}, but modes come in conjugate pairs; use {d_state + 1}.")
    if b_init == "legs":
        return 0.5 * nplr("legs", d_state).B.conj_physical()
    size, dtype = (d_state, torch.float64) if real else (d_state // 2, torch.complex128)
    if b_init == "random":
        return torch.randn(size, dtype=dtype, generator=generator)
    n = torch.arange(size, dtype=torch.float64)
    if b_init == "alternating":
        return (1 - 2 * (n % 2)).to(dtype)
    if b_init == "constant":
        return torch.ones(size, dtype=dtype)
    angle = 2 * math.pi / d_state * n
    return torch.polar(torch.ones_like(n), -angle if b_init == "unit_cw" else angle)


def _above_zero(size: int, generator: torch.Generator | None) -> Tensor:
    """Uniform numbers of (0, 1]: a decay of 0 has no logarithm."""
    return 1 - torch.rand(size, dtype=torch.float64, generator=generator)


def _frequencies(init: str, d_state: int, generator: torch.Generator | None) -> Tensor:
    """The imaginary parts (N/2,) of a complex initialisation."""
    n = torch.arange(d_state // 2, dtype=torch.float64)
    if init == "lin":
        return math.pi * n
    if init == "inv":
        return d_state / math.pi * (d_state / (2 * n + 1) - 1)
    if init == "inv2":
        return d_state / math.pi * (d_state / (n + 1) - 1)
    if init == "quad":
        return (2 * n + 1) ** 2 / math.pi
    if init == "legs":
        return -nplr("legs", d_state).A.imag
    return torch.randn(d_state // 2, dtype=torch.float64, generator=generator).exp()
