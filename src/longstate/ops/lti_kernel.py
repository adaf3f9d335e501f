"""The convolution kernel of a linear time-invariant system, as one matrix product a feature."""

import math

import torch
from torch import Tensor

from longstate._checks import check_positive
from longstate.ops import _dispatch
from longstate.ops.lti_system import LTISystem, as_real, check_system, columns, powers, rows, working_dtype


def lti_kernel(system: LTISystem, length: int, *, dtype: torch.dtype = torch.float32, backend: str = "auto") -> Tensor:
    """Impulse response of a discrete system, without its skip D.

        K_l = Re(C A^l B),   l = 0 .. length-1

    With l = m T + t and T near sqrt(length), K is the product of the rows C A^{mT} with the columns A^t B: time-domain,
    independent of any training length, and as fast as the machine multiplies matrices. Powers are squared in the
    system's own precision (float64), rows and columns are cast to `dtype`.

    Args:
        system: H systems, diagonal or dense.
        length: Number of taps.
        dtype: Real type of the result.
        backend: "torch", "reference" (a plain loop), or "auto".

    Returns:
        Kernel (channels, H, length).

    Raises:
        InputError: If shapes do not belong together, `length` is not positive or the backend cannot run this call.

    Source:
        The factorised form is longstate's own; it equals Gu et al. 2022 (S4D, arXiv 2206.11893), eq. 3 and 5, and the
        S4 kernel (arXiv 2111.00396), eq. 5, which is usually computed through the Cauchy form (`cauchy_kernel`).

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> system = ops.LTISystem(A=0.5 * one, B=one, C=one[None], D=one)
        >>> ops.lti_kernel(system, 4)
        tensor([[[1.0000, 0.5000, 0.2500, 0.1250]]])
    """
    check_system(system)
    check_positive(length=length)
    return _dispatch.run("lti_kernel", backend, system.A.device, system, length, dtype)


def lti_kernel_reference(system: LTISystem, length: int, dtype: torch.dtype) -> Tensor:
    """The equation as a loop, in the precision of the system."""
    x = system.B
    taps = []
    for _ in range(length):
        taps.append((system.C * x).sum(-1))
        x = torch.einsum("hij,hj->hi", system.A, x) if system.is_dense else system.A * x
    K = torch.stack(taps, dim=-1)
    return (K.real if K.is_complex() else K).to(dtype)


def split_length(length: int) -> tuple[int, int]:
    """(M, T) with M T >= length and T the power of two near sqrt(length)."""
    T = 2 ** round(math.log2(length) / 2)
    return -(-length // T), T


def _lti_kernel_torch(system: LTISystem, length: int, dtype: torch.dtype) -> Tensor:
    M, T = split_length(length)
    squares = powers(system.A, (T - 1).bit_length() + max((M - 1).bit_length(), 1))
    return kernel_product(system, squares, system.B, M, T, dtype)[..., :length]


def kernel_product(system: LTISystem, squares: list[Tensor], x: Tensor, M: int, T: int, dtype: torch.dtype) -> Tensor:
    """`Re(C A^l x)` for l = 0 .. M T - 1 and vectors x (H, N) or (batch, H, N): (..., channels, H, M T)."""
    # Dense columns are cast first: only the squarings need float64, and the products are the cost.
    factor_dtype = working_dtype(system.B, dtype) if system.is_dense else system.B.dtype
    skip = (T - 1).bit_length()
    cols = columns(squares[:skip], x.to(factor_dtype), T).unsqueeze(-4)
    C_rows = rows(squares[skip:], system.C.to(factor_dtype), M)
    product = as_real(C_rows.conj_physical()).to(dtype) @ as_real(cols).to(dtype).mT
    return product.flatten(-2)


_dispatch.register(
    "lti_kernel",
    _dispatch.Backend("torch", _lti_kernel_torch, _dispatch.always),
    _dispatch.Backend("reference", lti_kernel_reference, _dispatch.always),
)
