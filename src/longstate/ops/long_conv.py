"""Causal convolution with long filters, whole or in chunks: the state is the window of inputs that they still reach."""

import torch
from torch import Tensor
from torch.nn import functional as F

from longstate._checks import InputError, check_lengths, check_starts, zero_padding
from longstate.ops import _dispatch
from longstate.ops.fft_conv import convolve, good_fft_size
from longstate.ops.fir_tail import check_tail, next_tail, window_reference
from longstate.ops.packing import run_packed

_SMALLEST_BLOCK = 64
"""Elements of the smallest FFT worth its call."""


def long_conv(
    u: Tensor,
    K: Tensor,
    *,
    lengths: Tensor | None = None,
    starts: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Outputs of a filter that starts with an empty window: `long_conv_scan` for those who need no state.

    Args:
        u: Input (batch, length, H).
        K: Filters (channels, H, taps), the present first.
        lengths: Valid elements of right-padded rows (batch,); outputs after them are unspecified.
        starts: True where a packed sequence begins (batch, length).
        backend: "torch", "reference", or "auto".

    Returns:
        Outputs (batch, length, channels, H), in the type of `u`.

    Raises:
        InputError: If shapes do not belong together or the backend cannot run this call.

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> ops.long_conv(torch.ones(1, 3, 1), torch.tensor([[[1.0, 10.0]]]), backend="reference").flatten()
        tensor([ 1., 11., 11.])
    """
    _check(u, K, None, lengths, starts)
    return _dispatch.run("long_conv", backend, u.device, u, K, lengths, starts)


def long_conv_scan(
    u: Tensor,
    K: Tensor,
    tail: Tensor,
    *,
    lengths: Tensor | None = None,
    starts: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Outputs of a filter from a given window, and the window after the last valid element of each row.

        y_t = sum_{l < taps} K_l u_{t-l}

    The torch path multiplies spectra. A sequence much longer than the filter is cut into overlapping blocks (overlap
    and save), so that time grows like length log(taps) and memory like length.

    Args:
        u: Input (batch, length, H).
        K: Filters (channels, H, taps), the present first.
        tail: The last taps - 1 inputs before u (batch, taps-1, H), oldest first.
        lengths: Valid elements of right-padded rows (batch,); outputs after them are unspecified.
        starts: True where a packed sequence begins (batch, length); the window is emptied there.
        backend: "torch", "reference" (a plain loop), or "auto".

    Returns:
        Outputs (batch, length, channels, H) in the type of `u`, and the new window in the type of `tail`.

    Raises:
        InputError: If shapes do not belong together or the backend cannot run this call.

    Source:
        Overlap and save: Oppenheim and Schafer, Discrete-Time Signal Processing, section 8.7.3.

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> K, tail = torch.tensor([[[1.0, 10.0]]]), torch.full((1, 1, 1), 2.0)
        >>> y, tail = ops.long_conv_scan(torch.ones(1, 3, 1), K, tail, backend="reference")
        >>> y.flatten(), tail.flatten()
        (tensor([21., 11., 11.]), tensor([1.]))
    """
    _check(u, K, tail, lengths, starts)
    return _dispatch.run("long_conv_scan", backend, u.device, u, K, tail, lengths, starts)


def long_conv_constants(K: Tensor) -> Tensor:
    """What `long_conv_step` needs of filters, computed once: their taps in the order of time.

    Args:
        K: Filters (channels, H, taps), the present first.

    Returns:
        (channels, taps, H), the present last, as the window lies in memory.
    """
    return K.flip(-1).mT.contiguous()


def long_conv_step(u_t: Tensor, tail: Tensor, constants: Tensor, *, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """One element of `long_conv_scan`: a product of the window with the filter.

    Args:
        u_t: Input (batch, H).
        tail: The last taps - 1 inputs (batch, taps-1, H), oldest first.
        constants: From `long_conv_constants` (channels, taps, H).
        backend: "torch", "reference", or "auto".

    Returns:
        Output (batch, channels, H) in the type of `u_t`, and the new window.

    Raises:
        InputError: If shapes do not belong together or the backend cannot run this call.

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> taps = ops.long_conv_constants(torch.tensor([[[1.0, 10.0]]]))
        >>> y, tail = ops.long_conv_step(torch.ones(1, 1), torch.full((1, 1, 1), 2.0), taps)
        >>> y.item(), tail.item()
        (21.0, 1.0)
    """
    if u_t.dim() != 2 or constants.dim() != 3 or u_t.shape[-1] != constants.shape[-1] or constants.shape[1] == 0:
        raise InputError(
            f"`u_t` has shape {tuple(u_t.shape)} and `constants` {tuple(constants.shape)}, but (batch, H) and "
            "(channels, taps, H) with one H are needed; take the constants from `long_conv_constants`."
        )
    check_tail(tail, u_t, constants.shape[1])
    return _dispatch.run("long_conv_step", backend, u_t.device, u_t, tail, constants)


def long_conv_scan_reference(
    u: Tensor, K: Tensor, tail: Tensor, lengths: Tensor | None, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The equation as a loop over time."""
    y, new = window_reference(u, K, tail, lengths, starts)
    return y.to(u.dtype), new


def _long_conv_reference(u: Tensor, K: Tensor, lengths: Tensor | None, starts: Tensor | None) -> Tensor:
    return window_reference(u, K, None, lengths, starts)[0].to(u.dtype)


def _long_conv_step_reference(u_t: Tensor, tail: Tensor, constants: Tensor) -> tuple[Tensor, Tensor]:
    y, new = long_conv_scan_reference(u_t.unsqueeze(1), constants.mT.flip(-1), tail, None, None)
    return y.squeeze(1), new


def _long_conv_torch(u: Tensor, K: Tensor, lengths: Tensor | None, starts: Tensor | None) -> Tensor:
    if u.shape[1] == 0:
        return u.new_zeros(u.shape[0], 0, *K.shape[:2])
    dtype = _working_dtype(u, K)
    u, K = zero_padding(u, lengths), K.to(dtype)

    def run(u: Tensor, state: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        return _convolve(u.mT.to(dtype), K, None).permute(0, 3, 1, 2).to(u.dtype), state

    if starts is None:
        return run(u, u, None)[0]
    return run_packed(run, u, u.new_zeros(u.shape[0], 1), starts, lengths)[0]


def _long_conv_scan_torch(
    u: Tensor, K: Tensor, tail: Tensor, lengths: Tensor | None, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    length = u.shape[1]
    if length == 0:
        return u.new_zeros(u.shape[0], 0, *K.shape[:2]), tail
    dtype = torch.promote_types(_working_dtype(u, K), tail.dtype)
    past, taps = tail.mT.to(dtype), K.to(dtype)
    new = next_tail(tail, u, lengths, starts)
    if starts is None:
        y = _convolve(zero_padding(u, lengths).mT.to(dtype), taps, past).permute(0, 3, 1, 2)
        return y.to(u.dtype), new
    y = _long_conv_torch(u, K, lengths, starts)
    # The old window reaches the outputs before the first start only; all sequences run with an empty one.
    reached = min(length, past.shape[-1])
    if reached == 0:
        return y, new
    echo = _convolve(past.new_zeros(*past.shape[:2], reached), taps, past).permute(0, 3, 1, 2)
    before = starts[:, :reached].cumsum(1) == 0
    echo = torch.where(before[..., None, None], echo, echo.new_zeros(()))
    return y + F.pad(echo, (0, 0, 0, 0, 0, length - reached)).to(u.dtype), new


def _long_conv_step_torch(u_t: Tensor, tail: Tensor, constants: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(_working_dtype(u_t, constants), tail.dtype)
    window = torch.cat([tail, u_t.to(tail.dtype).unsqueeze(1)], dim=1)
    y = (window.to(dtype).unsqueeze(1) * constants.to(dtype)).sum(2)
    return y.to(u_t.dtype), window[:, 1:]


def _convolve(u: Tensor, K: Tensor, past: Tensor | None) -> Tensor:
    """Outputs (batch, channels, H, length) for u (batch, H, length) after `past` (batch, H, taps-1); zeros if None."""
    length = u.shape[-1]
    K = K[..., :length] if past is None else K
    reach = K.shape[-1] - 1
    n = _fft_size(reach, length)
    if past is None and n >= reach + length:
        return convolve(u, K)
    window = F.pad(u, (reach, 0)) if past is None else torch.cat([past, u], dim=-1)
    return _Blocks.apply(window, K, n)


def _fft_size(reach: int, length: int) -> int:
    """The size of FFT that convolves all blocks with the fewest operations: each gives size - reach outputs."""
    best = whole = good_fft_size(reach + length)
    least = whole * whole.bit_length()
    size = max(1 << (2 * reach).bit_length(), _SMALLEST_BLOCK)
    while size < whole:
        operations = -(-length // (size - reach)) * size * size.bit_length()
        if operations < least:
            best, least = size, operations
        size *= 2
    return best


class _Blocks(torch.autograd.Function):
    """Outputs `reach ..` of a window (batch, H, reach + length), in blocks whose circular convolutions do not wrap."""

    @staticmethod
    def forward(ctx, window: Tensor, K: Tensor, n: int) -> Tensor:
        reach = K.shape[-1] - 1
        y = torch.fft.irfft(_spectra(window, reach, n).unsqueeze(1) * _filter(K, n), n=n)[..., reach:]
        ctx.save_for_backward(window, K)
        ctx.n = n
        return y.flatten(-2)[..., : window.shape[-1] - reach]

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        window, K = ctx.saved_tensors
        n, reach = ctx.n, K.shape[-1] - 1
        outputs = n - reach
        count = -(-grad_outputs[0].shape[-1] // outputs)
        grad = F.pad(grad_outputs[0], (0, count * outputs - grad_outputs[0].shape[-1])).unflatten(-1, (count, outputs))
        G = torch.fft.rfft(F.pad(grad, (reach, 0)), n=n)
        grad_window = grad_K = None
        if ctx.needs_input_grad[0]:
            parts = torch.fft.irfft((G * _filter(K, n).conj()).sum(1), n=n)
            grad_window = _overlap_add(parts, outputs)[..., : window.shape[-1]]
        if ctx.needs_input_grad[1]:
            products = (G * _spectra(window, reach, n).unsqueeze(1).conj()).sum((0, 3))
            grad_K = torch.fft.irfft(products, n=n)[..., : reach + 1]
        return grad_window, grad_K, None


def _spectra(window: Tensor, reach: int, n: int) -> Tensor:
    """Spectra (batch, H, blocks, n/2 + 1) of blocks of n elements, each beginning n - reach after the one before."""
    outputs = n - reach
    count = -(-(window.shape[-1] - reach) // outputs)
    padded = F.pad(window, (0, count * outputs + reach - window.shape[-1]))
    return torch.fft.rfft(padded.unfold(-1, n, outputs), n=n)


def _filter(K: Tensor, n: int) -> Tensor:
    """Spectra of the filters, with an axis for the blocks: (channels, H, 1, n/2 + 1)."""
    return torch.fft.rfft(K, n=n).unsqueeze(-2)


def _overlap_add(parts: Tensor, stride: int) -> Tensor:
    """The sum of blocks (..., blocks, n) laid `stride` apart; one block, or n < 2 stride."""
    count, excess = parts.shape[-2], parts.shape[-1] - stride
    if count == 1:
        return parts.squeeze(-2)
    total = F.pad(parts[..., :stride].flatten(-2), (0, excess))
    over = F.pad(parts[..., stride:], (0, stride - excess)).flatten(-2)
    total[..., stride:] += over[..., : (count - 1) * stride + excess]
    return total


def _working_dtype(u: Tensor, K: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(u.dtype, torch.float32), K.dtype)


def _check(u: Tensor, K: Tensor, tail: Tensor | None, lengths: Tensor | None, starts: Tensor | None) -> None:
    if u.dim() != 3 or K.dim() != 3 or u.shape[-1] != K.shape[1] or K.shape[-1] == 0:
        raise InputError(
            f"`u` has shape {tuple(u.shape)} and `K` {tuple(K.shape)}, but (batch, length, H) and (channels, H, taps) "
            "with one H are needed; check which axis is H."
        )
    check_tail(tail, u, K.shape[-1])
    check_lengths(lengths, u)
    check_starts(starts, u)


_dispatch.register(
    "long_conv",
    _dispatch.Backend("torch", _long_conv_torch, _dispatch.always),
    _dispatch.Backend("reference", _long_conv_reference, _dispatch.always),
)
_dispatch.register(
    "long_conv_scan",
    _dispatch.Backend("torch", _long_conv_scan_torch, _dispatch.always),
    _dispatch.Backend("reference", long_conv_scan_reference, _dispatch.always),
)
_dispatch.register(
    "long_conv_step",
    _dispatch.Backend("torch", _long_conv_step_torch, _dispatch.always),
    _dispatch.Backend("reference", _long_conv_step_reference, _dispatch.always),
)
