"""The compiled scan of a linear time-invariant system as a torch operator with its own gradient.

    y_t = sum_{l <= t} taps_l u_{t-l} + rows_t s,    s' = carry s + sum_t columns_t u_t

by chunks of T elements, s being the state before a chunk: taps_l = C A^l B (+ D), rows_t = C A^{t+1},
columns_t = A^{T-1-t} B, carry = A^T, as `lti_factors` makes them.
"""

import torch
from torch import Tensor

from longstate.ops import _native
from longstate.ops.lti_factors import Factors, factors_of, squares_for_steps
from longstate.ops.lti_system import LowRankSystem, LTISystem, advance
from longstate.ops.packing import run_packed

_LARGE, _FEW = 192, 8192
"""Where the FFT is faster: states of more numbers than that, counted for features in whole vectors; matrices over fewer
elements, whose powers cost more than the scan."""


def why_not(u: Tensor, system: LTISystem | LowRankSystem, *rest: Tensor | None) -> str | None:
    """Why the compiled kernel cannot take this call of `lti_conv` or `lti_scan`, or why it would be slow; or None."""
    if any(part is not None and part.dtype is torch.float64 for part in (u, *rest)):
        return "computes in float32, got float64"
    return _native.why_not_here(u, *system) or _why_slow(u, system)


