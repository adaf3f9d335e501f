"""The recurrence inside `selective_scan`, with a backward pass that computes every block of states again.

Time stands first and channels last, so that every product runs along contiguous channels; E channels are G groups of
width E/G, and B and C are brought to a shape that broadcasts against the states (T, batch, N, G, E/G) of a block.
"""

import torch
from torch import Tensor

from longstate.ops._dispatch import without_autocast

_BLOCK_ELEMENTS = 1 << 19  # of the states of a block: what stays in a core's cache


def selective_core(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Readout and final state of the recurrence, in one type of numbers.

        h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t,    y_t = C_t h_t   (2 Re(C_t h_t) for complex A)

    Args:
        x: Input u (batch, length, E), real.
        dt: Δ (batch, length, E), real.
        A: (E, N), real or complex.
        B: (batch, length, N), (batch, length, G, N) or (E, N), of the type of A.
        C: As B.
        state: (batch, E, N), of the type of A.
        starts: True where the state is forgotten (batch, length), or None.

    Returns:
        y (batch, length, E), and the state (batch, E, N).
    """
    E, N = A.shape
    groups = max(part.shape[2] if part.dim() == 4 else 1 for part in (B, C))
    A_grouped = A.mT.reshape(N, groups, E // groups)
    B_grouped, C_grouped = (_grouped(part, groups) for part in (B, C))
    h = state.mT.reshape(-1, N, groups, E // groups)
    x, dt = (part.transpose(0, 1).unflatten(-1, (groups, E // groups)) for part in (x, dt))
    keep = None if starts is None else (~starts).T.to(A.dtype)
    y, h = _SelectiveCore.apply(x, dt, A_grouped, B_grouped, C_grouped, h, keep)
    return y.flatten(2).transpose(0, 1), h.flatten(2).mT


def _grouped(part: Tensor, groups: int) -> Tensor:
    """B or C as (length, batch, N, G or 1, 1), or (1, 1, N, G, E/G) if it is the same at all steps."""
    if part.dim() == 2:
        return part.mT.reshape(1, 1, part.shape[1], groups, -1)
    if part.dim() == 3:
        part = part.unsqueeze(2)
    return part.permute(1, 0, 3, 2).unsqueeze(-1)


class _SelectiveCore(torch.autograd.Function):
    """Blocks of steps one after another; only the states between them are kept for the backward pass."""

    @staticmethod
    def forward(
        ctx, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, keep: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        size, factor = _block_size(state), 2 if A.is_complex() else 1
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        borders = [state]
        for begin in range(0, len(x), size):
            block = slice(begin, begin + size)
            _, h = _states(x, dt, A, B, borders[-1], keep, block)
            y[block] = factor * _contract(h, _part(C, block))
            borders.append(h[-1].clone())
        ctx.save_for_backward(x, dt, A, B, C, keep, *borders[:-1])
        return y, borders[-1] if len(borders) > 1 else state.clone()

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        with without_autocast(grad_outputs[0].device):
            return _gradients(ctx.saved_tensors, *grad_outputs)


def _gradients(saved: tuple[Tensor, ...], grad_y: Tensor, grad_state: Tensor) -> tuple[Tensor | None, ...]:
    """The derivatives by the arguments of `_SelectiveCore`, block by block from the end."""
    x, dt, A, B, C, keep, *borders = saved
    size, factor = _block_size(grad_state), 2 if A.is_complex() else 1
    grad_x, grad_dt = torch.empty_like(x), torch.empty_like(dt)
    grad_A, grad_B, grad_C = torch.zeros_like(A), torch.zeros_like(B), torch.zeros_like(C)
    for at in reversed(range(len(borders))):
        block = slice(at * size, (at + 1) * size)
        u, step, B_t, C_t = x[block], dt[block], _part(B, block), _part(C, block)
        a, h = _states(x, dt, A, B, borders[at], keep, block)
        dy = factor * grad_y[block].unsqueeze(2)
        g = dy * C_t.conj()
        g[-1].add_(grad_state)
        for t in range(len(g) - 2, -1, -1):
            g[t].addcmul_(a[t + 1].conj(), g[t + 1])
        grad_state = a[0].conj() * g[0]
        _accumulate(grad_C, block, h.conj(), dy)
        _accumulate(grad_B, block, g, (step * u).unsqueeze(2))
        drive = _contract(g, B_t.conj())
        grad_x[block] = drive * step
        # The derivative by Δ A is g_t conj(a_t h_{t-1}): the part of the state that is not new.
        a[0].mul_(borders[at])
        a[1:].mul_(h[:-1])
        through = g * a.conj()
        grad_A += (through * step.unsqueeze(2)).sum((0, 1))
        grad_dt[block] = _real((through * A.conj()).sum(2)) + drive * u
    return grad_x, grad_dt, grad_A, grad_B, grad_C, grad_state, None


def _block_size(state: Tensor) -> int:
    return max(16, min(128, _BLOCK_ELEMENTS // max(state.numel(), 1)))


def _part(part: Tensor, block: slice) -> Tensor:
    """The steps of a block of B or C, which may be the same at all steps."""
    return part if len(part) == 1 else part[block]


def _states(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, state: Tensor, keep: Tensor | None, block: slice
) -> tuple[Tensor, Tensor]:
    """Decays and states (T, batch, N, G, E/G) of a block that follows `state`."""
    a = torch.exp(dt[block].unsqueeze(2) * A)
    if keep is not None:
        a.mul_(keep[block][:, :, None, None, None])
    h = (dt[block] * x[block]).unsqueeze(2) * _part(B, block)
    h[0].addcmul_(a[0], state)
    for t in range(1, len(h)):
        h[t].addcmul_(a[t], h[t - 1])
    return a, h


def _contract(h: Tensor, C: Tensor) -> Tensor:
    """The real part of the sum over N of `C h`: (T, batch, G, E/G)."""
    if h.is_complex() or C.shape[-1] != 1 or C.shape[-2] != 1:
        return _real((h * C).sum(2))
    # The same vector for all channels: a matrix product, without a copy of the states.
    rows = h.flatten(3).flatten(0, 1)
    C = C.flatten(2).flatten(0, 1).unsqueeze(1).expand(len(rows), 1, -1)
    return (C @ rows).view(h.shape[0], h.shape[1], *h.shape[3:])


def _accumulate(total: Tensor, block: slice, states: Tensor, row: Tensor) -> None:
    """Add `states * row` to the derivatives of B or C, summed over what these were broadcast along."""
    place = total if len(total) == 1 else total[block]
    if states.is_complex() or place.shape[-1] != 1 or place.shape[-2] != 1:
        place += (states * row).sum_to_size(place.shape)
        return
    product = states.flatten(3).flatten(0, 1) @ row.flatten(3).flatten(0, 2).unsqueeze(-1)
    place += product.view_as(place)


def _real(x: Tensor) -> Tensor:
    return x.real if x.is_complex() else x
