"""What the compiled scan needs of a system: the factors of a chunk of T elements, in float32 with the features last.

    taps_l = C A^l B (+ D at lag 0),    rows_t = C A^{t+1},    columns_t = A^{T-1-t} B,    carry = A^T

They are made in float64: of diagonal and low-rank systems by a kernel with its own gradient, of matrices by torch.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from longstate.ops import _native
from longstate.ops.lti_system import LowRankSystem, LTISystem, columns, powers, rows

_CHUNK, _CHUNK_OF_DENSE = 32, 64
"""Elements of a chunk: a dense system has more to do between chunks."""


class Factors(NamedTuple):
    """Factors of H systems."""

    taps: Tensor  # (channels, T, H)
    rows: Tensor  # (channels, T, N, H); complex systems have N / 2 modes, as pairs re, im
    columns: Tensor  # (T, N, H)
    carry: Tensor  # (N, H), or (N, N, H)
    kind: int


def chunk_of(system: LTISystem | LowRankSystem) -> int:
    """T: how many elements make a chunk."""
    return _CHUNK_OF_DENSE if system.is_dense else _CHUNK


def squares_for_steps(system: LTISystem) -> list[Tensor]:
    """A, A^2, A^4, ... A^T, which carry a state over a part of a chunk."""
    return powers(system.A, chunk_of(system).bit_length())


def factors_of(system: LTISystem | LowRankSystem, squares: list[Tensor] | None = None) -> Factors:
    """The factors of a system. Its `squares_for_steps` are made here, where they are needed and not given."""
    T = chunk_of(system)
    if isinstance(system, LowRankSystem):
        A, *parts = system
        taps, ahead, driven, carry = _forward(_diagonal(A), *(part.double() for part in parts), T, _native.DENSE)
        return Factors(taps, ahead, driven, carry, _native.DENSE)
    if system.is_dense:
        return _factors_of_matrices(system, squares_for_steps(system) if squares is None else squares)
    kind = _native.COMPLEX if system.A.is_complex() else _native.REAL
    none = system.D.new_empty(0, *system.B.shape)
    A, B, C = (_diagonal(part) for part in system[:3])
    taps, ahead, driven, carry = _forward(A, none, none, B, C, system.D.double(), T, kind)
    return Factors(taps, ahead, driven, carry, kind)


def _factors_of_matrices(system: LTISystem, squares: list[Tensor]) -> Factors:
    A, B, C, D = system
    T = chunk_of(system)
    # Vectors in float32, as the torch path has them: only the squarings need float64.
    after = columns(squares[:-1], B.float(), T)
    ahead = rows(squares[:-1], (C.unsqueeze(-2) @ A).squeeze(-2).float(), T).permute(0, 2, 3, 1)
    taps = (C.float().unsqueeze(-2) * after).sum(-1).mT
    # D is one more tap at lag 0.
    taps = torch.cat([taps[:, :1] + D.unsqueeze(1), taps[:, 1:]], dim=1)
    made = taps, ahead, after.flip(-2).permute(1, 2, 0), squares[-1].permute(1, 2, 0)
    taps, ahead, driven, carry = (part.float().contiguous() for part in made)
    return Factors(taps, ahead, driven, carry, _native.DENSE)


def _diagonal(x: Tensor) -> Tensor:
    """Complex (..., N) as float64 pairs (..., N, 2), real ones as they are."""
    return torch.view_as_real(x.to(torch.complex128).resolve_conj()) if x.is_complex() else x.double()


@torch.library.custom_op("longstate::lti_factors", mutates_args=())
def _forward(
    A: Tensor, left: Tensor, right: Tensor, B: Tensor, C: Tensor, D: Tensor, T: int, kind: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """taps, rows, columns and carry."""
    made = _like_forward(A, left, right, B, C, D, T, kind)
    if A.numel() == 0:
        return made
    arguments, _kept = _arguments(A, left, right, B, C, D, T, kind)
    for name, part in zip(("taps", "rows", "columns", "carry"), made, strict=True):
        setattr(arguments, name, part.data_ptr())
    _native.run("longstate_lti_factors", arguments)
    return made


@torch.library.custom_op("longstate::lti_factors_backward", mutates_args=())
def _backward(
    grad_taps: Tensor,
    grad_rows: Tensor,
    grad_columns: Tensor,
    grad_carry: Tensor,
    A: Tensor,
    left: Tensor,
    right: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    T: int,
    kind: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The derivatives by A, left, right, B, C and D."""
    made = _like_backward(grad_taps, grad_rows, grad_columns, grad_carry, A, left, right, B, C, D, T, kind)
    if A.numel() == 0:
        return made
    arguments, _kept = _arguments(A, left, right, B, C, D, T, kind)
    given = [part.contiguous() for part in (grad_taps, grad_rows, grad_columns, grad_carry)]
    for name, part in zip(("taps", "rows", "columns", "carry"), given, strict=True):
        setattr(arguments, f"grad_{name}", part.data_ptr())
    for name, part in zip(("A", "left", "right", "B", "C", "D"), made, strict=True):
        setattr(arguments, f"grad_{name}", part.data_ptr())
    _native.run("longstate_lti_factors_backward", arguments)
    return made


@_forward.register_fake
def _like_forward(
    A: Tensor, left: Tensor, right: Tensor, B: Tensor, C: Tensor, D: Tensor, T: int, kind: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    channels, H = D.shape
    N = _states(B, kind)
    carry = (N, N, H) if kind == _native.DENSE else (N, H)
    shapes = (channels, T, H), (channels, T, N, H), (T, N, H), carry
    taps, ahead, driven, carry = (D.new_empty(shape, dtype=torch.float32) for shape in shapes)
    return taps, ahead, driven, carry


@_backward.register_fake
def _like_backward(
    grad_taps: Tensor,
    grad_rows: Tensor,
    grad_columns: Tensor,
    grad_carry: Tensor,
    A: Tensor,
    left: Tensor,
    right: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    T: int,
    kind: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    like = [part.new_empty(part.shape) for part in (A, left, right, B, C, D)]
    return like[0], like[1], like[2], like[3], like[4], like[5]


def _save(ctx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    *parts, ctx.chunk, ctx.kind = inputs
    ctx.save_for_backward(*parts)
    ctx.set_materialize_grads(True)


def _derivatives(ctx, *grads: Tensor) -> tuple:
    return *_backward(*grads, *ctx.saved_tensors, ctx.chunk, ctx.kind), None, None


_forward.register_autograd(_derivatives, setup_context=_save)


def _states(B: Tensor, kind: int) -> int:
    return 2 * B.shape[1] if kind == _native.COMPLEX else B.shape[1]


def _arguments(
    A: Tensor, left: Tensor, right: Tensor, B: Tensor, C: Tensor, D: Tensor, T: int, kind: int
) -> tuple[_native.LTIFactors, list[Tensor]]:
    """The kernel's arguments, and the tensors whose memory they name: these have to live as long."""
    flat = [part.contiguous() for part in (A, left, right, B, C, D)]
    channels, H = D.shape
    sizes = H, channels, _states(B, kind), T, left.shape[0]
    return _native.LTIFactors(*sizes, kind, *(_native.pointer(part) for part in flat)), flat
