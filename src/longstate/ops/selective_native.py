"""The compiled selective scan as a torch operator with its own gradient."""

import torch
from torch import Tensor

from longstate.ops import _native


def why_not(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
) -> str | None:
    """Why the compiled kernel cannot take this call, or None."""
    if A.is_complex():
        return "needs a real A, got a complex one"
    if B.dim() == 2 or C.dim() == 2:
        return "needs B and C for every step, got vectors that are the same at all steps"
    wide = next((part.dtype for part in (u, dt, A, state) if part is not None and part.dtype is torch.float64), None)
    if wide is not None:
        return "computes in float32, got float64"
    return _native.why_not_here(u, dt, A, B, C, D, z, dt_bias, state)


def selective_scan_native(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`selective_scan` in float32 by the compiled kernel."""
    B, C = (part.flatten(2) for part in (B, C))
    floats = (part if part is None else part.float() for part in (u, dt, A, B, C, D, z, dt_bias))
    rows = None if lengths is None else lengths.to(torch.int64)
    groups = B.shape[2] // A.shape[1]
    y, final, _ = _forward(*floats, dt_softplus, None if state is None else state.float(), rows, starts, groups)
    return y.to(u.dtype), final


@torch.library.custom_op("longstate::selective_scan", mutates_args=())
def _forward(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
    groups: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, final state, and the states between blocks that the gradient needs."""
    y, final, borders = _like_forward(u, dt, A, B, C, D, z, dt_bias, dt_softplus, state, lengths, starts, groups)
    if u.shape[1] == 0 or u.shape[0] == 0:
        return y, final.zero_() if state is None else state.clone(), borders
    arguments, _kept = _arguments(u, dt, A, B, C, D, z, dt_bias, dt_softplus, state, lengths, starts, groups)
    arguments.y, arguments.final_state, arguments.borders = y.data_ptr(), final.data_ptr(), borders.data_ptr()
    _native.run("longstate_selective_scan", arguments)
    return y, final, borders


@torch.library.custom_op("longstate::selective_scan_backward", mutates_args=())
def _backward(
    grad_y: Tensor,
    grad_final: Tensor,
    borders: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
    groups: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The derivatives by u, dt, A, B, C, D, z, dt_bias and state."""
    batch, length, channels = u.shape
    tiles = _native.kernels().longstate_selective_tiles(channels, groups)
    grad_u, grad_dt, grad_z = (u.new_empty(u.shape) for _ in range(3))
    grad_A, grad_state = (u.new_empty(batch, *A.shape) for _ in range(2))
    grad_D, grad_bias = (u.new_empty(batch, channels) for _ in range(2))
    grad_B, grad_C = (u.new_empty(tiles, batch, length, A.shape[1]) for _ in range(2))
    if length == 0 or batch == 0:
        zeros = [part.zero_() for part in (grad_A, grad_D, grad_bias, grad_B, grad_C)]
        grad_A, grad_D, grad_bias, grad_B, grad_C = zeros
        grad_state = grad_final.clone()
    else:
        arguments, _kept = _arguments(u, dt, A, B, C, D, z, dt_bias, dt_softplus, state, lengths, starts, groups)
        grad_y, grad_final = grad_y.contiguous(), grad_final.contiguous()
        given = {"grad_y": grad_y, "grad_final": grad_final, "borders": borders, "grad_u": grad_u, "grad_dt": grad_dt}
        given |= {"grad_z": grad_z, "grad_A": grad_A, "grad_D": grad_D, "grad_bias": grad_bias, "grad_B": grad_B}
        for name, part in (given | {"grad_C": grad_C, "grad_state": grad_state}).items():
            setattr(arguments, name, part.data_ptr())
        _native.run("longstate_selective_scan_backward", arguments)
    # A tile of channels has a part of its own; those of a group belong together.
    B_and_C = (part.unflatten(0, (groups, -1)).sum(1).permute(1, 2, 0, 3).flatten(2) for part in (grad_B, grad_C))
    grad_B, grad_C = (part.contiguous() for part in B_and_C)
    return grad_u, grad_dt, grad_A.sum(0), grad_B, grad_C, grad_D.sum(0), grad_z, grad_bias.sum(0), grad_state


@_forward.register_fake
def _like_forward(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
    groups: int,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, channels = u.shape
    block = _native.kernels().longstate_selective_block()
    borders = u.new_empty(batch, (length + block - 1) // block, A.shape[1], channels)
    return u.new_empty(u.shape), u.new_empty(batch, *A.shape), borders


@_backward.register_fake
def _like_backward(
    grad_y: Tensor,
    grad_final: Tensor,
    borders: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
    groups: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    wide, channel = u.new_empty(u.shape), u.new_empty(u.shape[2])
    vectors, state_like = u.new_empty(B.shape), u.new_empty(grad_final.shape)
    A_like = u.new_empty(A.shape)
    likes = (wide, torch.empty_like(wide), A_like, vectors, torch.empty_like(vectors), channel)
    return *likes, torch.empty_like(wide), torch.empty_like(channel), state_like


def _save(ctx, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, _, state, lengths, starts, _ = inputs
    ctx.save_for_backward(output[2], *tensors, state, lengths, starts)
    ctx.softplus, ctx.groups = inputs[8], inputs[12]
    ctx.set_materialize_grads(False)  # zeros for the borders would be written at every step


def _derivatives(ctx, grad_y: Tensor | None, grad_final: Tensor | None, _grad_borders: None) -> tuple:
    borders, *tensors, state, lengths, starts = ctx.saved_tensors
    u, A = tensors[0], tensors[2]
    grad_y = torch.zeros_like(u) if grad_y is None else grad_y
    grad_final = u.new_zeros(len(u), *A.shape) if grad_final is None else grad_final
    found = _backward(grad_y, grad_final, borders, *tensors, ctx.softplus, state, lengths, starts, ctx.groups)
    given = [*tensors, state]
    *slopes, by_state = [slope if part is not None else None for slope, part in zip(found, given, strict=True)]
    return *slopes, None, by_state, None, None, None


_forward.register_autograd(_derivatives, setup_context=_save)


def _arguments(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
    groups: int,
) -> tuple[_native.SelectiveScan, list[Tensor | None]]:
    """The kernel's arguments, and the tensors whose memory they name: these have to live as long."""
    wide = [part if part is None or part.stride(-1) == 1 else part.contiguous() for part in (u, dt, z, B, C)]
    flat = [None if part is None else part.contiguous() for part in (A, D, dt_bias, state, lengths, starts)]
    batch, length, channels = u.shape
    arguments = _native.SelectiveScan(
        batch,
        length,
        channels,
        A.shape[1],
        groups,
        *(_native.rows(part) for part in wide),
        *(_native.pointer(part) for part in flat[:3]),
        int(dt_softplus),
        *(_native.pointer(part) for part in flat[3:]),
    )
    return arguments, [*wide, *flat]
