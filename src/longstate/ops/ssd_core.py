"""The state space duality of Mamba-2 in blocks: inside a block an attention-like product, between blocks a recurrence.

All that is done here is batched matrix products over (batch, block, head), in both passes. With c the cumulative sum of
the log decays inside a block of Q steps, X its inputs, S the state that comes in and S' the one that goes out:

    Y_i = Σ_{j<=i} (C_i·B_j) e^{c_i - c_j} X_j + e^{c_i} S C_i,     S' = e^{c_Q} S + Σ_j e^{c_Q - c_j} X_j ⊗ B_j

Every term of Y_i holds the factor e^{c_i} and every term with X_j the factor e^{-c_j}, so the derivative by c needs no
further product: dc_t = dY_t·Y_t - X_t·dX_t, and at the end of a block dS'·S' more.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from longstate.ops._dispatch import without_autocast

_PIECE = 4096  # steps whose blocks are joined in one product


def ssd_core(
    X: Tensor,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    starts: Tensor | None,
    block: int,
    *,
    rank: int = 1,
) -> tuple[Tensor, Tensor]:
    """Outputs and final state of heads with one decay each, in one type of numbers.

        S_t = e^{log_decay_t} S_{t-1} + X_t ⊗ B_t,    Y_t = S_t C_t

    Args:
        X: Inputs (batch, length, H, P).
        log_decay: At most 0, (batch, length, H).
        B: Keys (batch, length, G, N), head h reading group h // (H/G).
        C: Queries, as B.
        state: S before the first step (batch, H, P, N).
        starts: True where the state is forgotten (batch, length), or None.
        block: Q, a multiple of `rank`.
        rank: So many steps that follow each other are one instant: each reads what all of them add. Only the first of
            them may decay or start a sequence.

    Returns:
        Y (batch, length, H, P), and S after the last step.
    """
    length = X.shape[1]
    if length == 0:
        return X, state
    block = min(block - block % rank, length)
    piece = block * max(_PIECE // block, 1)
    if length <= piece:
        return _piece(X, log_decay, B, C, state, starts, block, rank)
    # The products inside the blocks are held for all blocks of a piece at once: pieces bound them at any length.
    outputs = []
    for begin in range(0, length, piece):
        part = slice(begin, begin + piece)
        begun = None if starts is None else starts[:, part]
        Y, state = _piece(X[:, part], log_decay[:, part], B[:, part], C[:, part], state, begun, block, rank)
        outputs.append(Y)
    return torch.cat(outputs, dim=1), state


def _piece(
    X: Tensor,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    starts: Tensor | None,
    block: int,
    rank: int,
) -> tuple[Tensor, Tensor]:
    length, groups = X.shape[1], B.shape[2]
    # Zeros at the end change nothing: their decay is 1 and they add nothing to the state.
    extra = -length % block
    X, log_decay, B, C = (_blocks(part, extra, block, groups) for part in (X, log_decay.unsqueeze(-1), B, C))
    segment = None
    if starts is not None:
        count = starts.cumsum(1)
        segment = torch.cat([count, count[:, -1:].expand(-1, extra)], dim=1).unflatten(1, (-1, block))
    Y, state = _SSDCore.apply(
        X, log_decay.squeeze(-1), B.squeeze(-2), C.squeeze(-2), state.unflatten(1, (groups, -1)), segment, rank
    )
    return Y.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :length], state.flatten(1, 2)


def _blocks(x: Tensor, extra: int, block: int, groups: int) -> Tensor:
    """(batch, length, heads, width) as (batch, blocks, G, Q, heads/G, width)."""
    x = F.pad(x, (0, 0, 0, 0, 0, extra)) if extra else x
    x = x.unflatten(1, (-1, block)).unflatten(3, (groups, -1))
    return x.transpose(2, 3).contiguous()


class _SSDCore(torch.autograd.Function):
    """Keeps the states between blocks; the products inside them are computed again for the gradient.

    What a group's heads share is one product over all of them at once (`wide`); what they do not is one a head.
    """

    @staticmethod
    def forward(
        ctx, X: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, state: Tensor, segment: Tensor | None, rank: int
    ) -> tuple[Tensor, Tensor]:
        factors = _factors(log_decay, segment, rank)
        added = _wide(X * factors.until).mT @ B
        incoming = torch.empty_like(added).unflatten(3, state.shape[2:4])
        added = added.view_as(incoming)
        for at in range(X.shape[1]):
            incoming[:, at] = state
            state = torch.addcmul(added[:, at], factors.through[:, at], state)
        Y = (C @ incoming.flatten(3, 4).mT).view_as(X) * factors.since
        Y += (_scores(C, B, factors.within) @ _by_head(X)).transpose(3, 4)
        ctx.save_for_backward(X, log_decay, B, C, segment, incoming, Y, state)
        ctx.rank = rank
        return Y, state

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        with without_autocast(grad_outputs[0].device):
            return *_gradients(ctx.saved_tensors, ctx.rank, *grad_outputs), None, None


def _gradients(saved: tuple[Tensor, ...], rank: int, dY: Tensor, d_state: Tensor) -> tuple[Tensor, ...]:
    """The derivatives by X, log_decay, B, C and state; products over blocks, and a recurrence between them."""
    X, log_decay, B, C, segment, incoming, Y, state = saved
    factors = _factors(log_decay, segment, rank)
    scaled_dY = _wide(dY * factors.since)
    d_incoming = (scaled_dY.mT @ C).view_as(incoming)
    d_outgoing = torch.empty_like(incoming)
    for at in range(X.shape[1] - 1, -1, -1):
        d_outgoing[:, at] = d_state
        d_state = torch.addcmul(d_incoming[:, at], factors.through[:, at], d_state)
    d_wide = d_outgoing.flatten(3, 4)
    X_heads, dY_heads = _by_head(X), _by_head(dY)
    dX = (B @ d_wide.mT).view_as(X) * factors.until
    dX += (_scores(C, B, factors.within).mT @ dY_heads).transpose(3, 4)
    d_products = ((dY_heads @ X_heads.mT) * factors.within).sum(3)
    dC = d_products @ B + scaled_dY @ incoming.flatten(3, 4)
    dB = d_products.mT @ C + _wide(X * factors.until) @ d_wide
    dc = (dY * Y - X * dX).sum(-1)
    dc[:, :-1, :, -1] += _dot(d_outgoing[:, :-1], incoming[:, 1:])
    dc[:, -1, :, -1] += _dot(d_outgoing[:, -1], state)
    return dX, dc.flip(3).cumsum(3).flip(3), dB, dC, d_state


class _Factors(NamedTuple):
    """What the decays of every block make, zero across a border."""

    within: Tensor  # e^{c_i - c_j} (batch, blocks, G, H/G, Q, Q)
    since: Tensor  # e^{c_i} (batch, blocks, G, Q, H/G, 1)
    until: Tensor  # e^{c_Q - c_j}, of the same shape
    through: Tensor  # e^{c_Q} (batch, blocks, G, H/G, 1, 1)


def _factors(log_decay: Tensor, segment: Tensor | None, rank: int) -> _Factors:
    c = log_decay.cumsum(3)
    last = c[:, :, :, -1:]
    since, until, through = c.exp(), (last - c).exp(), last.squeeze(3).exp()
    instant = torch.arange(c.shape[3], device=c.device) // rank
    visible = instant[:, None] >= instant
    if segment is not None:
        visible = (visible & (segment[:, :, :, None] == segment[:, :, None]))[:, :, None, None]
        before = F.pad(segment[:, :-1, -1], (1, 0))
        since = _only_where(segment == before[..., None], since)
        until = _only_where(segment == segment[..., -1:], until)
        through = torch.where((segment[..., -1] == before)[..., None, None], through, through.new_zeros(()))
    by_head = c.transpose(3, 4)
    # Masked before the exponential: above the diagonal it would overflow.
    within = (by_head[..., :, None] - by_head[..., None, :]).masked_fill(~visible, -torch.inf).exp()
    return _Factors(within, since[..., None], until[..., None], through[..., None, None])


def _only_where(same: Tensor, factor: Tensor) -> Tensor:
    return torch.where(same[:, :, None, :, None], factor, factor.new_zeros(()))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """`a·b` over the last two axes, as one product: element by element it would write as much again."""
    return (a.flatten(-2).unsqueeze(-2) @ b.flatten(-2).unsqueeze(-1))[..., 0, 0]


def _scores(C: Tensor, B: Tensor, within: Tensor) -> Tensor:
    """`(C_i·B_j) e^{c_i - c_j}` (batch, blocks, G, H/G, Q, Q); the product is formed once a group."""
    return (C @ B.mT).unsqueeze(3) * within


def _wide(x: Tensor) -> Tensor:
    """All heads of a group beside each other: (batch, blocks, G, Q, H/G P)."""
    return x.flatten(4)


def _by_head(x: Tensor) -> Tensor:
    """One matrix a head: (batch, blocks, G, H/G, Q, P)."""
    return x.transpose(3, 4).contiguous()
