"""The state of a finite filter: the last valid inputs of each row, oldest first."""

import torch
from torch import Tensor

from longstate._checks import InputError, zero_padding


def next_tail(tail: Tensor, x: Tensor, lengths: Tensor | None, starts: Tensor | None) -> Tensor:
    """The last inputs after a chunk, drawn from the old tail where a row has too few.

    Args:
        tail: The last inputs before the chunk (batch, count, H).
        x: The chunk (batch, length, H).
        lengths: Valid elements of right-padded rows (batch,).
        starts: True where a packed sequence begins (batch, length); what lies before the last one is forgotten.

    Returns:
        (batch, count, H), in the type of `tail`.
    """
    count, length = tail.shape[1], x.shape[1]
    if count == 0 or length == 0:
        return tail
    if lengths is None and starts is None:
        recent = x[:, max(length - count, 0) :].to(tail.dtype)
        # A copy, since a view would keep the whole chunk in memory for as long as the state lives.
        return torch.cat([tail[:, length:], recent], dim=1) if length < count else recent.clone()
    ends = torch.full((len(x),), length, device=x.device) if lengths is None else lengths
    position = ends[:, None] + torch.arange(-count, 0, device=x.device)
    from_x = _rows(x, position.clamp(min=0)).to(tail.dtype)
    from_tail = _rows(tail, (position + count).clamp(max=count - 1))
    new = torch.where((position >= 0)[..., None], from_x, from_tail)
    if starts is None:
        return new
    place = torch.arange(length, device=x.device)
    begun = torch.where(starts & (place < ends[:, None]), place, -count).amax(1)
    return torch.where((position >= begun[:, None])[..., None], new, new.new_zeros(()))


def window_reference(
    u: Tensor, K: Tensor, tail: Tensor | None, lengths: Tensor | None, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`y_t = sum_l K_l u_{t-l}` as a loop over time, with a window that moves.

    Returns:
        Outputs (batch, length, channels, H) in the type of the sum, and the window after them.
    """
    dtype = torch.promote_types(torch.promote_types(u.dtype, torch.float32), K.dtype)
    count = K.shape[-1] - 1
    tail = u.new_zeros(u.shape[0], count, u.shape[2]) if tail is None else tail
    window, taps = tail.to(dtype), K.to(dtype).flip(-1).mT
    inputs, y = zero_padding(u, lengths).to(dtype), []
    for t in range(u.shape[1]):
        valid = torch.ones_like(u[:, t, 0], dtype=torch.bool) if lengths is None else t < lengths
        if starts is not None:
            window = torch.where((starts[:, t] & valid)[:, None, None], torch.zeros_like(window), window)
        whole = torch.cat([window, inputs[:, t : t + 1]], dim=1)
        y.append((whole[:, None] * taps).sum(2))
        window = torch.where(valid[:, None, None], whole[:, 1:], window)
    out = torch.stack(y, dim=1) if y else inputs.new_zeros(u.shape[0], 0, *K.shape[:2])
    return out, window.to(tail.dtype)


def check_tail(tail: Tensor | None, u: Tensor, taps: int) -> None:
    """Raise unless `tail` is None or holds taps - 1 inputs for each row of `u` (batch, ..., H)."""
    wanted = (u.shape[0], taps - 1, u.shape[-1])
    if tail is not None and tuple(tail.shape) != wanted:
        raise InputError(
            f"`tail` has shape {tuple(tail.shape)}, but {wanted} is needed: the last {taps - 1} inputs of each row; "
            "start from zeros, or from `initial_state(batch_size)` of the layer."
        )


def _rows(x: Tensor, position: Tensor) -> Tensor:
    """`x` (batch, length, H) at positions (batch, count)."""
    return x.gather(1, position[..., None].expand(-1, -1, x.shape[2]))
