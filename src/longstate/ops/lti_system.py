"""A discrete linear time-invariant system, and the powers of its state matrix by repeated squaring."""

from typing import NamedTuple

import torch
from torch import Tensor

from longstate._checks import InputError


class LTISystem(NamedTuple):
    """Discrete systems, one for each of H features, each with one input and `channels` outputs.

        x_t = A x_{t-1} + B u_t,        y_t = Re(C x_t) + D u_t

    Attributes:
        A: State matrix: diagonals (H, N), real or complex, or dense real matrices (H, N, N). Spectral norm at most 1
            (or |A| <= 1), so that squaring never amplifies a rounding error.
        B: Input (H, N).
        C: Output (channels, H, N). Where conjugate modes are left out, their factor 2 is in C.
        D: Skip (channels, H), real.

    Build it in float64 or complex128 from parameters cast first; the operators cast at each use.
    """

    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor

    @property
    def is_dense(self) -> bool:
        """Whether A holds matrices rather than diagonals."""
        return self.A.dim() == 3

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one row's state in real numbers: (H, N), or (H, N, 2) with re, im last for complex systems."""
        shape = tuple(self.B.shape)
        return (*shape, 2) if self.B.is_complex() else shape


class LowRankSystem(NamedTuple):
    """Discrete dense systems whose matrix is a diagonal and a few terms of rank one, not written out.

        matrix = rotations(A) + sum_k left_k right_k^T

    with one complex number of A for two of the N real states, which are [re of all, im of all]. `lti_conv` finds the
    powers of such a matrix from those of its terms.

    Attributes:
        A: Diagonal (H, N/2), complex.
        left: Columns of the rank-one terms (rank, H, N), real.
        right: Their rows (rank, H, N).
        B: Input (H, N), real.
        C: Output (channels, H, N), real.
        D: Skip (channels, H).
    """

    A: Tensor
    left: Tensor
    right: Tensor
    B: Tensor
    C: Tensor
    D: Tensor

    @property
    def is_dense(self) -> bool:
        """Always: whatever the rank, its powers are matrices."""
        return True

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one row's state: (H, N)."""
        return tuple(self.B.shape)

    def dense(self) -> LTISystem:
        """The same systems with their matrices written out."""
        re, im = torch.diag_embed(self.A.real), torch.diag_embed(self.A.imag)
        A = torch.cat([torch.cat([re, -im], dim=-1), torch.cat([im, re], dim=-1)], dim=-2)
        A = A + torch.einsum("khi,khj->hij", self.left, self.right)
        return LTISystem(A, self.B, self.C, self.D)


def check_system(system: LTISystem | LowRankSystem) -> None:
    """Raise unless the shapes of A, B, C, D belong together."""
    if isinstance(system, LowRankSystem):
        _check_low_rank(system)
        return
    A, B, C, D = system
    features, d_state = B.shape if B.dim() == 2 else (-1, -1)
    fits = (
        A.shape in ((features, d_state), (features, d_state, d_state))
        and C.shape[1:] == B.shape
        and C.dim() == 3
        and D.shape == C.shape[:2]
    )
    if not fits:
        raise InputError(
            f"the system has A {tuple(A.shape)}, B {tuple(B.shape)}, C {tuple(C.shape)}, D {tuple(D.shape)}, but "
            "(H, N) or (H, N, N), (H, N), (channels, H, N), (channels, H) are needed; check which axis is H."
        )


def _check_low_rank(system: LowRankSystem) -> None:
    A, left, right, B, C, D = system
    features, d_state = B.shape if B.dim() == 2 else (-1, -1)
    fits = (
        A.is_complex()
        and A.shape == (features, d_state // 2)
        and d_state % 2 == 0
        and left.dim() == 3
        and left.shape == right.shape
        and left.shape[1:] == B.shape
        and C.shape[1:] == B.shape
        and C.dim() == 3
        and D.shape == C.shape[:2]
    )
    if not fits:
        raise InputError(
            f"the system has A {tuple(A.shape)}, left {tuple(left.shape)}, right {tuple(right.shape)}, "
            f"B {tuple(B.shape)}, C {tuple(C.shape)}, D {tuple(D.shape)}, but complex (H, N/2), (rank, H, N), "
            "(rank, H, N), (H, N), (channels, H, N), (channels, H) are needed; check which axis is H."
        )


def powers(A: Tensor, count: int) -> list[Tensor]:
    """`A, A^2, A^4, ...`: `count` matrices (or diagonals), each the square of the one before, in the dtype of A."""
    result = [A]
    while len(result) < count:
        last = result[-1]
        result.append(last @ last if A.dim() == 3 else last * last)
    return result


def apply(power: Tensor, x: Tensor) -> Tensor:
    """`power x` for state vectors x (..., H, count, N)."""
    power = power.to(x.dtype)
    if power.dim() == 3:
        return torch.einsum("hij,...hcj->...hci", power, x)
    return x * power[..., None, :]


def columns(squares: list[Tensor], x: Tensor, count: int) -> Tensor:
    """`A^t x` for t = 0 .. count-1, by doubling.

    Args:
        squares: A, A^2, A^4, ... from `powers`.
        x: State vectors (..., H, N).
        count: How many columns.

    Returns:
        Tensor (..., H, count, N).
    """
    x = x.unsqueeze(-2)
    for power in squares:
        if x.shape[-2] >= count:
            break
        x = torch.cat([x, apply(power, x[..., : count - x.shape[-2], :])], dim=-2)
    return x


def rows(squares: list[Tensor], C: Tensor, count: int) -> Tensor:
    """`C G^m` for m = 0 .. count-1 with G = squares[0], by doubling: (channels, H, count, N)."""
    return columns([power.mT if power.dim() == 3 else power for power in squares], C, count)


def advance(squares: list[Tensor], state: Tensor, steps: int | Tensor) -> Tensor:
    """`A^n state` for states (batch, H, N), n a number or one for each row (batch,)."""
    state = state.unsqueeze(-2)
    for bit, power in enumerate(squares):
        if isinstance(steps, int):
            state = apply(power, state) if steps >> bit & 1 else state
        else:
            chosen = (steps >> bit & 1).bool()[:, None, None, None]
            state = torch.where(chosen, apply(power, state), state)
    return state.squeeze(-2)


def as_real(x: Tensor) -> Tensor:
    """Complex (..., N) as real (..., 2N); real as it is."""
    return torch.view_as_real(x).flatten(-2) if x.is_complex() else x


def working_dtype(like: Tensor, real: torch.dtype) -> torch.dtype:
    """The real type, or the complex type of the same precision if `like` is complex."""
    return torch.promote_types(torch.complex32, real) if like.is_complex() else real
