"""Normal plus low rank: the HiPPO matrices in the basis of their normal part."""

from typing import NamedTuple

import torch
from torch import Tensor

from longstate._checks import InputError, check_choice, check_positive
from longstate.theory.hippo import hippo
from longstate.theory.measures import MEASURE_FACTS, MEASURES, parameters

NPLR_MEASURES = tuple(name for name in MEASURES if MEASURE_FACTS[name].rank is not None)
_HALF = ("legs", "legsd", "fourier_diag")
_DOUBLE_ZERO = ("fourier", "fourier_decay", "fourier2", "fourier_diag")


class NPLR(NamedTuple):
    """A HiPPO system in its half-stored normal basis: A (N/2,), P (rank, N/2), B (N/2,), V (N, N/2), complex128."""

    A: Tensor
    P: Tensor
    B: Tensor
    V: Tensor


def nplr(measure: str, d_state: int, *, beta: float | None = None, b_clip: float | None = None) -> NPLR:
    """Split a HiPPO matrix into a normal part and a low-rank part, and diagonalise the normal part.

        A_hippo + Σ_j P_j P_jᵀ = W diag(Λ, conj Λ) W*,   W = [V, conj V] unitary
        A_hippo = 2 Re(V diag(Λ) V*) - Σ_j (2 Re V P_j)(2 Re V P_j)ᵀ,   B_hippo = 2 Re(V B)

    One mode of each conjugate pair is kept, the one with Im Λ <= 0; `real_form` and outputs 2 Re(C x) bring back the
    other. Re Λ is exactly

        -1/2 for legs, legsd, fourier_diag;  -β/2 for tlagt, glagt;  0 for legt, lagt, fourier, fourier_decay, fourier2

    The rank is 2 for legt, 0 for legsd and fourier_diag (P is empty), and 1 otherwise. lmu has no such form in its own
    units, and glagt only with α = 0.

    Rules that make the answer unique, so that no result depends on a linear algebra library:

    * Modes stand in the order of increasing frequency |Im Λ|.
    * The free phase of column V_n is such that B_n = V_n* B_hippo is real and positive. It is never zero: the input
      drives every mode of these systems (the smallest B_n falls like ‖B‖/N).
    * The zero frequency of the Fourier measures is one double eigenvalue; its vector is (1, i, 0, ..., 0)/√2.

    **About `b_clip`.** The official S4 code clamps Im(V* B) to [-2, 2] without saying so. At N = 64 this
    changes 11 of the 32 entries of legs and ‖B‖ falls from 64 to 12; which entries are hit depends on the phases that
    the eigenvector routine happened to choose. So the S4-LegS of that code is not the HiPPO system of the paper, and
    ports differ from it. Here nothing is clipped unless it is asked for, and then by a rule free of phases: no |B_n|
    is above `b_clip`. (At N = 64, b_clip=2 cuts the same 11 entries to the same ‖B‖, since the largest entries happen
    to be nearly imaginary there.) Compare kernels, never the vectors P and B of two implementations.

    Args:
        measure: One of `NPLR_MEASURES`: those of `hippo` but for lmu; legt is halved there.
        d_state: Size N of the real state, even.
        beta: Of the Laguerre measures, as in `hippo`.
        b_clip: Largest modulus of an entry of B; None keeps the B of the paper.

    Returns:
        A (N/2,), P (rank, N/2), B (N/2,), V (N, N/2), all complex128.

    Raises:
        InputError: If the measure is unknown, the size is odd or `b_clip` is not positive.

    Source:
        Gu, Goel, Ré 2021 (arXiv 2111.00396), appendix C.1.

    Example:
        >>> A, P, B, V = nplr("legs", 4)
        >>> A.real
        tensor([-0.5000, -0.5000], dtype=torch.float64)
        >>> 2 * (V @ B).real  # the B of hippo: √1, √3, √5, √7
        tensor([1.0000, 1.7321, 2.2361, 2.6458], dtype=torch.float64)
    """
    check_choice(measure, NPLR_MEASURES, name="measure")
    check_positive(d_state=d_state)
    if d_state % 2:
        raise InputError(
            f"`d_state` is {d_state}, but an even size is needed, since modes come in conjugate pairs; "
            f"use {d_state + 1}."
        )
    if b_clip is not None and not b_clip > 0:
        raise InputError(f"`b_clip` is {b_clip}, but a positive number is needed; pass None to clip nothing.")
    A, B = hippo(measure, d_state, beta=beta)
    measure, _, beta = parameters(measure, None, beta)
    P = _low_rank(measure, d_state)
    real_part = -0.5 if measure in _HALF else -0.5 * beta if measure in ("tlagt", "glagt") else 0.0
    normal = A + P.T @ P
    skew = 0.5 * (normal - normal.T)
    frequency, V = torch.linalg.eigh(-1j * skew)
    # Ascending order puts the negative half first; its last entry is the slowest mode.
    half = d_state // 2
    frequency, V = frequency[:half].flip(0), V[:, :half].flip(1)
    if measure in _DOUBLE_ZERO:
        frequency[0] = 0.0
        V[:, 0] = 0.0
        V[0, 0], V[1, 0] = 0.5**0.5, 1j * 0.5**0.5
    projection = V.mH @ B.to(V.dtype)
    V = V * torch.sgn(projection)
    modulus = projection.abs() if b_clip is None else projection.abs().clamp(max=b_clip)
    A_modes = torch.complex(torch.full_like(frequency, real_part), frequency)
    return NPLR(A_modes, P.to(V.dtype) @ V.conj(), modulus.to(V.dtype), V)


def _low_rank(measure: str, d_state: int) -> Tensor:
    """The real vectors P (rank, N) for which A + Σ P Pᵀ is normal."""
    n = torch.arange(d_state, dtype=torch.float64)
    if measure == "legs":
        return torch.sqrt(n + 0.5)[None]
    if measure == "legt":
        p = torch.sqrt(n + 0.5)
        return torch.stack([p * (n % 2), p * (1 - n % 2)])
    if measure in ("lagt", "tlagt", "glagt"):
        return torch.full_like(n, 0.5).sqrt()[None]
    if measure in ("fourier", "fourier_decay", "fourier2"):
        b = hippo("fourier", d_state).B[None]
        return b * {"fourier": 1.0, "fourier_decay": 0.5**0.5, "fourier2": 2**0.5}[measure]
    return n.new_zeros(0, d_state)