def _why_slow(u: Tensor, system: LTISystem | LowRankSystem) -> str | None:
    """Why the FFT is faster, as measured forward and backward with AVX-512 in one thread."""
    H, N = system.B.shape
    N = 2 * N if system.B.is_complex() else N
    if N * (-(-H // 16) * 16) > _LARGE * H:
        return f"is slower than the FFT for {H} features with states of {N} numbers"
    if system.is_dense and isinstance(system, LTISystem) and u.shape[0] * u.shape[1] < _FEW:
        return f"is slower than the FFT for dense systems over fewer than {_FEW} elements"
    return None


def lti_conv_native(
    u: Tensor, system: LTISystem | LowRankSystem, lengths: Tensor | None, starts: Tensor | None
) -> Tensor:
    """`lti_conv` in float32 by the compiled kernel."""
    factors = factors_of(system)

    def run(u: Tensor, state: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        return _scan(u, factors, None, lengths)[0].to(u.dtype), state

    if starts is None:
        return run(u, u, lengths)[0]
    return run_packed(run, u, u.new_zeros(u.shape[0], 1), starts, lengths)[0]


def lti_scan_native(
    u: Tensor, system: LTISystem, state: Tensor, lengths: Tensor | None, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`lti_scan` in float32 by the compiled kernel."""
    squares = squares_for_steps(system)
    factors = factors_of(system, squares)

    def run(u: Tensor, state: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        if u.shape[1] == 0:
            return u.new_zeros(u.shape[0], 0, *system.D.shape), state
        y, last = _scan(u, factors, state, lengths)
        return y.to(u.dtype), _final_state(u, last, factors, squares, lengths).to(state.dtype)

    return run(u, state, lengths) if starts is None else run_packed(run, u, state, starts, lengths)


def _scan(u: Tensor, factors: Factors, state: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Outputs, and the states before the last chunk of each row, which may be shorter: (batch, N, H)."""
    if state is not None:
        state = state.float().flatten(2).mT
    rows = None if lengths is None else lengths.to(torch.int64)
    y, last, _ = _forward(u.float(), *factors[:4], state, rows, factors.kind)
    return y, last


def _final_state(u: Tensor, last: Tensor, factors: Factors, squares: list[Tensor], lengths: Tensor | None) -> Tensor:
    """The state after a row: that before its last chunk, and what the chunk adds."""
    T, length = factors.columns.shape[0], u.shape[1]
    before = last.mT
    if factors.kind == _native.COMPLEX:
        before = torch.view_as_complex(before.unflatten(-1, (-1, 2)).contiguous())
    if lengths is None:
        count = (length - 1) % T + 1
        recent, weights = u[:, length - count :].float(), factors.columns[T - count :]
    else:
        count = torch.where(lengths > 0, (lengths - 1) % T + 1, 0)
        place = torch.arange(-T, 0, device=u.device)
        position = (lengths[:, None] + place).clamp(min=0)
        found = u.gather(1, position[..., None].expand(-1, -1, u.shape[2])).float()
        recent = torch.where((place >= -count[:, None])[..., None], found, 0.0)
        weights = factors.columns
    carried = advance(squares, before, count)
    carried = torch.view_as_real(carried) if carried.is_complex() else carried
    return carried + torch.einsum("bth,tnh->bhn", recent, weights).view_as(carried)


@torch.library.custom_op("longstate::lti_scan", mutates_args=())
def _forward(
    u: Tensor,
    taps: Tensor,
    rows: Tensor,
    columns: Tensor,
    carry: Tensor,
    state: Tensor | None,
    lengths: Tensor | None,
    kind: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, the states before the last chunks, and those at borders between chunks, which the gradient needs."""
    y, last, borders = _like_forward(u, taps, rows, columns, carry, state, lengths, kind)
    if y.numel() == 0 and u.shape[1] == 0:
        return y, last.zero_() if state is None else last.copy_(state), borders
    arguments, _kept = _arguments(u, taps, rows, columns, carry, state, lengths, kind)
    arguments.y, arguments.last, arguments.borders = y.data_ptr(), last.data_ptr(), borders.data_ptr()
    borders[-2:].zero_()
    _native.run("longstate_lti_scan", arguments)
    return y, last, borders


@torch.library.custom_op("longstate::lti_scan_backward", mutates_args=())
def _backward(
    grad_y: Tensor,
    grad_last: Tensor,
    borders: Tensor,
    u: Tensor,
    taps: Tensor,
    rows: Tensor,
    columns: Tensor,
    carry: Tensor,
    lengths: Tensor | None,
    kind: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The derivatives by u, taps, rows, columns, carry and state."""
    batch, length, H = u.shape
    # Few features make few tasks: then rows of the batch are summed in parts, as many whatever the machine.
    parts = max(1, min(batch, -(-128 // max(H, 1))))
    grad_u, grad_state = u.new_empty(u.shape), u.new_empty(grad_last.shape)
    slopes = [u.new_empty(parts, *part.shape) for part in (taps, rows, columns, carry)]
    if batch == 0 or length == 0:
        grad_state = grad_last.clone()
        slopes = [part.zero_() for part in slopes]
    else:
        arguments, _kept = _arguments(u, taps, rows, columns, carry, None, lengths, kind)
        grad_y, grad_last = grad_y.contiguous(), grad_last.contiguous()
        given = {"grad_y": grad_y, "grad_last": grad_last, "borders": borders, "grad_u": grad_u}
        given |= {"grad_state": grad_state, "grad_taps": slopes[0], "grad_rows": slopes[1]}
        for name, part in (given | {"grad_columns": slopes[2], "grad_carry": slopes[3]}).items():
            setattr(arguments, name, part.data_ptr())
        arguments.parts = parts
        _native.run("longstate_lti_scan_backward", arguments)
    grad_taps, grad_rows, grad_columns, grad_carry = (part.squeeze(0) if parts == 1 else part.sum(0) for part in slopes)
    return grad_u, grad_taps, grad_rows, grad_columns, grad_carry, grad_state


@_forward.register_fake
def _like_forward(
    u: Tensor,
    taps: Tensor,
    rows: Tensor,
    columns: Tensor,
    carry: Tensor,
    state: Tensor | None,
    lengths: Tensor | None,
    kind: int,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, H = u.shape
    channels, T, N = rows.shape[:3]
    size = T * _native.kernels().longstate_lti_border(kind)
    # One or two more than there are borders: a program with a free length must not find only one, and keep to that.
    borders = u.new_empty(length // size + 2, batch, N, H)
    return u.new_empty(batch, length, channels, H), u.new_empty(batch, N, H), borders


@_backward.register_fake
def _like_backward(
    grad_y: Tensor,
    grad_last: Tensor,
    borders: Tensor,
    u: Tensor,
    taps: Tensor,
    rows: Tensor,
    columns: Tensor,
    carry: Tensor,
    lengths: Tensor | None,
    kind: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    like = [part.new_empty(part.shape) for part in (u, taps, rows, columns, carry, grad_last)]
    return like[0], like[1], like[2], like[3], like[4], like[5]


def _save(ctx, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    *factors, state, lengths, kind = inputs
    ctx.save_for_backward(output[2], *factors, lengths)
    ctx.kind, ctx.has_state = kind, state is not None
    ctx.set_materialize_grads(True)


def _derivatives(ctx, grad_y: Tensor, grad_last: Tensor, _grad_borders: Tensor) -> tuple:
    found = _backward(grad_y, grad_last, *ctx.saved_tensors, ctx.kind)
    return *found[:5], found[5] if ctx.has_state else None, None, None


_forward.register_autograd(_derivatives, setup_context=_save)


def _arguments(
    u: Tensor,
    taps: Tensor,
    rows: Tensor,
    columns: Tensor,
    carry: Tensor,
    state: Tensor | None,
    lengths: Tensor | None,
    kind: int,
) -> tuple[_native.LTIScan, list[Tensor | None]]:
    """The kernel's arguments, and the tensors whose memory they name: these have to live as long."""
    u = u if u.stride(-1) == 1 else u.contiguous()
    flat = [None if part is None else part.contiguous() for part in (taps, rows, columns, carry, state, lengths)]
    batch, length, H = u.shape
    channels, T, N = rows.shape[:3]
    sizes = batch, length, H, channels, N, T, 1
    arguments = _native.LTIScan(*sizes, kind, _native.rows(u), *(_native.pointer(part) for part in flat))
    return arguments, [u, *flat]
