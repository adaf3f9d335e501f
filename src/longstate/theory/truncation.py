"""The truncated output vector C̃ that the published S4 stores instead of C."""

import torch
from torch import Tensor

from longstate._checks import InputError, check_positive


def truncate_output(C: Tensor, A_bar: Tensor, length: int) -> Tensor:
    """The output vector whose infinite response is the first `length` taps of that of C.

        C̃ = C (I - Ā^L),   Σ_{l≥0} C̃ Ā^l B̄ ω^l = Σ_{l<L} C Ā^l B̄ ω^l   where ω^L = 1

    Published S4 checkpoints hold C̃ for the length they were trained at; this library holds C. Powers are taken by
    repeated squaring.

    Args:
        C: Output vectors (..., H, N) in the form of `real_form`.
        A_bar: Discrete state matrices (H, N, N) in the same form.
        length: L, at least 1.

    Returns:
        C̃, of the shape of C.

    Raises:
        InputError: If `length` is not a positive integer or the shapes do not fit.

    Source:
        Gu, Goel, Ré 2021 (arXiv 2111.00396), appendix C.3.

    Example:
        >>> C, A_bar = torch.ones(1, 2), 0.5 * torch.eye(2)[None]
        >>> truncate_output(C, A_bar, 3)
        tensor([[0.8750, 0.8750]])
    """
    _check_shapes(C, A_bar, length)
    return C - (C[..., None, :] @ torch.linalg.matrix_power(A_bar, length))[..., 0, :]


def restore_output(C: Tensor, A_bar: Tensor, length: int) -> Tensor:
    """The inverse of `truncate_output`: C = C̃ (I - Ā^L)⁻¹.

    Args:
        C: Truncated output vectors C̃ (..., H, N).
        A_bar: Discrete state matrices (H, N, N).
        length: L, at least 1: `l_kernel` in a published checkpoint.

    Returns:
        C, of the shape of C̃.

    Raises:
        InputError: If `length` is not a positive integer, the shapes do not fit, or I - Ā^L cannot be inverted.

    Example:
        >>> C, A_bar = torch.ones(1, 2), 0.5 * torch.eye(2)[None]
        >>> restore_output(truncate_output(C, A_bar, 3), A_bar, 3)
        tensor([[1., 1.]])
    """
    _check_shapes(C, A_bar, length)
    eye = torch.eye(A_bar.shape[-1], dtype=A_bar.dtype, device=A_bar.device)
    matrix = eye - torch.linalg.matrix_power(A_bar, length)
    # Solved transposed, x (I - Ā^L) = C̃, with all vectors of one head as right-hand sides of one factorisation.
    vectors = C.reshape(-1, *C.shape[-2:]).permute(1, 0, 2)
    result, info = torch.linalg.solve_ex(matrix, vectors, left=False)
    if bool((info != 0).any()):
        head = int(info.nonzero()[0])
        raise InputError(
            f"`A_bar` of head {head} has an eigenvalue whose power {length} is 1, but I - A_bar^length must be "
            "invertible; give the damped matrix and the length with which C was truncated."
        )
    return result.permute(1, 0, 2).reshape(C.shape)


def _check_shapes(C: Tensor, A_bar: Tensor, length: int) -> None:
    """Raise unless C (..., H, N), A_bar (H, N, N) and a positive length are given."""
    check_positive(length=length)
    wanted = (*C.shape[-2:], C.shape[-1]) if C.dim() >= 2 else None
    if tuple(A_bar.shape) != wanted:
        raise InputError(
            f"`C` has shape {tuple(C.shape)} and `A_bar` {tuple(A_bar.shape)}, but (..., H, N) and (H, N, N) are "
            "needed; bring both to the form of `real_form`."
        )
