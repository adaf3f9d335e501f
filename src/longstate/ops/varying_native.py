"""The compiled scan of diagonal systems under intervals that vary, as a torch operator with its own gradient."""

from typing import NamedTuple

import torch
from torch import Tensor

from longstate.ops import _native


class Exponents(NamedTuple):
    """Systems that are exponentials of the interval, for H features with N modes each.

        A(rate) = e^{rate z},        B(rate) = (e^{rate z} - 1) gain, or gain if inputs are not held

    Attributes:
        z: Exponents (H, N), complex, of a real part that is not positive.
        gain: (H, N), complex.
        held: Whether an input lasts for the interval before it, or is an impulse.
    """

    z: Tensor
    gain: Tensor
    held: bool


def why_not(u: Tensor, rate: Tensor, C: Tensor, exponents: Exponents | None, state: Tensor | None) -> str | None:
    """Why the compiled kernel cannot take this call of `varying_scan`, or None."""
    if exponents is None or not exponents.z.is_complex():
        return "needs complex exponents, got a system that is a function of the intervals"
    if C.dtype is torch.complex128 or any(part is not None and part.dtype is torch.float64 for part in (u, state)):
        return "computes in float32, got float64"
    return _native.why_not_here(u, rate, *exponents[:2], C, state)


def varying_scan_native(
    u: Tensor,
    rate: Tensor,
    C: Tensor,
    exponents: Exponents,
    state: Tensor,
    lengths: Tensor | None,
    starts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Re(C x) (batch, length, channels, H), and the state after a row, in float32."""
    z, gain, C = (_planes(part) for part in (exponents.z, exponents.gain, C))
    rows = None if lengths is None else lengths.to(torch.int64)
    x = state.float().permute(0, 2, 3, 1).contiguous()
    y, final, _ = _forward(u.float(), rate.float(), z, gain, C, x, rows, starts, exponents.held)
    return y, final.permute(0, 3, 1, 2).to(state.dtype)


def _planes(x: Tensor) -> Tensor:
    """Complex (..., H, N) as real (..., N, 2, H)."""
    return torch.view_as_real(x.to(torch.complex64).resolve_conj()).movedim(-3, -1).contiguous()


@torch.library.custom_op("longstate::varying_scan", mutates_args=())
def _forward(
    u: Tensor,
    rate: Tensor,
    z: Tensor,
    gain: Tensor,
    C: Tensor,
    state: Tensor,
    lengths: Tensor | None,
    starts: Tensor | None,
    held: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, the last state, and the states before blocks of elements, which the gradient needs."""
    y, final, borders = _like_forward(u, rate, z, gain, C, state, lengths, starts, held)
    arguments, _kept = _arguments(u, rate, z, gain, C, state, lengths, starts, held)
    arguments.y, arguments.final_state, arguments.borders = y.data_ptr(), final.data_ptr(), borders.data_ptr()
    _native.run("longstate_varying_scan", arguments)
    return y, final, borders


@torch.library.custom_op("longstate::varying_scan_backward", mutates_args=())
def _backward(
    grad_y: Tensor,
    grad_final: Tensor,
    borders: Tensor,
    u: Tensor,
    rate: Tensor,
    z: Tensor,
    gain: Tensor,
    C: Tensor,
    lengths: Tensor | None,
    starts: Tensor | None,
    held: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The derivatives by u, rate, z, gain, C and state."""
    batch, _, features = u.shape
    tiles = -(-features // _native.kernels().longstate_lanes())
    grad_u, grad_rate = u.new_empty(u.shape), u.new_empty(tiles, *rate.shape)
    grad_z, grad_gain, grad_C = (part.new_empty(batch, *part.shape) for part in (z, gain, C))
    grad_state = u.new_empty(grad_final.shape)
    arguments, _kept = _arguments(u, rate, z, gain, C, None, lengths, starts, held)
    grad_y, grad_final = grad_y.contiguous(), grad_final.contiguous()
    given = {"grad_y": grad_y, "grad_final": grad_final, "borders": borders, "grad_u": grad_u, "grad_rate": grad_rate}
    given |= {"grad_z": grad_z, "grad_gain": grad_gain, "grad_C": grad_C, "grad_state": grad_state}
    for name, part in given.items():
        setattr(arguments, name, part.data_ptr())
    _native.run("longstate_varying_scan_backward", arguments)
    return grad_u, grad_rate.sum(0), grad_z.sum(0), grad_gain.sum(0), grad_C.sum(0), grad_state


@_forward.register_fake
def _like_forward(
    u: Tensor,
    rate: Tensor,
    z: Tensor,
    gain: Tensor,
    C: Tensor,
    state: Tensor,
    lengths: Tensor | None,
    starts: Tensor | None,
    held: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, features = u.shape
    block = _native.kernels().longstate_varying_block()
    borders = u.new_empty(batch, (length + block - 1) // block, *z.shape)
    return u.new_empty(batch, length, C.shape[0], features), u.new_empty(state.shape), borders


@_backward.register_fake
def _like_backward(
    grad_y: Tensor,
    grad_final: Tensor,
    borders: Tensor,
    u: Tensor,
    rate: Tensor,
    z: Tensor,
    gain: Tensor,
    C: Tensor,
    lengths: Tensor | None,
    starts: Tensor | None,
    held: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    like = [part.new_empty(part.shape) for part in (u, rate, z, gain, C, grad_final)]
    return like[0], like[1], like[2], like[3], like[4], like[5]


def _save(ctx, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, _, lengths, starts, held = inputs
    ctx.save_for_backward(output[2], *tensors, lengths, starts)
    ctx.held = held
    ctx.set_materialize_grads(True)


def _derivatives(ctx, grad_y: Tensor, grad_final: Tensor, _grad_borders: Tensor) -> tuple:
    return *_backward(grad_y, grad_final, *ctx.saved_tensors, ctx.held), None, None, None


_forward.register_autograd(_derivatives, setup_context=_save)


def _arguments(
    u: Tensor,
    rate: Tensor,
    z: Tensor,
    gain: Tensor,
    C: Tensor,
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
    held: bool,
) -> tuple[_native.VaryingScan, list[Tensor | None]]:
    """The kernel's arguments, and the tensors whose memory they name: these have to live as long."""
    u = u if u.stride(-1) == 1 else u.contiguous()
    flat = [None if part is None else part.contiguous() for part in (rate, z, gain, C, state, lengths, starts)]
    batch, length, features = u.shape
    sizes = batch, length, features, C.shape[0], z.shape[0]
    pointers = [_native.pointer(part) for part in flat]
    return _native.VaryingScan(*sizes, int(held), _native.rows(u), *pointers), [u, *flat]
