"""Block-diagonal HiPPO: several small copies of one measure side by side in one state."""

from typing import NamedTuple

import torch
from torch import Tensor

from longstate._checks import InputError, check_positive
from longstate.theory.nplr import nplr


class BlockDiagonal(NamedTuple):
    """The normal part of J HiPPO matrices, half-stored: eigenvalues A (N/2,), eigenvectors V (N, N/2), complex128."""

    A: Tensor
    V: Tensor


def block_diagonal(measure: str, d_state: int, blocks: int = 1) -> BlockDiagonal:
    """Eigenvalues and eigenvectors of the normal part of `blocks` equal HiPPO matrices on the diagonal of one.

        A = (Λ, ..., Λ),    V = diag(V_1, ..., V_1),    V* V = I,    2 Re(V diag(A) V*) = diag(S, ..., S)

    with Λ and V_1 of one block of size N/blocks from `nplr` and S its normal matrix. One mode of each conjugate pair is
    kept, the one with Im A <= 0, and the free phases are those of `nplr`: V_1* B_hippo is real and positive. A system
    with real B and C over the whole state is V* B and C V over the modes, its output 2 Re((C V) x).

    Args:
        measure: "legs", "legt", "lagt" or "fourier".
        d_state: Size N of the whole real state, a multiple of 2 `blocks`.
        blocks: Number J of copies.

    Returns:
        A (N/2,) and V (N, N/2), complex128.

    Raises:
        InputError: If the measure is unknown or the state does not divide into blocks of an even size.

    Source:
        Smith, Warrington, Linderman, arXiv 2208.04933: the initialisation of S5 (`s5/ssm_init.py` of the official
        code, and its option `blocks`).

    Example:
        >>> A, V = block_diagonal("legs", 8, blocks=2)
        >>> A[:2].equal(A[2:]), tuple(V.shape)
        (True, (8, 4))
    """
    check_positive(d_state=d_state, blocks=blocks)
    if d_state % (2 * blocks):
        raise InputError(
            f"`d_state` is {d_state} with blocks={blocks}, but blocks of an even size are needed, since modes come in "
            f"conjugate pairs; choose `d_state` as a multiple of {2 * blocks}."
        )
    form = nplr(measure, d_state // blocks)
    return BlockDiagonal(form.A.repeat(blocks), torch.block_diag(*[form.V] * blocks))
