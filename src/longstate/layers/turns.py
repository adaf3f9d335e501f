"""Angles that accumulate along a sequence, counted in turns so that an endless sum keeps its digits."""

import math

import torch
from torch import Tensor

PAIRS = ("adjacent", "halves")


def running_turns(turn: Tensor, first: Tensor, starts: Tensor | None) -> Tensor:
    """Sums of turns along axis 1, from `first` and from 0 at every start, taken modulo 1.

    Args:
        turn: (batch, length, ...), float64.
        first: What was turned before (batch, ...).
        starts: True where the sum begins at 0 again (batch, length), or None.

    Returns:
        (batch, length, ...), from 0 to 1.

    Example:
        >>> import torch
        >>> from longstate.layers.turns import running_turns
        >>> turn = torch.full((1, 4), 0.4, dtype=torch.float64)
        >>> running_turns(turn, torch.tensor([0.5], dtype=torch.float64), torch.tensor([[False, False, True, False]]))
        tensor([[0.9000, 0.3000, 0.4000, 0.8000]], dtype=torch.float64)
    """
    total = turn.cumsum(1) + first.unsqueeze(1)
    if starts is not None:
        place = torch.arange(turn.shape[1], device=turn.device)
        since = torch.where(starts, place, -1).cummax(1).values.reshape(*starts.shape, *[1] * (turn.dim() - 2))
        before = (total - turn).gather(1, since.clamp(min=0).expand_as(total))
        total = torch.where(since >= 0, total - before, total)
    return total - total.floor()


def rotate_pairs(x: Tensor, turns: Tensor, pairs: str) -> Tensor:
    """Turn the first pairs of the last axis: (a, b) -> (a cos θ - b sin θ, a sin θ + b cos θ), θ = 2π turns.

    Args:
        x: (..., H, R, N).
        turns: (..., H, angles), angles <= N/2, the same for all ranks.
        pairs: "adjacent" for the pairs (2i, 2i+1), "halves" for (i, i + N/2).

    Returns:
        As `x`.

    Example:
        >>> import torch
        >>> from longstate.layers.turns import rotate_pairs
        >>> x = torch.tensor([1.0, 0.0, 1.0, 0.0]).reshape(1, 1, 4)
        >>> rotate_pairs(x, torch.tensor([[0.125]], dtype=torch.float64), "adjacent").flatten()
        tensor([0.7071, 0.7071, 1.0000, 0.0000])
    """
    angles, half = turns.shape[-1], x.shape[-1] // 2
    theta = 2 * math.pi * turns.unsqueeze(-2)
    cos, sin = theta.cos().to(x.dtype), theta.sin().to(x.dtype)
    if pairs == "adjacent":
        a, b = x.unflatten(-1, (half, 2)).unbind(-1)
    else:
        a, b = x.chunk(2, dim=-1)
    turned_a = a[..., :angles] * cos - b[..., :angles] * sin
    turned_b = a[..., :angles] * sin + b[..., :angles] * cos
    a, b = torch.cat([turned_a, a[..., angles:]], dim=-1), torch.cat([turned_b, b[..., angles:]], dim=-1)
    return torch.stack([a, b], dim=-1).flatten(-2) if pairs == "adjacent" else torch.cat([a, b], dim=-1)
