"""Dropout whose random numbers are a function of a seed and of the place, so that no mask is kept."""

import torch
from torch import Tensor

from longstate._checks import InputError
from longstate.ops import _dispatch, _native

_LEVELS = 1 << 16
_RUN, _GROUP = 16, 128
"""Of csrc/dropout.cc: counters of a group, and elements of it."""


def dropout(x: Tensor, p: float, seed: int, *, backend: str = "auto") -> Tensor:
    """A share p of the elements at 0, the others larger, so that the mean stays.

        y_i = x_i / (1 - q) if bits_i >= 65536 q, else 0,    q = round(65536 p) / 65536

    The bits are 16 of Philox4x32-10 under the key `seed`, for the place i in memory order: the same on every machine,
    and in the backward pass, which draws them again.

    Args:
        x: Any shape.
        p: Share that is dropped, in [0, 1].
        seed: A whole number in [0, 2^63).
        backend: "native" (compiled, float32 on a CPU), "reference", or "auto".

    Returns:
        A tensor like `x`.

    Raises:
        InputError: If p or the seed is out of range, or the backend cannot run this call.

    Source:
        Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3, SC 2011, section 3.3.

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> ops.dropout(torch.ones(6), 0.5, seed=3)
        tensor([0., 0., 0., 2., 2., 2.])
    """
    if not 0 <= p <= 1:
        raise InputError(f"`p` is {p}, but a share in [0, 1] is needed; 0.1 drops a tenth.")
    if not 0 <= seed < 1 << 63:
        raise InputError(f"`seed` is {seed}, but a whole number in [0, 2^63) is needed; draw one with torch.randint.")
    return _dispatch.run("dropout", backend, x.device, x, p, seed)


def dropout_reference(x: Tensor, p: float, seed: int) -> Tensor:
    """The equation, with integers of 64 bits."""
    threshold, scale = _threshold(p)
    groups = -(-x.numel() // _GROUP)
    words = philox(torch.arange(groups * _RUN, device=x.device), seed)
    halves = torch.stack([half for word in words for half in (word & 0xFFFF, word >> 16)])
    bits = halves.view(_GROUP // _RUN, groups, _RUN).transpose(0, 1).reshape(-1)[: x.numel()].view(x.shape)
    return x * torch.where(bits >= threshold, scale, 0.0).to(x.dtype)


def philox(counter: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four words of 32 bits for each counter (int64), whose upper 64 bits are 0."""
    low = 0xFFFFFFFF
    a, b, c, d = counter & low, counter >> 32, torch.zeros_like(counter), torch.zeros_like(counter)
    key, other = seed & low, seed >> 32
    for _ in range(10):
        left, right = _product(a, 0xD2511F53), _product(c, 0xCD9E8D57)
        a, b, c, d = right[0] ^ b ^ key, right[1], left[0] ^ d ^ other, left[1]
        key, other = (key + 0x9E3779B9) & low, (other + 0xBB67AE85) & low
    return a, b, c, d


def why_not(x: Tensor, p: float, seed: int) -> str | None:
    """Why the compiled kernel cannot take this call, or None."""
    if x.dtype is not torch.float32:
        return f"computes in float32, got {str(x.dtype)[6:]}"
    return _native.why_not_here(x)


def _threshold(p: float) -> tuple[int, float]:
    """How many of the 65,536 levels are dropped, and what the others are multiplied by."""
    dropped = round(p * _LEVELS)
    return dropped, _LEVELS / (_LEVELS - dropped) if dropped < _LEVELS else 0.0


def _product(x: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Upper and lower 32 bits of products of such numbers, by halves, as 64 signed bits are one too few."""
    low, high = x * (factor & 0xFFFF), x * (factor >> 16)
    return (high + (low >> 16)) >> 16, (low + ((high & 0xFFFF) << 16)) & 0xFFFFFFFF


@torch.library.custom_op("longstate::dropout", mutates_args=())
def _dropout(x: Tensor, p: float, seed: int) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    arguments = _native.Dropout(x.numel(), seed, *_threshold(p), x.data_ptr(), y.data_ptr())
    _native.run("longstate_dropout", arguments)
    return y


@_dropout.register_fake
def _like_dropout(x: Tensor, p: float, seed: int) -> Tensor:
    return x.new_empty(x.shape)


def _save(ctx, inputs: tuple[Tensor, float, int], output: Tensor) -> None:
    _, ctx.p, ctx.seed = inputs


def _derivative(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
    return _dropout(grad, ctx.p, ctx.seed), None, None


_dropout.register_autograd(_derivative, setup_context=_save)

_dispatch.register(
    "dropout",
    _dispatch.Backend("native", _dropout, why_not),
    _dispatch.Backend("reference", dropout_reference, _dispatch.always),
)
