"""The compiled linear recurrence as a torch operator with its own gradient."""

import torch
from torch import Tensor

from longstate.ops import _native


def why_not(a: Tensor, b: Tensor, state: Tensor | None, lengths: Tensor | None, starts: Tensor | None) -> str | None:
    """Why the compiled kernel cannot take this call of `linear_scan`, or None."""
    if b.dim() == 4 and (b.shape[-1] != 2 or a.is_complex() or b.is_complex()):
        kind = "complex" if a.is_complex() or b.is_complex() else "real"
        return f"multiplies by real matrices of 2 x 2, got {kind} ones of {b.shape[-1]} x {b.shape[-1]}"
    if b.dtype in (torch.float64, torch.complex128) or (state is not None and state.dtype is torch.float64):
        return "computes in float32, got float64"
    return _native.why_not_here(a, b, state)


def linear_scan_native(
    a: Tensor, b: Tensor, state: Tensor | None, lengths: Tensor | None, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`linear_scan` in float32 by the compiled kernel; a constant transition in float64."""
    is_block, is_complex = b.dim() == 4, a.is_complex() or b.is_complex()
    varies = a.dim() > (3 if is_block else 1)
    if is_complex:
        a = torch.view_as_real(a.to(torch.complex64 if varies else torch.complex128).resolve_conj())
        b = torch.view_as_real(b.to(torch.complex64).resolve_conj())
    # All elements beside each other, that they may be broadcast without a copy; the numbers of one in a row.
    a = a.float().expand(*b.shape[:2], *b.shape[2:3], *a.shape[3:]).flatten(2) if varies else a.double().flatten()
    kind = _native.DENSE if is_block else _native.COMPLEX if is_complex else _native.REAL
    rows = None if lengths is None else lengths.to(torch.int64)
    h, final = _forward(
        a, b.float().flatten(2), None if state is None else state.float().flatten(1), rows, starts, kind
    )
    h, final = (part.unflatten(-1, b.shape[2:]) for part in (h, final))
    return torch.view_as_complex(h) if is_complex else h, final if state is None else final.to(state.dtype)


@torch.library.custom_op("longstate::linear_scan", mutates_args=())
def _forward(
    a: Tensor, b: Tensor, state: Tensor | None, lengths: Tensor | None, starts: Tensor | None, kind: int
) -> tuple[Tensor, Tensor]:
    """All h and the last, for a transition of all elements (float64, flat) or one each, (batch, length, width)."""
    h, final = _like_forward(a, b, state, lengths, starts, kind)
    arguments, _kept = _arguments(a, b, state, lengths, starts, kind)
    arguments.h, arguments.final_state = h.data_ptr(), final.data_ptr()
    _native.run("longstate_linear_scan", arguments)
    return h, final


@torch.library.custom_op("longstate::linear_scan_backward", mutates_args=())
def _backward(
    grad_h: Tensor,
    grad_final: Tensor,
    h: Tensor,
    a: Tensor,
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
    kind: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The derivatives by a, b and state."""
    grad_b, grad_state = torch.empty_like(h), h.new_empty(grad_final.shape)
    grad_a = a.new_empty(a.shape if a.dim() == 3 else (len(h), *a.shape))
    arguments, _kept = _arguments(a, h, state, lengths, starts, kind)
    grad_h, grad_final = grad_h.contiguous(), grad_final.contiguous()
    given = {"h": h, "grad_h": grad_h, "grad_final": grad_final, "grad_b": grad_b, "grad_state": grad_state}
    for name, part in (given | {"grad_a" if a.dim() == 3 else "grad_shared": grad_a}).items():
        setattr(arguments, name, part.data_ptr())
    _native.run("longstate_linear_scan_backward", arguments)
    return grad_a if a.dim() == 3 else grad_a.sum(0), grad_b, grad_state


@_forward.register_fake
def _like_forward(
    a: Tensor, b: Tensor, state: Tensor | None, lengths: Tensor | None, starts: Tensor | None, kind: int
) -> tuple[Tensor, Tensor]:
    return b.new_empty(b.shape), b.new_empty(b.shape[0], b.shape[2])


@_backward.register_fake
def _like_backward(
    grad_h: Tensor,
    grad_final: Tensor,
    h: Tensor,
    a: Tensor,
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
    kind: int,
) -> tuple[Tensor, Tensor, Tensor]:
    return a.new_empty(a.shape), torch.empty_like(h), h.new_empty(grad_final.shape)


def _save(ctx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    a, _, state, lengths, starts, kind = inputs
    ctx.save_for_backward(output[0], a, state, lengths, starts)
    ctx.kind = kind
    ctx.set_materialize_grads(True)


def _derivatives(ctx, grad_h: Tensor, grad_final: Tensor) -> tuple:
    h, a, state, lengths, starts = ctx.saved_tensors
    grad_a, grad_b, grad_state = _backward(grad_h, grad_final, h, a, state, lengths, starts, ctx.kind)
    return grad_a, grad_b, None if state is None else grad_state, None, None, None


_forward.register_autograd(_derivatives, setup_context=_save)


def _arguments(
    a: Tensor, b: Tensor, state: Tensor | None, lengths: Tensor | None, starts: Tensor | None, kind: int
) -> tuple[_native.LinearScan, list[Tensor | None]]:
    """The kernel's arguments, and the tensors whose memory they name: these have to live as long."""
    varies = a.dim() == 3
    a, b = (part if part.stride(-1) == 1 else part.contiguous() for part in (a, b))
    flat = [None if part is None else part.contiguous() for part in (state, lengths, starts)]
    batch, length, width = b.shape
    channels = width if kind == _native.REAL else width // 2
    arguments = _native.LinearScan(
        batch,
        length,
        channels,
        kind,
        None if varies else a.data_ptr(),
        _native.rows(a) if varies else _native.Rows(),
        _native.rows(b),
        *(_native.pointer(part) for part in flat),
    )
    return arguments, [a, b, *flat]
