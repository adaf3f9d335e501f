"""Packed rows: several sequences in one row, run as padded rows of their own and put back."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Segments(NamedTuple):
    """The sequences of packed rows, in order: row, first position, length, and whether each begins afresh."""

    row: Tensor
    begin: Tensor
    length: Tensor
    fresh: Tensor
    last: Tensor


def segments(starts: Tensor, lengths: Tensor | None) -> Segments:
    """Cut rows at `starts` (batch, length); what follows the valid elements of a row belongs to no segment."""
    batch, width = starts.shape
    ends = torch.full((batch,), width, device=starts.device) if lengths is None else lengths.to(torch.int64)
    valid = torch.arange(width, device=starts.device) < ends[:, None]
    borders = starts.clone()
    borders[:, :1] = True
    row, begin = (borders & valid).nonzero(as_tuple=True)
    following = torch.cat([begin[1:], begin.new_zeros(1)])
    last = torch.cat([row[1:] != row[:-1], row.new_ones(1, dtype=torch.bool)]) if len(row) else row.bool()
    end = torch.where(last, ends[row], following[: len(row)])
    return Segments(row, begin, end - begin, starts[row, begin], last)


def run_packed(
    run: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    u: Tensor,
    state: Tensor,
    starts: Tensor,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Apply `run(u, state, lengths) -> (y, state)` to every packed sequence alone.

    Segments are handled in groups of similar length (powers of two), so that padding at most doubles the work.

    Returns:
        Outputs like those of the packed rows, 0 where no valid element is; and for each row the state after its last
        sequence (the incoming state for a row without valid elements).
    """
    batch, width = starts.shape
    found = segments(starts, lengths)
    flat_u = u.reshape(batch * width, *u.shape[2:])
    if len(found.row) == 0:
        y, _ = run(u[:, :0], state, starts.new_zeros(batch, dtype=torch.int64))
        return y.new_zeros(batch, width, *y.shape[2:]), state
    size_class = (found.length - 1).clamp(min=0).to(torch.float64).add(1).log2().ceil().to(torch.int64)
    y_parts, positions, states = [], [], []
    for size in size_class.unique().tolist():
        group = (size_class == size).nonzero().squeeze(-1)
        row, begin, length = found.row[group], found.begin[group], found.length[group]
        offset = torch.arange(int(length.max()), device=u.device)
        valid = offset < length[:, None]
        position = torch.where(valid, row[:, None] * width + begin[:, None] + offset, 0)
        inside = valid.reshape(*valid.shape, *[1] * (u.dim() - 2))
        fresh = found.fresh[group].reshape(-1, *[1] * (state.dim() - 1))
        y, new_state = run(
            torch.where(inside, flat_u[position], u.new_zeros(())),
            torch.where(fresh, state.new_zeros(()), state[row]),
            length,
        )
        y_parts.append(y[valid])
        positions.append(position[valid])
        keep = found.last[group]
        states.append((row[keep], new_state[keep]))
    y = torch.cat(y_parts)
    y = y.new_zeros(batch * width, *y.shape[1:]).index_copy(0, torch.cat(positions), y)
    for row, new_state in states:
        state = state.index_copy(0, row, new_state)
    return y.reshape(batch, width, *y.shape[1:]), state
