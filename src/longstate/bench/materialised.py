"""S4D and S4 as the published code runs on a CPU: the whole Vandermonde or Cauchy matrix in memory, then an FFT.

Written from the papers and the authors' `s4d.py` and `cauchy_naive`, in float32, to have something to compare with that
is not ours and needs no CUDA extension. Where ours takes O(H N sqrt(L)), these take O(H N L), in both passes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longstate import ops, theory
from longstate.layers import S4, S4D


def vandermonde_kernel(A: Tensor, B: Tensor, C: Tensor, dt: Tensor, length: int) -> Tensor:
    """Kernel (H, length) of a diagonal system under zero-order hold.

        K_l = 2 Re sum_n C_n B_n (e^{dt A_n} - 1) / A_n  e^{l dt A_n}

    Args:
        A: Modes (H, N/2), complex.
        B: Input (H, N/2), complex.
        C: Output (H, N/2), complex.
        dt: Steps (H,).
        length: Number of taps.

    Source:
        Gu et al., arXiv 2206.11893, equation 5 and listing 1.
    """
    z = dt[:, None] * A
    powers = torch.exp(z[..., None] * torch.arange(length, device=A.device))
    return 2 * torch.einsum("hn,hnl->hl", C * B * (torch.exp(z) - 1) / A, powers).real


def fft_convolution(u: Tensor, K: Tensor) -> Tensor:
    """U (batch, H, length) through the kernels K (H, length), left to autograd."""
    n = 2 * u.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(u, n=n) * torch.fft.rfft(K, n=n), n=n)[..., : u.shape[-1]]


class _Materialised(nn.Module):
    """Kernel, convolution, skip, GELU and gated map, channels first inside as in the authors' code."""

    def __init__(self, like: S4 | S4D) -> None:
        super().__init__()
        self.log_dt = nn.Parameter(like.log_dt.detach().clone())
        self.D = nn.Parameter(like.D.detach()[0].clone())
        weight, bias = (part.detach().clone() for part in like.output.parameters())
        self.weight, self.bias = nn.Parameter(weight[..., None]), nn.Parameter(bias)

    def kernel(self, length: int) -> Tensor:
        """Impulse responses (H, length)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, H) to the same."""
        u = x.mT
        y = fft_convolution(u, self.kernel(x.shape[1])) + u * self.D[:, None]
        return F.glu(F.conv1d(F.gelu(y), self.weight, self.bias), dim=1).mT


class MaterialisedS4D(_Materialised):
    """S4D with its Vandermonde matrix (H, N/2, length) in memory, from the numbers of a layer of ours.

    Args:
        like: A layer with rule "zoh", one channel and free modes; its parameters are copied.

    Example:
        >>> import torch
        >>> from longstate import S4D
        >>> from longstate.bench.materialised import MaterialisedS4D
        >>> layer, x = S4D(4, 8), torch.randn(1, 50, 4)
        >>> torch.allclose(MaterialisedS4D(layer)(x), layer(x), atol=1e-5)
        True
    """

    def __init__(self, like: S4D) -> None:
        super().__init__(like)
        A, B, C, _ = like._continuous()
        parts = (A.real.neg().log(), A.imag, torch.view_as_real(B), torch.view_as_real(C[0] / 2))
        self.A_real, self.A_imag, self.B, self.C = (nn.Parameter(part.detach().float().clone()) for part in parts)

    def kernel(self, length: int) -> Tensor:
        """By `vandermonde_kernel`."""
        A = torch.complex(-self.A_real.exp(), self.A_imag)
        B, C = torch.view_as_complex(self.B), torch.view_as_complex(self.C)
        return vandermonde_kernel(A, B, C, self.log_dt.exp(), length)


class MaterialisedS4(_Materialised):
    """S4 with its Cauchy matrix (2, 2, H, N/2, length/2) and that of the conjugates in memory, for one length.

    The published code keeps C~ = C (I - A^L) as its parameter, and so does this.

    Args:
        like: A layer with rule "bilinear", one channel, one row of P and free modes; its parameters are copied.
        length: L.

    Example:
        >>> import torch
        >>> from longstate import S4
        >>> from longstate.bench.materialised import MaterialisedS4
        >>> layer, x = S4(4, 8), torch.randn(1, 50, 4)
        >>> torch.allclose(MaterialisedS4(layer, 50)(x), layer(x), atol=1e-4)
        True
    """

    def __init__(self, like: S4, length: int) -> None:
        super().__init__(like)
        A = torch.complex(-like.A_real.detach().double().exp(), like.A_imag.detach().double())
        P, B = (torch.view_as_complex(part.detach().double().contiguous()) for part in (like.P, like.B))
        re, im = theory.truncate_output(like.system().C.detach(), like.system().A.detach(), length).chunk(2, dim=-1)
        C = torch.complex(re, -im) / 2**0.5
        parts = (A.real.neg().log(), A.imag, *(torch.view_as_real(part.contiguous()) for part in (P, B, C)))
        self.A_real, self.A_imag, self.P, self.B, self.C = (nn.Parameter(part.float().clone()) for part in parts)

    def kernel(self, length: int) -> Tensor:
        """By `ops.cauchy_kernel`, the published algorithm."""
        A = torch.complex(-self.A_real.exp(), self.A_imag)
        P, B, C = (torch.view_as_complex(part) for part in (self.P, self.B, self.C))
        return ops.cauchy_kernel(A, P, B, C, self.log_dt.exp(), length)[0]
