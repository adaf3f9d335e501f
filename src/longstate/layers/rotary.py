"""Rotary positions: queries and keys turned by angles that grow with their place."""

import torch
from torch import Tensor


def rotate(x: Tensor, position: Tensor, base: float) -> Tensor:
    """Turn the pairs (i, i + width/2) of every head by position · base^(-2i/width).

    Args:
        x: (batch, length, heads, width), width even.
        position: Places (batch, length).
        base: 10,000 in the paper.

    Returns:
        As `x`.

    Source:
        Su et al.: RoFormer, arXiv 2104.09864, equation 34; pairs as in GPT-NeoX and LLaMA.

    Example:
        >>> import torch
        >>> from longstate.layers.rotary import rotate
        >>> rotate(torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2), torch.tensor([[1]]), 10_000.0).flatten()
        tensor([0.5403, 0.8415])
    """
    half = x.shape[-1] // 2
    # In float64: at position 100,000 a float32 angle is off by 4e-3.
    turn = base ** -(torch.arange(half, dtype=torch.float64, device=x.device) / half)
    angle = position[..., None, None] * turn
    cos, sin = (part.to(torch.promote_types(x.dtype, torch.float32)) for part in (angle.cos(), angle.sin()))
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)
