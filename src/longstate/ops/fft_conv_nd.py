"""Convolution over grids of any dimension through the FFT, with one kernel factor an axis."""

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from longstate._checks import InputError
from longstate.ops import _dispatch
from longstate.ops.fft_conv import good_fft_size

_AXES = "abcdefg"


def fft_conv_nd(
    u: Tensor,
    factors: Sequence[Tensor],
    *,
    origins: Sequence[int] | None = None,
    skip: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Convolution of every feature with a kernel that is a sum of outer products of one factor an axis.

        y[t] = D u[t] + Σ_r Σ_l K_1[r, l_1] K_2[r, l_2] ... u[t - l]

    t and l have one number an axis. The kernel is put together in frequency, where each factor is a vector; every axis
    is padded by what its own factor reaches, so that nothing comes round the border.

    Args:
        u: Input (batch, *grid, H).
        factors: One (rank, H, taps) for each axis of the grid, any number of taps.
        origins: Where lag 0 stands among the taps of each factor; those before it reach forward. All 0 if None.
        skip: D (H,), none if left out.
        backend: "torch", "reference" (a plain sum over all lags), or "auto".

    Returns:
        Outputs shaped like `u` and in its type; computed in float32 at least.

    Raises:
        InputError: If shapes do not belong together or the backend cannot run this call.

    Source:
        Nguyen et al., S4ND: Modeling Images and Videos as Multidimensional Signals Using State Spaces,
        arXiv 2210.06583, section 3.

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> u = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).reshape(1, 2, 2, 1)
        >>> down, across = torch.tensor([[[1.0, 10.0]]]), torch.tensor([[[1.0, 3.0]]])
        >>> ops.fft_conv_nd(u, [down, across], backend="reference").reshape(2, 2)
        tensor([[ 1.,  3.],
                [10., 32.]])
    """
    origins = [0] * len(factors) if origins is None else list(origins)
    _check(u, factors, origins, skip)
    return _dispatch.run("fft_conv_nd", backend, u.device, u, list(factors), origins, skip)


def fft_conv_nd_reference(u: Tensor, factors: list[Tensor], origins: list[int], skip: Tensor | None) -> Tensor:
    """The equation as a loop over all lags."""
    dtype = _working_dtype(u, factors)
    wide = u.to(dtype)
    y = torch.zeros_like(wide) if skip is None else wide * skip.to(dtype)
    grid = u.shape[1:-1]
    for taps in product(*(range(factor.shape[-1]) for factor in factors)):
        lags = [tap - origin for tap, origin in zip(taps, origins, strict=True)]
        if any(abs(lag) >= length for lag, length in zip(lags, grid, strict=True)):
            continue
        weight = torch.stack([factor[..., tap].to(dtype) for factor, tap in zip(factors, taps, strict=True)]).prod(0)
        moved = wide[(slice(None), *(slice(max(-lag, 0), n - max(lag, 0)) for lag, n in zip(lags, grid, strict=True)))]
        border = [pad for lag in reversed(lags) for pad in (max(lag, 0), max(-lag, 0))]
        y = y + F.pad(moved * weight.sum(0), (0, 0, *border))
    return y.to(u.dtype)


def _fft_conv_nd_torch(u: Tensor, factors: list[Tensor], origins: list[int], skip: Tensor | None) -> Tensor:
    if u.numel() == 0:
        return torch.zeros_like(u)
    dtype = _working_dtype(u, factors)
    placed = [
        _place(factor.to(dtype), origin, length)
        for factor, origin, length in zip(factors, origins, u.shape[1:-1], strict=True)
    ]
    D = u.new_zeros(u.shape[-1], dtype=dtype) if skip is None else skip.to(dtype)
    return _Convolution.apply(u.movedim(-1, 1).to(dtype), D, *placed).movedim(1, -1).to(u.dtype)


def _place(factor: Tensor, origin: int, length: int) -> Tensor:
    """The taps that reach from a position of the axis to another, on the circle of the FFT with lag 0 at index 0."""
    before, after = min(origin, length - 1), min(factor.shape[-1] - origin, length)
    n = good_fft_size(length + max(before, after - 1))
    later, earlier = factor[..., origin : origin + after], factor[..., origin - before : origin]
    return torch.cat([F.pad(later, (0, n - before - after)), earlier], dim=-1)


class _Convolution(torch.autograd.Function):
    """The convolution with a backward of real FFTs; the slope of a factor is the slope of the kernel times the others.

    u (batch, H, *grid), D (H,), factors (rank, H, n) as `_place` leaves them.
    """

    @staticmethod
    def forward(ctx, u: Tensor, D: Tensor, *factors: Tensor) -> Tensor:
        sizes, dims = [factor.shape[-1] for factor in factors], list(range(-len(factors), 0))
        U = torch.fft.rfftn(u, s=sizes, dim=dims)
        spectra = [*(torch.fft.fft(factor) for factor in factors[:-1]), torch.fft.rfft(factors[-1])]
        axes = _AXES[: len(factors)]
        K_hat = torch.einsum(",".join(f"rh{axis}" for axis in axes) + f"->h{axes}", spectra)
        K_hat = K_hat + D.reshape(-1, *[1] * len(factors))
        ctx.save_for_backward(U, K_hat, *factors)
        ctx.grid = u.shape[2:]
        return _crop(torch.fft.irfftn(U * K_hat, s=sizes, dim=dims), u.shape[2:])

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        U, K_hat, *factors = ctx.saved_tensors
        sizes, dims = [factor.shape[-1] for factor in factors], list(range(-len(factors), 0))
        G = torch.fft.rfftn(grad_outputs[0], s=sizes, dim=dims)
        grads: list[Tensor | None] = [None] * (2 + len(factors))
        if ctx.needs_input_grad[0]:
            grads[0] = _crop(torch.fft.irfftn(G * K_hat.conj(), s=sizes, dim=dims), ctx.grid)
        if any(ctx.needs_input_grad[1:]):
            slope = torch.fft.irfftn((G * U.conj()).sum(0), s=sizes, dim=dims)
            grads[1] = slope.flatten(1)[:, 0]
            axes = _AXES[: len(factors)]
            for i, axis in enumerate(axes):
                others = [(f"rh{other}", factors[j]) for j, other in enumerate(axes) if j != i]
                terms = [(f"h{axes}", slope), *others, ("r", slope.new_ones(len(factors[i])))]
                grads[2 + i] = torch.einsum(
                    ",".join(name for name, _ in terms) + f"->rh{axis}", [value for _, value in terms]
                )
        return tuple(grads)


def _crop(y: Tensor, grid: torch.Size) -> Tensor:
    return y[(..., *(slice(length) for length in grid))]


def _working_dtype(u: Tensor, factors: list[Tensor]) -> torch.dtype:
    dtype = torch.promote_types(u.dtype, torch.float32)
    for factor in factors:
        dtype = torch.promote_types(dtype, factor.dtype)
    return dtype


def _check(u: Tensor, factors: Sequence[Tensor], origins: list[int], skip: Tensor | None) -> None:
    shapes = [tuple(factor.shape) for factor in factors]
    features = u.shape[-1]
    fits = 1 <= len(factors) <= len(_AXES) and u.dim() == len(factors) + 2
    fits = fits and all(len(shape) == 3 and shape[:2] == (shapes[0][0], features) for shape in shapes)
    if not fits:
        raise InputError(
            f"`u` has shape {tuple(u.shape)} and `factors` {shapes}, but (batch, *grid, H) and one (rank, H, taps) for "
            "each axis of the grid are needed; check which axis is H."
        )
    if len(origins) != len(factors) or any(not 0 <= o < shape[2] for o, shape in zip(origins, shapes, strict=False)):
        raise InputError(
            f"`origins` is {origins}, but for each axis the index of one of its {[shape[2] for shape in shapes]} taps "
            "is needed; 0 makes an axis causal."
        )
    if skip is not None and tuple(skip.shape) != (features,):
        raise InputError(
            f"`skip` has shape {tuple(skip.shape)}, but one number for each of the {features} features is needed; "
            "leave it out for none."
        )


_dispatch.register(
    "fft_conv_nd",
    _dispatch.Backend("torch", _fft_conv_nd_torch, _dispatch.always),
    _dispatch.Backend("reference", fft_conv_nd_reference, _dispatch.always),
)
