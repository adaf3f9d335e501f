"""The complex exponential in real arithmetic."""

import torch
from torch import Tensor


def exponential(z: Tensor) -> tuple[Tensor, Tensor]:
    """e^z and e^z - 1, the second without cancellation near zero.

        e^z - 1 = (m - 2 s^2 e^x) + 2 i e^x s c,    z = x + i y,  m = expm1(x),  s = sin(y / 2),  c = cos(y / 2)

    Built from real functions, which a CPU evaluates in vectors: torch's complex exponentials take ten times as long.

    Args:
        z: Real or complex, any shape.

    Returns:
        Two tensors of the type and shape of z.

    Example:
        >>> import torch
        >>> from longstate.theory import exponential
        >>> exponential(torch.tensor([0j, 1e-9j], dtype=torch.complex128))[1].imag
        tensor([0.0000e+00, 1.0000e-09], dtype=torch.float64)
    """
    if not z.is_complex():
        return torch.exp(z), torch.expm1(z)
    grown = torch.expm1(z.real)
    size = torch.exp(z.real)
    half = z.imag / 2
    sine = torch.sin(half)
    turned, imag = 2 * size * sine.square(), 2 * size * sine * torch.cos(half)
    return torch.complex(size - turned, imag), torch.complex(grown - turned, imag)
