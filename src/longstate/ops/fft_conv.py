"""Causal convolution through the FFT."""

import torch
from torch import Tensor
from torch.nn import functional as F

from longstate._checks import InputError
from longstate.ops import _dispatch


def fft_conv(u: Tensor, K: Tensor, *, backend: str = "auto") -> Tensor:
    """Causal convolution of every feature with its kernels.

        y_t = sum_{l <= t} K_l u_{t-l}

    Args:
        u: Input (batch, length, H). Padding must be zero already: an FFT spreads it over every step.
        K: Kernels (channels, H, taps), any number of taps.
        backend: "torch" (FFT of the next size with small factors), "reference" (a plain sum), or "auto".

    Returns:
        Outputs (batch, length, channels, H), in the type of `u`; computed in float32 at least.

    Raises:
        InputError: If the feature axes differ.

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> u = torch.tensor([1.0, 0.0, 2.0]).reshape(1, 3, 1)
        >>> ops.fft_conv(u, torch.tensor([[[1.0, 10.0]]]), backend="reference").flatten()
        tensor([ 1., 10.,  2.])
    """
    if u.dim() != 3 or K.dim() != 3 or u.shape[-1] != K.shape[1]:
        raise InputError(
            f"`u` has shape {tuple(u.shape)} and `K` {tuple(K.shape)}, but (batch, length, H) and (channels, H, taps) "
            "with one H are needed; check which axis is H."
        )
    return _dispatch.run("fft_conv", backend, u.device, u, K)


def fft_conv_reference(u: Tensor, K: Tensor) -> Tensor:
    """The equation as a loop over the taps."""
    dtype = torch.promote_types(u.dtype, K.dtype)
    y = u.new_zeros(u.shape[0], u.shape[1], K.shape[0], K.shape[1], dtype=dtype)
    for tap in range(min(K.shape[-1], u.shape[1])):
        shifted = u[:, : u.shape[1] - tap, None, :].to(dtype) * K[:, :, tap].to(dtype)
        y = y + F.pad(shifted, (0, 0, 0, 0, tap, 0))
    return y.to(u.dtype)


def good_fft_size(n: int) -> int:
    """The smallest 2^a 3^b 5^c that is at least n: sizes that FFT libraries handle at full speed."""
    best = 1 << (n - 1).bit_length()
    power5 = 1
    while power5 < best:
        power35 = power5
        while power35 < best:
            quotient = -(-n // power35)
            best = min(best, power35 << (quotient - 1).bit_length())
            power35 *= 3
        power5 *= 5
    return best


def convolve(u: Tensor, K: Tensor) -> Tensor:
    """`fft_conv` in the FFT's layout: u (batch, H, length), K (channels, H, taps) -> (batch, channels, H, length)."""
    return _Convolution.apply(u, K[..., : u.shape[-1]])


class _Convolution(torch.autograd.Function):
    """The convolution with a backward of real FFTs; autograd's own would run complex ones of twice the size."""

    @staticmethod
    def forward(ctx, u: Tensor, K: Tensor) -> Tensor:
        n = good_fft_size(u.shape[-1] + K.shape[-1] - 1)
        U, K_hat = torch.fft.rfft(u, n=n).unsqueeze(1), torch.fft.rfft(K, n=n)
        ctx.save_for_backward(U, K_hat)
        ctx.sizes = n, u.shape[-1], K.shape[-1]
        return torch.fft.irfft(U * K_hat, n=n)[..., : u.shape[-1]]

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
        U, K_hat = ctx.saved_tensors
        n, length, taps = ctx.sizes
        G = torch.fft.rfft(grad_outputs[0], n=n)
        grad_u = grad_K = None
        if ctx.needs_input_grad[0]:
            grad_u = torch.fft.irfft((G * K_hat.conj()).sum(1), n=n)[..., :length]
        if ctx.needs_input_grad[1]:
            grad_K = torch.fft.irfft((G * U.conj()).sum(0), n=n)[..., :taps]
        return grad_u, grad_K


def _fft_conv_torch(u: Tensor, K: Tensor) -> Tensor:
    dtype = torch.promote_types(torch.promote_types(u.dtype, torch.float32), K.dtype)
    if u.shape[1] == 0:
        return u.new_zeros(u.shape[0], 0, K.shape[0], K.shape[1])
    y = convolve(u.mT.to(dtype), K.to(dtype))
    return y.permute(0, 3, 1, 2).to(u.dtype)


_dispatch.register(
    "fft_conv",
    _dispatch.Backend("torch", _fft_conv_torch, _dispatch.always),
    _dispatch.Backend("reference", fft_conv_reference, _dispatch.always),
)
