"""The compiled scan of heads with one decay each as a torch operator with its own gradient.

S_t = e^{log_decay_t} S_{t-1} + weight_t x_t ⊗ B_t,    y_t = S_t C_t + D x_t

The steps' weights and decays are made by torch, one number a head, which therefore also carries their gradients on.
"""

import torch
from torch import Tensor

from longstate.ops import _native

_BLOCK = 64  # kSteps of csrc/ssd.cc


def why_not(x: Tensor, rank: int, *rest: Tensor | None) -> str | None:
    """Why the compiled kernel cannot take these inputs, states and vectors, or why it would be slow; or None."""
    if any(part is not None and part.dtype is torch.float64 for part in (x, *rest)):
        return "computes in float32, got float64"
    if rank > _BLOCK:
        return f"joins at most {_BLOCK} vectors a step, got {rank}"
    reason = _native.why_not_here(x, *rest)
    if reason is None and not _has_vectors():
        return "is slower than torch's products where the compiler knows no vectors"
    return reason


@torch.compiler.assume_constant_result
def _has_vectors() -> bool:
    return _native.kernels().longstate_lanes() > 1


def ssd_core_native(
    x: Tensor,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor | None,
    starts: Tensor | None,
    *,
    weight: Tensor | None = None,
    D: Tensor | None = None,
    lengths: Tensor | None = None,
    rank: int = 1,
) -> tuple[Tensor, Tensor]:
    """Outputs and final state in float32 by the compiled kernel; padding is not read, its outputs are zero.

    Args:
        x: Inputs (batch, length, H, P).
        log_decay: At most 0, (batch, length, H).
        B: Keys (batch, length, G, N), head h reading group h // (H/G).
        C: Queries, as B.
        state: S before the first step (batch, H, P, N); zero if None.
        starts: True where the state is forgotten (batch, length), or None.
        weight: Of a step's input (batch, length, H); one if None.
        D: Skip (H, P).
        lengths: Valid steps (batch,).
        rank: So many steps that follow each other are one instant, as in `ssd_core`.

    Returns:
        y (batch, length, H, P), and S after the last valid step.
    """
    flat = [None if part is None else part.float() for part in (log_decay, weight, D, state)]
    vectors = [part.float().flatten(2) for part in (x, B, C)]
    rows = None if lengths is None else lengths.to(torch.int64)
    slopes = torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in (*flat, *vectors))
    y, final, _ = _forward(*vectors, *flat, rows, starts, B.shape[2], rank, slopes)
    return y.view(x.shape), final


