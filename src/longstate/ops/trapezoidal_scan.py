"""The recurrence of Mamba-3: every step adds what came with it and, once more, what came with the step before."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from longstate._checks import InputError, check_lengths, check_starts, valid_steps, zero_padding
from longstate.ops import _dispatch
from longstate.ops.ssd_core import ssd_core
from longstate.ops.ssd_native import ssd_core_native
from longstate.ops.ssd_native import why_not as why_not_native

_BLOCK = 64


class TrapezoidalState(NamedTuple):
    """S (batch, H, P, N), and the last key (batch, H, R, N) and value (batch, H, R, P)."""

    S: Tensor
    k: Tensor
    v: Tensor


def trapezoidal_scan(
    v: Tensor,
    k: Tensor,
    q: Tensor,
    log_decay: Tensor,
    now: Tensor,
    before: Tensor,
    state: TrapezoidalState,
    *,
    lengths: Tensor | None = None,
    starts: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, TrapezoidalState]:
    """Outputs of heads under the exponential-trapezoidal rule, with R keys, values and queries at every step.

        S_t = e^{log_decay_t} (S_{t-1} + before_t Σ_r v_{t-1,r} ⊗ k_{t-1,r}) + now_t Σ_r v_{t,r} ⊗ k_{t,r}
        y_{t,r} = S_t q_{t,r}

    before = 0 gives the recurrence of Mamba-2. The fast paths are one scan of that kind: a step's weight there is
    now_t + before_{t+1}, and what y_t must not see yet of it is taken off again.

    Args:
        v: Values (batch, length, H, R, P).
        k: Keys (batch, length, H, R, N).
        q: Queries, as the keys.
        log_decay: Δ A, at most 0 (batch, length, H).
        now: Weight of a step's own input, λ Δ (batch, length, H).
        before: Weight of the input before it, (1-λ) Δ (batch, length, H).
        state: Before the first step; zeros at the start.
        lengths: Valid elements of right-padded rows (batch,); outputs after them are unspecified.
        starts: True where a packed sequence begins (batch, length); the state is forgotten there.
        backend: "native" (compiled, float32 on a CPU), "torch", "reference" (a plain loop), or "auto".

    Returns:
        Outputs (batch, length, H, R, P), and the state after the last valid step of each row.

    Raises:
        InputError: If shapes do not belong together or the backend cannot run this call.

    Source:
        Lahoti et al.: Mamba-3, arXiv 2603.15569, section 3; the single-scan form is longstate's own.

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> one, weight = torch.ones(1, 3, 1, 1, 1), torch.ones(1, 3, 1)
        >>> rest = ops.TrapezoidalState(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
        >>> y, _ = ops.trapezoidal_scan(one, one, one, 0 * weight, 0.5 * weight, 0.5 * weight, rest)
        >>> y.flatten()  # the trapezoidal rule for the integral of 1, from a jump at 0
        tensor([0.5000, 1.5000, 2.5000])
    """
    fits = v.dim() == 5 and k.shape == q.shape and k.shape[:4] == v.shape[:4]
    if not fits or any(part.shape != v.shape[:3] for part in (log_decay, now, before)):
        raise InputError(
            f"`v` has shape {tuple(v.shape)}, `k` {tuple(k.shape)}, `q` {tuple(q.shape)} and `log_decay` "
            f"{tuple(log_decay.shape)}, but (batch, length, H, R, P), twice (batch, length, H, R, N) and (batch, "
            "length, H) are needed; check their axes."
        )
    check_lengths(lengths, v)
    check_starts(starts, v)
    return _dispatch.run("trapezoidal_scan", backend, v.device, v, k, q, log_decay, now, before, state, lengths, starts)


def trapezoidal_step(
    v: Tensor, k: Tensor, q: Tensor, log_decay: Tensor, now: Tensor, before: Tensor, state: TrapezoidalState
) -> tuple[Tensor, TrapezoidalState]:
    """One step of `trapezoidal_scan`: the arguments without their time axis.

    Args:
        v: Values (batch, H, R, P).
        k: Keys (batch, H, R, N).
        q: Queries (batch, H, R, N).
        log_decay: (batch, H).
        now: (batch, H).
        before: (batch, H).
        state: Before the step.

    Returns:
        Outputs (batch, H, R, P), and the new state.
    """
    S = state.S + before[..., None, None] * (state.v.mT @ state.k)
    S = log_decay.exp()[..., None, None] * S + now[..., None, None] * (v.mT @ k)
    return q @ S.mT, TrapezoidalState(S, k, v)


def trapezoidal_scan_reference(
    v: Tensor,
    k: Tensor,
    q: Tensor,
    log_decay: Tensor,
    now: Tensor,
    before: Tensor,
    state: TrapezoidalState,
    lengths: Tensor | None,
    starts: Tensor | None,
) -> tuple[Tensor, TrapezoidalState]:
    """The equation as a loop over time."""
    v, k, q, log_decay, now, before = (_without_padding(part, lengths) for part in (v, k, q, log_decay, now, before))
    y = []
    for t in range(v.shape[1]):
        valid = v.new_ones(len(v), dtype=torch.bool) if lengths is None else t < lengths
        if starts is not None:
            fresh = (starts[:, t] & valid)[:, None, None, None]
            state = TrapezoidalState(*(torch.where(fresh, part.new_zeros(()), part) for part in state))
        v_t, k_t, q_t, decay_t, now_t, before_t = (part[:, t] for part in (v, k, q, log_decay, now, before))
        y_t, new = trapezoidal_step(v_t, k_t, q_t, decay_t, now_t, before_t, state)
        state = TrapezoidalState(
            *(torch.where(valid[:, None, None, None], a, b) for a, b in zip(new, state, strict=True))
        )
        y.append(y_t)
    return torch.stack(y, dim=1) if y else v, state


def _why_not_native(
    v: Tensor,
    k: Tensor,
    q: Tensor,
    log_decay: Tensor,
    now: Tensor,
    before: Tensor,
    state: TrapezoidalState,
    lengths: Tensor | None,
    starts: Tensor | None,
) -> str | None:
    """Why the compiled kernel cannot take this call, or None."""
    given = (v, k, q, log_decay, now, before, *state)
    half = next((part.dtype for part in given if part.itemsize < torch.float32.itemsize), None)
    return why_not_native(v, v.shape[3], *given[1:]) if half is None else f"computes in float32, got {half}"


def _trapezoidal_scan_native(
    v: Tensor,
    k: Tensor,
    q: Tensor,
    log_decay: Tensor,
    now: Tensor,
    before: Tensor,
    state: TrapezoidalState,
    lengths: Tensor | None,
    starts: Tensor | None,
) -> tuple[Tensor, TrapezoidalState]:
    return _as_one_scan(ssd_core_native, v, k, q, log_decay, now, before, state, lengths, starts)


def _trapezoidal_scan_torch(
    v: Tensor,
    k: Tensor,
    q: Tensor,
    log_decay: Tensor,
    now: Tensor,
    before: Tensor,
    state: TrapezoidalState,
    lengths: Tensor | None,
    starts: Tensor | None,
) -> tuple[Tensor, TrapezoidalState]:
    return _as_one_scan(partial(ssd_core, block=_BLOCK), v, k, q, log_decay, now, before, state, lengths, starts)


def _as_one_scan(
    core: Callable[..., tuple[Tensor, Tensor]],
    v: Tensor,
    k: Tensor,
    q: Tensor,
    log_decay: Tensor,
    now: Tensor,
    before: Tensor,
    state: TrapezoidalState,
    lengths: Tensor | None,
    starts: Tensor | None,
) -> tuple[Tensor, TrapezoidalState]:
    batch, length, H, R = v.shape[:4]
    if length == 0:
        return v, state
    v, k, q, log_decay, now, before = (_without_padding(part, lengths) for part in (v, k, q, log_decay, now, before))
    first = before[:, 0]
    if starts is not None:
        if lengths is not None:
            starts = starts & valid_steps(lengths, length)
        before = torch.where(starts[..., None], before.new_zeros(()), before)
        first = before[:, 0]
    again = torch.cat([before[:, 1:], torch.zeros_like(before[:, :1])], dim=1)
    S = state.S + first[..., None, None] * (state.v.mT @ state.k)
    weighted = (now + again)[..., None, None] * k
    # The R values of a step stand behind each other in time; the first of them decays for all.
    decays = torch.cat([log_decay.unsqueeze(2), log_decay.new_zeros(batch, length, R - 1, H)], dim=2).flatten(1, 2)
    begun = None
    if starts is not None:
        begun = torch.cat([starts.unsqueeze(2), starts.new_zeros(batch, length, R - 1)], dim=2).flatten(1, 2)
    X, keys, queries = (part.transpose(2, 3).flatten(1, 2) for part in (v, weighted, q))
    y, S = core(X, decays, keys, queries, S, begun, rank=R)
    y = y.unflatten(1, (length, R)).transpose(2, 3)
    y = y - again[..., None, None] * ((q @ k.mT) @ v)
    if lengths is None:  # copies: a view would keep the whole sequence as long as the state lives
        return y, TrapezoidalState(S, k[:, -1].clone(), v[:, -1].clone())
    last = (lengths.to(torch.int64) - 1).clamp(min=0)
    rows, some = torch.arange(batch, device=v.device), (lengths > 0)[:, None, None, None]
    return y, TrapezoidalState(S, torch.where(some, k[rows, last], state.k), torch.where(some, v[rows, last], state.v))


def _without_padding(part: Tensor, lengths: Tensor | None) -> Tensor:
    return part if lengths is None else zero_padding(part.flatten(2), lengths).view_as(part)


_dispatch.register(
    "trapezoidal_scan",
    _dispatch.Backend("native", _trapezoidal_scan_native, _why_not_native),
    _dispatch.Backend("torch", _trapezoidal_scan_torch, _dispatch.always),
    _dispatch.Backend("reference", trapezoidal_scan_reference, _dispatch.always),
)
