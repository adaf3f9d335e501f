"""Systems for many heads: one initialisation for all of them, or several that share them evenly."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from longstate._checks import InputError, check_choice, check_positive
from longstate.theory.diagonal import INITS, diagonal, diagonal_input
from longstate.theory.nplr import NPLR_MEASURES, nplr

MIXTURES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"hippo": ("legs", "fourier"), "diag": ("inv", "lin"), "all": ("legs", "fourier", "inv", "lin")}
)
"""Which initialisations share the heads, in their order: the first has the first heads."""

DIAGONAL_INITS = (*INITS, "diag")
DPLR_INITS = (*NPLR_MEASURES, *MIXTURES)


class DiagonalHeads(NamedTuple):
    """Diagonal systems of all heads: A and B (heads, N/2) complex128, or (heads, N) float64 for real ones."""

    A: Tensor
    B: Tensor


class DPLRHeads(NamedTuple):
    """Diagonal-plus-low-rank systems of all heads: A (heads, N/2), P (rank, heads, N/2), B (heads, N/2), complex128."""

    A: Tensor
    P: Tensor
    B: Tensor


def diagonal_heads(
    init: str,
    heads: int,
    d_state: int,
    *,
    b_init: str | None = None,
    real_random: bool = False,
    generator: torch.Generator | None = None,
) -> DiagonalHeads:
    """Initial A and B of S4D for every head; numbers that are random are drawn for each.

    Args:
        init: A name of `diagonal`, or "diag": inv for the first half of the heads, lin for the second.
        heads: How many systems.
        d_state: Size N of the real state of each.
        b_init: A name of `diagonal_input`; if None, "legs" for init "legs" and "constant" for the others.
        real_random: Draw the real parts of A.
        generator: Source of the drawn numbers; the global one if omitted.

    Returns:
        A and B (heads, N/2), or (heads, N) for real systems.

    Raises:
        InputError: If a name is unknown, a size does not fit, or heads cannot be shared evenly.

    Source:
        Gu, Gupta, Goel, Ré 2022 (arXiv 2206.11893).

    Example:
        >>> diagonal_heads("diag", 4, 8).A.imag
        tensor([[17.8254,  4.2441,  1.5279,  0.3638],
                [17.8254,  4.2441,  1.5279,  0.3638],
                [ 0.0000,  3.1416,  6.2832,  9.4248],
                [ 0.0000,  3.1416,  6.2832,  9.4248]], dtype=torch.float64)
    """
    check_choice(init, DIAGONAL_INITS, name="init")
    chosen = "constant" if b_init is None else b_init
    if init == "legs" and b_init is None:
        chosen = "legs"
    if chosen == "legs" and init != "legs":
        raise InputError(f"`b_init` is 'legs' with init {init!r}, but only init 'legs' has its modes; choose another.")
    drawn = real_random or "random" in (init, chosen)
    A, B = [], []
    for name, count in _shares(init, heads):
        for _ in range(count if drawn else 1):
            repeats = 1 if drawn else count
            A += [diagonal(name, d_state, real_random=real_random, generator=generator)] * repeats
            B += [diagonal_input(chosen, d_state, real=name == "real", generator=generator)] * repeats
    return DiagonalHeads(torch.stack(A), torch.stack(B))


def dplr_heads(init: str, heads: int, d_state: int, *, b_clip: float | None = None) -> DPLRHeads:
    """Initial A, P and B of S4 for every head.

    Members of a mixture with fewer vectors P than others have zeros in their place, and gradients leave them at zero:
    the derivative of P P* vanishes there. Modes have Im λ <= 0, as in `nplr`.

    Args:
        init: A measure of `NPLR_MEASURES`; or a mixture: "hippo" (legs, fourier), "diag" (the diagonal inv and lin) or
            "all" (these four).
        heads: How many systems.
        d_state: Size N of the real state of each, even.
        b_clip: Largest modulus of an entry of B of a measure, as in `nplr`.

    Returns:
        A (heads, N/2), P (rank, heads, N/2) and B (heads, N/2).

    Raises:
        InputError: If a name is unknown, a size does not fit, or heads cannot be shared evenly.

    Source:
        Gu et al. 2022 (arXiv 2206.12037) for the mixture hippo; the others as in the authors' code.

    Example:
        >>> A, P, B = dplr_heads("all", 4, 8)
        >>> P.abs().sum((0, 2)) > 0
        tensor([ True,  True, False, False])
    """
    check_choice(init, DPLR_INITS, name="init")
    systems = []
    for name, count in _shares(init, heads):
        if name in NPLR_MEASURES:
            A, P, B, _ = nplr(name, d_state, b_clip=b_clip)
        else:
            A, B = diagonal(name, d_state).conj_physical(), diagonal_input("constant", d_state)
            P = B.new_zeros(0, len(B))
        systems += [(A, P, B)] * count
    rank = max(len(P) for _, P, _ in systems)
    padded = [torch.cat([P, P.new_zeros(rank - len(P), P.shape[1])]) for _, P, _ in systems]
    A, B = torch.stack([A for A, _, _ in systems]), torch.stack([B for _, _, B in systems])
    return DPLRHeads(A, torch.stack(padded, dim=1), B)


def _shares(init: str, heads: int) -> list[tuple[str, int]]:
    """Each initialisation and how many heads it has."""
    check_positive(heads=heads)
    members = MIXTURES.get(init, (init,))
    if heads % len(members):
        raise InputError(
            f"init {init!r} shares the heads among {', '.join(members)}, but {heads} is no multiple of {len(members)}; "
            f"use {heads + -heads % len(members)} heads (features, or `n_ssm` if it is given), or one of its members."
        )
    return [(name, heads // len(members)) for name in members]