@torch.library.custom_op("longstate::ssd", mutates_args=())
def _forward(
    x: Tensor,
    B: Tensor,
    C: Tensor,
    log_decay: Tensor,
    weight: Tensor | None,
    D: Tensor | None,
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
    groups: int,
    rank: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, final state, and with `keep` the states between blocks that the gradient needs."""
    y, final, borders = _like_forward(x, B, C, log_decay, weight, D, state, lengths, starts, groups, rank, keep)
    if x.shape[1] == 0 or x.shape[0] == 0:
        return y, final.zero_() if state is None else final.copy_(state), borders
    arguments, _kept = _arguments(x, B, C, log_decay, weight, D, state, lengths, starts, groups, rank)
    arguments.y, arguments.final_state = y.data_ptr(), final.data_ptr()
    arguments.borders = borders.data_ptr() if keep else None
    _native.run("longstate_ssd", arguments)
    return y, final, borders


@torch.library.custom_op("longstate::ssd_backward", mutates_args=())
def _backward(
    grad_y: Tensor,
    grad_final: Tensor,
    borders: Tensor,
    x: Tensor,
    B: Tensor,
    C: Tensor,
    log_decay: Tensor,
    weight: Tensor | None,
    D: Tensor | None,
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
    groups: int,
    rank: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The derivatives by x, B, C, log_decay, weight, D and state."""
    batch, length, heads = log_decay.shape
    N, P = B.shape[2] // groups, x.shape[2] // heads
    tiles = _native.kernels().longstate_ssd_tiles(heads, groups)
    grad_x, grad_state = x.new_empty(x.shape), x.new_empty(batch, heads, P, N)
    grad_decay, grad_weight = (x.new_empty(log_decay.shape) for _ in range(2))
    grad_B, grad_C = (x.new_empty(tiles, batch, length, N) for _ in range(2))
    grad_D = x.new_empty(batch, heads, P)
    if length == 0 or batch == 0:
        grad_B, grad_C, grad_D, grad_state = grad_B.zero_(), grad_C.zero_(), grad_D.zero_(), grad_final.clone()
    else:
        arguments, _kept = _arguments(x, B, C, log_decay, weight, D, state, lengths, starts, groups, rank)
        grad_y, grad_final = grad_y.contiguous(), grad_final.contiguous()
        given = {"borders": borders, "grad_y": grad_y, "grad_final": grad_final, "grad_x": grad_x}
        given |= {"grad_weight": grad_weight, "grad_decay": grad_decay, "grad_B": grad_B, "grad_C": grad_C}
        for name, part in (given | {"grad_D": grad_D, "grad_state": grad_state}).items():
            setattr(arguments, name, part.data_ptr())
        _native.run("longstate_ssd_backward", arguments)
    # A tile of heads has a part of its own; those of a group belong together.
    B_and_C = (part.unflatten(0, (groups, -1)).sum(1).permute(1, 2, 0, 3).flatten(2) for part in (grad_B, grad_C))
    grad_B, grad_C = (part.contiguous() for part in B_and_C)
    return grad_x, grad_B, grad_C, grad_decay, grad_weight, grad_D.sum(0), grad_state


@_forward.register_fake
def _like_forward(
    x: Tensor,
    B: Tensor,
    C: Tensor,
    log_decay: Tensor,
    weight: Tensor | None,
    D: Tensor | None,
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
    groups: int,
    rank: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, heads = log_decay.shape
    N, P = B.shape[2] // groups, x.shape[2] // heads
    block = _BLOCK - _BLOCK % rank
    blocks = (length + block - 1) // block if keep else 0
    return x.new_empty(x.shape), x.new_empty(batch, heads, P, N), x.new_empty(batch, blocks, heads, N, P)


@_backward.register_fake
def _like_backward(
    grad_y: Tensor,
    grad_final: Tensor,
    borders: Tensor,
    x: Tensor,
    B: Tensor,
    C: Tensor,
    log_decay: Tensor,
    weight: Tensor | None,
    D: Tensor | None,
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
    groups: int,
    rank: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    heads = log_decay.shape[2]
    likes = x.new_empty(x.shape), x.new_empty(B.shape), x.new_empty(C.shape)
    decays = x.new_empty(log_decay.shape), x.new_empty(log_decay.shape)
    return *likes, *decays, x.new_empty(heads, x.shape[2] // heads), x.new_empty(grad_final.shape)


def _save(ctx, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, groups, rank, _ = inputs
    ctx.save_for_backward(output[2], *tensors)
    ctx.groups, ctx.rank = groups, rank
    ctx.set_materialize_grads(True)


def _derivatives(ctx, grad_y: Tensor, grad_final: Tensor, _grad_borders: Tensor) -> tuple:
    borders, *tensors = ctx.saved_tensors
    found = _backward(grad_y, grad_final, borders, *tensors, ctx.groups, ctx.rank)
    slopes = [slope if part is not None else None for slope, part in zip(found, tensors[:7], strict=True)]
    return *slopes, None, None, None, None, None


_forward.register_autograd(_derivatives, setup_context=_save)


def _arguments(
    x: Tensor,
    B: Tensor,
    C: Tensor,
    log_decay: Tensor,
    weight: Tensor | None,
    D: Tensor | None,
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
    groups: int,
    rank: int,
) -> tuple[_native.SSD, list[Tensor | None]]:
    """The kernel's arguments, and the tensors whose memory they name: these have to live as long."""
    given = (x, weight, log_decay, B, C)
    wide = [part if part is None or part.stride(-1) == 1 else part.contiguous() for part in given]
    flat = [None if part is None else part.contiguous() for part in (D, state, lengths, starts)]
    batch, length, heads = log_decay.shape
    arguments = _native.SSD(
        batch,
        length,
        heads,
        x.shape[2] // heads,
        B.shape[2] // groups,
        groups,
        _BLOCK - _BLOCK % rank,
        rank,
        *(_native.rows(part) for part in wide),
        *(_native.pointer(part) for part in flat),
    )
    return arguments, [*wide, *flat]
