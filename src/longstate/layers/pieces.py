"""A long sequence piece by piece where no gradient is wanted: temporaries of one piece instead of the whole."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

State = TypeVar("State")

_NUMBERS = {"cpu": 1 << 21}
"""Numbers of the widest temporary of a piece, by the kind of device: what a processor still finds in its caches."""

_NUMBERS_ELSEWHERE = 1 << 27
"""On a device that wants as much work a call as there is."""

_SHORTEST = 1024
"""Elements of the shortest piece, and what others are a multiple of: always more work than its calls, and whole blocks
of every scan, so that a piece ends where the scan of the whole would begin a block anyway."""

_TIMES = 8
"""How much more work a piece has at least than what it repeats of the one before."""


def shortest_piece(repeated: int) -> int:
    """`shortest` for a layer whose pieces each repeat work worth so many elements: the window of a filter, a system."""
    return _TIMES * repeated


def by_pieces(
    core: Callable[[Tensor, Any, Tensor | None, Any, Tensor | None], tuple[Tensor, State]],
    x: Tensor,
    state: Any,
    lengths: Tensor | None,
    rate: float | Tensor | None,
    starts: Tensor | None,
    *,
    width: int,
    shortest: int = 1,
) -> tuple[Tensor, State]:
    """`core(x, state, lengths, rate, starts)`, a long x one piece after the other with the state handed on.

    A layer makes many times its input on the way to its output. A gradient needs all of that; without one it is memory
    that the system hands out page by page, and time that grows faster than the length. A causal layer has a state, so
    that nothing but the outputs has to be of the whole length. Where a gradient is recorded or a program is traced, and
    for a sequence of less than two pieces, the core is called once.

    Args:
        core: From x, state, lengths, rate and starts of a piece to its outputs and the state after it.
        x: Input (batch, length, features).
        state: Of the core, before x: what it returns, or another form that it takes at the start.
        lengths: Valid elements of right-padded rows (batch,).
        rate: Given to the core; a tensor (batch, length) is cut as x is.
        starts: True where a packed sequence begins (batch, length).
        width: Numbers an element of a row takes in the widest temporary of the core.
        shortest: Elements that a piece has at least, where the core does some work for each piece.

    Returns:
        Outputs (batch, length, ...) and the state after the last valid element of each row.

    Example:
        >>> import torch
        >>> from longstate.layers.pieces import by_pieces
        >>> def running_sum(x, state, lengths, rate, starts):
        ...     y = x.cumsum(1) + state
        ...     return y, y[:, -1:]
        >>> x, rest = torch.ones(1, 9000, 1), torch.zeros(1, 1, 1)
        >>> with torch.no_grad():
        ...     y, state = by_pieces(running_sum, x, rest, None, 1.0, None, width=4096)
        >>> y.shape, state.flatten()
        (torch.Size([1, 9000, 1]), tensor([9000.]))
    """
    batch, length = x.shape[:2]
    size = piece_length(x, width=width, shortest=shortest)
    if size is None:
        return core(x, state, lengths, rate, starts)

    def run(begin: int, state: Any) -> tuple[Tensor, State]:
        part = slice(begin, begin + size)
        piece = x[:, part]
        valid = None if lengths is None else (lengths - begin).clamp(0, piece.shape[1])
        intervals = rate[:, part] if isinstance(rate, Tensor) else rate
        return core(piece, state, valid, intervals, None if starts is None else starts[:, part])

    y, after = run(0, state)
    whole = y.new_empty(batch, length, *y.shape[2:])
    whole[:, :size] = y
    for begin in range(size, length, size):
        del y  # or it would live beside the next one
        y, after = run(begin, after)
        whole[:, begin : begin + size] = y
    return whole, after


def piece_length(x: Tensor, *, width: int, shortest: int = 1) -> int | None:
    """Elements of the pieces that `by_pieces` would cut x into; None where it would run the whole at once.

    Args:
        x: Input (batch, length, features).
        width: As there.
        shortest: As there.

    Example:
        >>> import torch
        >>> from longstate.layers.pieces import piece_length
        >>> with torch.no_grad():
        ...     piece_length(torch.zeros(1, 9000, 1), width=4096), piece_length(torch.zeros(1, 1000, 1), width=4096)
        (1024, None)
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return None
    batch, length = x.shape[:2]
    numbers = _NUMBERS.get(x.device.type, _NUMBERS_ELSEWHERE)
    count = max(numbers // (max(1, batch) * width * _SHORTEST), -(-shortest // _SHORTEST), 1)
    return count * _SHORTEST if length >= 2 * count * _SHORTEST else None
