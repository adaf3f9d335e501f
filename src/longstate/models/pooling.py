"""From features at every step to the features that decide: their running mean, the last of them, or all.

A pooling is causal over its own spaces: `forward` gives the value after the last valid step, `forward_with_state` the
value after every step. A new sequence in a packed row (`starts`) forgets what came before, so `forward` speaks of the
last sequence of each row.
"""

import abc
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from longstate._checks import check_choice, valid_steps, zero_padding
from longstate.layers.base import recurrent_dtype, register_state

State = TypeVar("State")

POOLINGS = ("mean", "last")


class Pooling(nn.Module, abc.ABC, Generic[State]):
    """What decides of features (batch, length, d_model); it has no parameters."""

    @abc.abstractmethod
    def initial_state(self, like: Tensor) -> State:
        """The state before the first step, with the batch, width, type and device of `like` (batch, d_model)."""

    @abc.abstractmethod
    def forward(self, h: Tensor, *, lengths: Tensor | None = None, starts: Tensor | None = None) -> Tensor:
        """The value after the last valid step of each row."""

    @abc.abstractmethod
    def forward_with_state(
        self, h: Tensor, state: State, *, lengths: Tensor | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """The value after every step (batch, length, d_model), and the state after the last valid one."""

    @abc.abstractmethod
    def step(self, h_t: Tensor, state: State) -> tuple[Tensor, State]:
        """The value after one more step (batch, d_model), and the next state."""


@register_state
class MeanState(NamedTuple):
    """Sum of the features so far, and their number (batch,) int64.

    `total` (batch, d_model, 2) holds each sum as a number of the state's type and what that lost to rounding. Two
    float32 numbers have 48 bits, so that the mean of ten million steps is as good as that of ten.
    """

    total: Tensor
    steps: Tensor


class MeanPooling(Pooling[MeanState]):
    """The mean of the valid features so far; that of none is 0.

        m_t = (h_1 + ... + h_t) / t

    Sums are formed in float64 in every view (which autocast leaves alone) and handed on as in `MeanState`.

    Example:
        >>> import torch
        >>> from longstate.models import MeanPooling
        >>> pooling = MeanPooling()
        >>> h = torch.tensor([[[1.0], [3.0], [8.0]]])
        >>> pooling(h, lengths=torch.tensor([2])).tolist()
        [[2.0]]
        >>> running, state = pooling.forward_with_state(h, pooling.initial_state(h[:, 0]))
        >>> running.flatten().tolist(), state.steps.tolist()
        ([1.0, 2.0, 4.0], [3])
    """

    def initial_state(self, like: Tensor) -> MeanState:
        """Nothing summed."""
        batch, d_model = like.shape
        total = like.new_zeros(batch, d_model, 2, dtype=recurrent_dtype(like.dtype))
        return MeanState(total, torch.zeros(batch, dtype=torch.int64, device=like.device))

    def forward(self, h: Tensor, *, lengths: Tensor | None = None, starts: Tensor | None = None) -> Tensor:
        """The mean over each row's valid steps (those of its last sequence)."""
        ends = _ends(h, lengths)
        first = torch.zeros_like(ends) if starts is None else _begins(starts, ends)[:, -1].clamp(min=0)
        t = torch.arange(h.shape[1], device=h.device)
        inside = (t >= first[:, None]) & (t < ends[:, None])
        total = torch.where(inside[..., None], h, h.new_zeros(())).sum(1, dtype=torch.float64)
        return (total / (ends - first).clamp(min=1)[:, None]).to(h.dtype)

    def forward_with_state(
        self, h: Tensor, state: MeanState, *, lengths: Tensor | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, MeanState]:
        """The mean after every step."""
        ends = _ends(h, lengths)
        seen = torch.minimum(torch.arange(h.shape[1] + 1, device=h.device), ends[:, None])
        steps = state.steps[:, None] + seen
        # Padding adds nothing, so that the last of the sums is the one after the last valid step.
        sums = torch.cat([_wide(state)[:, None], zero_padding(h, lengths).double()], dim=1).cumsum(1)
        if starts is not None:
            begins = _begins(starts, ends)
            is_new = begins >= 0
            forgotten = sums.gather(1, begins.clamp(min=0)[..., None].expand_as(sums))
            sums = sums - torch.where(is_new[..., None], forgotten, forgotten.new_zeros(()))
            steps = torch.where(is_new, seen - begins, steps)
        running = sums[:, 1:] / steps[:, 1:, None].clamp(min=1)
        after = _narrow(sums[:, -1], steps[:, -1].clone(), state)  # a view would keep all of the chunk
        # A row without steps keeps its pair as it is, in the derivatives too.
        total = torch.where((ends > 0)[:, None, None], after.total, state.total)
        return running.to(h.dtype), MeanState(total, after.steps)

    def step(self, h_t: Tensor, state: MeanState) -> tuple[Tensor, MeanState]:
        """The mean after one more step."""
        total, steps = _wide(state) + h_t.double(), state.steps + 1
        return (total / steps[:, None]).to(h_t.dtype), _narrow(total, steps, state)


@register_state
class LastState(NamedTuple):
    """The features of the last valid step (batch, d_model)."""

    value: Tensor


class LastPooling(Pooling[LastState]):
    """The features of the last valid step; 0 before the first.

    Example:
        >>> import torch
        >>> from longstate.models import LastPooling
        >>> LastPooling()(torch.tensor([[[1.0], [3.0], [9.0]]]), lengths=torch.tensor([2])).tolist()
        [[3.0]]
    """

    def initial_state(self, like: Tensor) -> LastState:
        """Zero."""
        return LastState(torch.zeros_like(like))

    def forward(self, h: Tensor, *, lengths: Tensor | None = None, starts: Tensor | None = None) -> Tensor:
        """The last valid step of each row."""
        return _last(h, h.new_zeros(h.shape[0], h.shape[2]), lengths)

    def forward_with_state(
        self, h: Tensor, state: LastState, *, lengths: Tensor | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, LastState]:
        """Every step itself."""
        return h, LastState(_last(h.to(state.value.dtype), state.value, lengths))

    def step(self, h_t: Tensor, state: LastState) -> tuple[Tensor, LastState]:
        """The step itself."""
        return h_t, LastState(h_t.to(state.value.dtype))


class EveryStep(Pooling[tuple[()]]):
    """No pooling: each step decides for itself, in every view; there is no state.

    Example:
        >>> import torch
        >>> from longstate.models import EveryStep
        >>> EveryStep()(torch.zeros(1, 3, 2)).shape
        torch.Size([1, 3, 2])
    """

    def initial_state(self, like: Tensor) -> tuple[()]:
        """Nothing."""
        return ()

    def forward(self, h: Tensor, *, lengths: Tensor | None = None, starts: Tensor | None = None) -> Tensor:
        """All steps."""
        return h

    def forward_with_state(
        self, h: Tensor, state: tuple[()], *, lengths: Tensor | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, tuple[()]]:
        """All steps."""
        return h, state

    def step(self, h_t: Tensor, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """The step itself."""
        return h_t, state


def build_pooling(kind: str) -> Pooling[Any]:
    """A pooling by name: "mean" or "last"."""
    check_choice(kind, POOLINGS, name="pooling")
    return MeanPooling() if kind == "mean" else LastPooling()


def _ends(h: Tensor, lengths: Tensor | None) -> Tensor:
    """Valid steps of each row (batch,), as int64."""
    if lengths is None:
        return torch.full((h.shape[0],), h.shape[1], dtype=torch.int64, device=h.device)
    return lengths.to(torch.int64)


def _begins(starts: Tensor, ends: Tensor) -> Tensor:
    """Where the sequence of the newest of the first t elements begins, for t = 0..length; -1: before this chunk."""
    length = starts.shape[1]
    position = torch.arange(length, device=starts.device)
    marks = torch.where(starts & valid_steps(ends, length), position, -1)
    return torch.cat([marks.new_full((len(marks), 1), -1), marks], dim=1).cummax(1).values


def _wide(state: MeanState) -> Tensor:
    """The sum of a state in float64, (batch, d_model)."""
    return state.total.double().sum(-1)


def _narrow(total: Tensor, steps: Tensor, state: MeanState) -> MeanState:
    """A float64 sum as a state like `state`; nothing is lost to its rounding, nor any gradient."""
    rounded = total.to(state.total.dtype)
    remainder = (total - rounded.double()).to(state.total.dtype)
    return MeanState(torch.stack([rounded, remainder], dim=-1), steps)


def _last(h: Tensor, before: Tensor, lengths: Tensor | None) -> Tensor:
    """The last valid step of each row, or `before` (batch, d_model) for a row without any."""
    if h.shape[1] == 0:
        return before
    if lengths is None:
        return h[:, -1].clone()
    at = (lengths.to(torch.int64) - 1).clamp(min=0)[:, None, None].expand(-1, 1, h.shape[2])
    return torch.where(lengths[:, None] > 0, h.gather(1, at).squeeze(1), before)
