"""A linear memory of each channel: all channels share its matrices, which may change with the clock of a row."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from longstate._checks import InputError, check_lengths, check_positive, check_starts, zero_padding
from longstate.ops import _dispatch
from longstate.ops.packing import run_packed

Blocks = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From how many elements came before (groups,) to enter (Q, N) and weights (groups or 1, N, T, Q + T)."""


def memory_scan(
    u: Tensor,
    state: Tensor,
    first: Tensor,
    blocks: Blocks,
    size: int,
    *,
    lengths: Tensor | None = None,
    starts: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Coefficients of a linear memory after every element, and after the last valid one of each row.

        x_k = A_k x_{k-1} + B_k u_k        A_k (N, N), B_k (N,) the same for all channels, k the clock of the row

    The matrices come a block of T elements at a time, with everything between the elements of a block already
    multiplied out: the torch path is one matrix product a block for all rows whose clocks agree. Nothing of the size
    length times N² is ever there; the backward pass asks for the blocks again.

    Args:
        u: Input (batch, length, H).
        state: Coefficients before the first element (batch, H, N).
        first: The clock before the first element (batch,), integers; (1,) if it is the same in all rows.
        blocks: From clocks (groups,) to enter (Q, N) and weights (groups, N, T, Q + T): coefficient n after the t-th
            element is weights[:, n, t-1] times [enter x; the T inputs]. One group if clocks do not matter.
        size: Number T of elements in a block.
        lengths: Valid elements of right-padded rows (batch,); outputs after them are unspecified.
        starts: True where a packed sequence begins (batch, length); there coefficients and clock return to zero.
        backend: "torch", "reference" (a plain loop), or "auto".

    Returns:
        Coefficients (batch, length, H, N) in the type of `u`, and the new state in the type of `state`.

    Raises:
        InputError: If shapes do not belong together or the backend cannot run this call.

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> def running_mean(first):  # one coefficient, one element at a time
        ...     k = first.double()[:, None] + 1
        ...     return torch.ones(1, 1).double(), torch.stack([(k - 1) / k, 1 / k], dim=-1)[:, None]
        >>> u, rest = torch.tensor([4.0, 2.0, 0.0]).reshape(1, 3, 1), torch.zeros(1, 1, 1)
        >>> ops.memory_scan(u, rest, torch.zeros(1, dtype=torch.int64), running_mean, 1)[0].flatten()
        tensor([4., 3., 2.])
    """
    _check(u, state, first, size, lengths, starts)
    return _dispatch.run("memory_scan", backend, u.device, u, state, first, blocks, size, lengths, starts)


def memory_scan_reference(
    u: Tensor, state: Tensor, first: Tensor, blocks: Blocks, size: int, lengths: Tensor | None, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The equation as a loop over time, in float64."""
    batch, length, _ = u.shape
    u64, x = zero_padding(u, lengths).double(), state.double()
    clock = first.expand(batch)
    outputs = []
    for t in range(length):
        valid = torch.ones_like(clock, dtype=torch.bool) if lengths is None else t < lengths
        if starts is not None:
            fresh = starts[:, t] & valid
            x, clock = torch.where(fresh[:, None, None], 0.0, x), torch.where(fresh, 0, clock)
        enter, weights = blocks(clock)
        A = weights[:, :, 0, : len(enter)] @ enter
        B = weights[:, :, 0, len(enter)]
        new = torch.einsum("...nm,...hm->...hn", A, x) + B[:, None] * u64[:, t, :, None]
        x, clock = torch.where(valid[:, None, None], new, x), clock + valid
        outputs.append(x)
    y = torch.stack(outputs, dim=1) if outputs else u64.new_zeros(batch, 0, *state.shape[1:])
    return y.to(u.dtype), x.to(state.dtype)


def _memory_scan_torch(
    u: Tensor, state: Tensor, first: Tensor, blocks: Blocks, size: int, lengths: Tensor | None, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    if starts is None:
        return _scan(u, state, first, blocks, size, lengths)
    # The clock travels with the state: float64 holds both to the last bit.
    clock = first.expand(len(u)).to(torch.float64)
    joined = torch.cat([state.to(torch.float64).flatten(1), clock[:, None]], dim=1)

    def run(u: Tensor, joined: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = joined[:, :-1].unflatten(1, state.shape[1:]).to(state.dtype)
        y, x = _scan(u, x, joined[:, -1].detach().to(torch.int64), blocks, size, lengths)
        return y, torch.cat([x.to(torch.float64).flatten(1), joined[:, -1:]], dim=1)

    y, joined = run_packed(run, u, joined, starts, lengths)
    return y, joined[:, :-1].unflatten(1, state.shape[1:]).to(state.dtype)


def _scan(
    u: Tensor, state: Tensor, first: Tensor, blocks: Blocks, size: int, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    batch, length, _ = u.shape
    if length == 0:
        return u.new_zeros(batch, 0, *state.shape[1:]), state
    dtype = torch.promote_types(torch.promote_types(u.dtype, torch.float32), state.dtype)
    channels, x = zero_padding(u, lengths).mT.to(dtype), state.to(dtype)
    y = _by_clock(channels, x, first, blocks, size).transpose(1, 2)
    if lengths is None:  # a copy: a view would keep the whole sequence as long as the state lives
        return y.to(u.dtype), y[:, -1].to(state.dtype, copy=True)
    last = (lengths - 1).clamp(min=0).to(torch.int64)
    after = torch.where((lengths > 0)[:, None, None], y[torch.arange(batch, device=u.device), last], x)
    return y.to(u.dtype), after.to(state.dtype)


def _by_clock(u: Tensor, x: Tensor, first: Tensor, blocks: Blocks, size: int) -> Tensor:
    """Coefficients (batch, H, length, N) of u (batch, H, length): rows whose clocks agree share their matrices."""
    batch = len(u)
    if len(first) == 1:
        return _run(u.flatten(0, 1)[None], x.flatten(0, 1)[None], first, blocks, size)[0].unflatten(0, (batch, -1))
    if torch.compiler.is_compiling() or first.is_meta:  # nothing may depend on what the clocks are
        return _run(u, x, first, blocks, size)
    parts = [(first == clock).nonzero().squeeze(-1) for clock in first.unique()]
    found = [_by_clock(u[rows], x[rows], first[rows[:1]], blocks, size) for rows in parts]
    return torch.cat(found)[torch.cat(parts).argsort()] if len(found) > 1 else found[0]


def _run(u: Tensor, x: Tensor, first: Tensor, blocks: Blocks, size: int) -> Tensor:
    """Coefficients (groups, rows, length, N) of u (groups, rows, length) from x (groups, rows, N)."""
    length = u.shape[-1]
    padded = torch.nn.functional.pad(u, (0, -length % size))
    again = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    y = []
    for index, inputs in enumerate(padded.split(size, dim=-1)):
        arguments = inputs, x, first + index * size, blocks
        if again:
            found = checkpoint(_block, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            found = _block(*arguments)
        x = found[..., -1, :]
        y.append(found)
    return torch.cat(y, dim=-2)[..., :length, :] if len(y) > 1 else y[0][..., :length, :]


def _block(u: Tensor, x: Tensor, first: Tensor, blocks: Blocks) -> Tensor:
    """Coefficients (groups, rows, T, N) after each element of one block."""
    enter, weights = blocks(first)
    order, size = weights.shape[1:3]
    known = torch.cat([x @ enter.to(x.dtype).T, u], dim=-1)
    return (known @ weights.to(x.dtype).flatten(1, 2).mT).unflatten(-1, (order, size)).mT


def _check(u: Tensor, state: Tensor, first: Tensor, size: int, lengths: Tensor | None, starts: Tensor | None) -> None:
    check_positive(size=size)
    if u.dim() != 3 or state.dim() != 3 or state.shape[:2] != (u.shape[0], u.shape[2]):
        raise InputError(
            f"`u` has shape {tuple(u.shape)} and `state` {tuple(state.shape)}, but (batch, length, H) and "
            "(batch, H, N) are needed; start from `initial_state(batch_size)` of the same layer."
        )
    if first.dim() != 1 or len(first) not in (1, len(u)) or first.dtype.is_floating_point:
        raise InputError(
            f"`first` is {first.dtype} of shape {tuple(first.shape)}, but integers of shape ({len(u)},), or (1,) for a "
            "clock that all rows share, are needed; 0 is the clock before anything has come in."
        )
    check_lengths(lengths, u)
    check_starts(starts, u)


_dispatch.register(
    "memory_scan",
    _dispatch.Backend("torch", _memory_scan_torch, _dispatch.always),
    _dispatch.Backend("reference", memory_scan_reference, _dispatch.always),
)
