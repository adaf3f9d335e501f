"""A linear recurrence over a sequence, with a transition that is constant or changes at every element."""

from typing import NamedTuple

import torch
from torch import Tensor

from longstate._checks import InputError, check_lengths, check_starts, valid_steps
from longstate.ops import _dispatch, linear_native
from longstate.ops.scan_blocks import scan_blocks


def linear_scan(
    a: Tensor,
    b: Tensor,
    state: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    starts: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """All values of a linear recurrence, and the state after it.

        h_t = a_t h_{t-1} + b_t

    Element by element, or with a small matrix a_t for every element of a state of K numbers. The native path, a
    compiled kernel, passes over the sequence once, in float32 with a state in float64. The torch path cuts the sequence
    into about sqrt(length) blocks and advances all of them together, once for what they hand on and once for h, so that
    it makes about 3 sqrt(length) steps. Both keep h (and a, if that varies) for the backward pass, which is the same
    recurrence from the end.

    Args:
        a: Transition, real or complex: (P,) or, if it varies, (batch, length, P). For blocks (P, K, K) or
            (batch, length, P, K, K). Where it varies, axes of size 1 are broadcast.
        b: What comes in, real or complex: (batch, length, P), or (batch, length, P, K) for blocks.
        state: h before the first element, real: (batch, P) or (batch, P, K), with a last axis 2 (re, im) if a or b is
            complex; zero if None.
        lengths: Valid elements of right-padded rows (batch,); h after them is unspecified, whatever a and b hold there.
        starts: True where a packed sequence begins (batch, length); nothing before it is carried over.
        backend: "native" (a CPU, numbers or real 2 x 2 matrices, in float32), "torch", "reference" (a plain loop), or
            "auto".

    Returns:
        h, of the shape of b, in the type of b and `state` (float32 at least; complex if a or b is) whatever the
        precision of a; and h after the last valid element of each row, real and shaped like `state`.

    Raises:
        InputError: If shapes or types do not belong together or the backend cannot run this call.

    Source:
        The recurrence is that of Blelloch 1990, "Prefix sums and their applications", section 1.4; the two passes over
        blocks are longstate's own.

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> h, state = ops.linear_scan(torch.tensor([0.5]), torch.ones(1, 3, 1))
        >>> h.flatten(), state
        (tensor([1.0000, 1.5000, 1.7500]), tensor([[1.7500]]))
    """
    _check(a, b, state, lengths, starts)
    return _dispatch.run("linear_scan", backend, b.device, a, b, state, lengths, starts)


def linear_scan_reference(
    a: Tensor, b: Tensor, state: Tensor | None, lengths: Tensor | None, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The equation as a loop over time."""
    a, b, x, real = _prepare(a, b, state)
    is_block, varies = b.dim() == 4, a.dim() > b.dim() - 2 + (b.dim() == 4)
    a = a.expand(*b.shape, b.shape[-1]) if varies and is_block else a.expand_as(b) if varies else a
    h = []
    for t in range(b.shape[1]):
        transition, driven = a[:, t] if varies else a, b[:, t]
        before = x if starts is None else torch.where(_like(starts[:, t], x), torch.zeros_like(x), x)
        if lengths is not None:
            # Selected before the product too: the gradient of 0 times NaN is NaN.
            valid = t < lengths
            driven = torch.where(_like(valid, driven), driven, driven.new_zeros(()))
            if varies:
                transition = torch.where(_like(valid, transition), transition, transition.new_zeros(()))
        advanced = torch.einsum("...ij,...j->...i", transition, before) if is_block else transition * before
        new = advanced + driven
        x = new if lengths is None else torch.where(_like(t < lengths, new), new, x)
        h.append(x)
    return torch.stack(h, dim=1) if h else b, _as_state(x, real)


class _Prepared(NamedTuple):
    """a and b in the type of the recurrence, the state in it too, and the real type of the state."""

    a: Tensor
    b: Tensor
    x: Tensor
    real: torch.dtype


def _prepare(a: Tensor, b: Tensor, state: Tensor | None) -> _Prepared:
    real = torch.promote_types(b.real.dtype, torch.float32)
    if state is not None:
        real = torch.promote_types(real, state.dtype)
    is_complex = a.is_complex() or b.is_complex()
    dtype = torch.promote_types(real, torch.complex32) if is_complex else real
    b = b.to(dtype)
    if state is None:
        return _Prepared(a.to(dtype), b, b.new_zeros(b.shape[0], *b.shape[2:]), real)
    x = torch.view_as_complex(state.to(real).contiguous()) if is_complex else state.to(real)
    return _Prepared(a.to(dtype), b, x, state.dtype)


def _as_state(x: Tensor, dtype: torch.dtype) -> Tensor:
    return (torch.view_as_real(x) if x.is_complex() else x).to(dtype)


def _like(mask: Tensor, x: Tensor) -> Tensor:
    """A mask over the first axes of `x`, broadcast over the others."""
    return mask.reshape(*mask.shape, *[1] * (x.dim() - mask.dim()))


def _linear_scan_torch(
    a: Tensor, b: Tensor, state: Tensor | None, lengths: Tensor | None, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    precise = a
    a, b, x, real = _prepare(a, b, state)
    if b.shape[1] == 0:
        return b, _as_state(x, real)
    is_block = b.dim() == 4
    varies = a.dim() > (3 if is_block else 1)
    if starts is not None:
        full = a if varies else a.expand(*b.shape[:2], *a.shape)
        a, varies = torch.where(_like(starts, full), full.new_zeros(()), full), True
    if lengths is not None:
        valid = valid_steps(lengths, b.shape[1])
        b = torch.where(_like(valid, b), b, b.new_zeros(()))
        if varies:
            # The identity, not any number that keeps the padding finite: the last h is then the state.
            identity = torch.eye(b.shape[-1], dtype=a.dtype, device=a.device) if is_block else a.new_ones(())
            a = torch.where(_like(valid, a), a, identity)
    # One layout for all: K planes (K, batch, length, P), with K = 1 where there are no blocks.
    if is_block:
        planes, x = b.permute(3, 0, 1, 2), x.permute(2, 0, 1)
        a = a.permute(3, 4, 0, 1, 2) if varies else a.permute(1, 2, 0)
    else:
        planes, x, a = b[None], x[None], a[None, None]
        precise = precise[..., None, None]
    h, final = scan_blocks(a.expand(-1, -1, *planes.shape[1:]) if varies else a, planes, x, precise)
    if lengths is not None and not varies:
        last = (lengths.to(torch.int64) - 1).clamp(min=0)[:, None, None]
        at_last = h.gather(2, last.expand(h.shape[0], -1, -1, h.shape[-1])).squeeze(2)
        final = torch.where((lengths > 0)[:, None], at_last, x)
    h, final = (h.permute(1, 2, 3, 0), final.permute(1, 2, 0)) if is_block else (h[0], final[0])
    return h, _as_state(final, real)


def _check(a: Tensor, b: Tensor, state: Tensor | None, lengths: Tensor | None, starts: Tensor | None) -> None:
    for name, value in (("a", a), ("b", b)):
        if not (value.dtype.is_floating_point or value.is_complex()):
            raise InputError(
                f"`{name}` is {value.dtype}, but a floating or complex type is needed; call `{name}.float()` first."
            )
    inner = (*b.shape[2:], *b.shape[3:])
    fits = b.dim() in (3, 4) and (a.shape == inner or _broadcasts(a.shape, (*b.shape[:2], *inner)))
    if not fits:
        raise InputError(
            f"`a` has shape {tuple(a.shape)} and `b` {tuple(b.shape)}, but a of (P,) or (batch, length, P) with b of "
            "(batch, length, P), or a of (P, K, K) or (batch, length, P, K, K) with b of (batch, length, P, K), are "
            "needed; put time on axis 1."
        )
    if state is not None:
        shape = (b.shape[0], *b.shape[2:], *[2] * (a.is_complex() or b.is_complex()))
        if tuple(state.shape) != shape or not state.dtype.is_floating_point:
            raise InputError(
                f"`state` is {state.dtype} of shape {tuple(state.shape)}, but real numbers of shape {shape} are "
                "needed; give complex numbers as pairs (re, im), or None for zero."
            )
    check_lengths(lengths, b)
    check_starts(starts, b)


def _broadcasts(shape: torch.Size, target: tuple[int, ...]) -> bool:
    return len(shape) == len(target) and all(n in (1, m) for n, m in zip(shape, target, strict=True))


_dispatch.register(
    "linear_scan",
    _dispatch.Backend("native", linear_native.linear_scan_native, linear_native.why_not),
    _dispatch.Backend("torch", _linear_scan_torch, _dispatch.always),
    _dispatch.Backend("reference", linear_scan_reference, _dispatch.always),
)
