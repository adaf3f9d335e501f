"""Small layers that obey every law, to be broken in `broken.py`."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from longstate._checks import (
    InputError,
    check_element,
    check_fixed_rate,
    check_lengths,
    check_rate,
    check_rate_alone,
    check_sequence,
    check_starts,
    valid_steps,
    zero_padding,
)
from longstate.layers.base import CausalLayer, SequenceLayer, recurrent_dtype, register_state


@register_state
class AverageState(NamedTuple):
    mean: Tensor
    last: Tensor


class MovingAverage(CausalLayer[AverageState]):
    """m_t = a m_{t-1} + (1 - a) x_t,  y_t = tanh(C m_t + x_{t-1}), with a = exp(-rate dt).

    The matrix of all powers of a makes the parallel form; `last` is a convolution tail of one element.
    """

    def __init__(self, d_model: int):
        super().__init__()
        self.d_model = d_model
        self.log_dt = nn.Parameter(torch.linspace(-2.0, 0.0, d_model))
        self.C = nn.Parameter(torch.linspace(0.5, 1.5, d_model))

    def initial_state(self, batch_size: int) -> AverageState:
        zeros = self.log_dt.new_zeros(batch_size, self.d_model)
        return AverageState(zeros.to(recurrent_dtype(zeros.dtype)), zeros)

    def decay(self, rate: float | Tensor | None) -> Tensor:
        dt = self.log_dt.to(recurrent_dtype(self.log_dt.dtype)).exp()
        return torch.exp(-check_fixed_rate(rate, layer="MovingAverage") * dt)

    def constants(self, *, rate: float | None = None) -> Tensor:
        return self.decay(rate)

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        state = self.initial_state(x.shape[0])
        return self.forward_with_state(x, state, lengths=lengths, rate=rate, starts=starts)[0]

    def forward_with_state(
        self,
        x: Tensor,
        state: AverageState,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, AverageState]:
        check_sequence(x, self.d_model)
        check_lengths(lengths, x)
        check_starts(starts, x)
        x = zero_padding(x, lengths)
        batch, length, _ = x.shape
        if length == 0:
            return x, state
        if lengths is None:
            lengths = torch.full((batch,), length, device=x.device)
        if starts is None:
            starts = torch.zeros(batch, length, dtype=torch.bool, device=x.device)
        a = self.decay(rate)
        t = torch.arange(length, device=x.device)
        ago = t[:, None] - t
        powers = torch.where((ago >= 0)[..., None], a ** ago.clamp(min=0)[..., None], a.new_zeros(()))
        sequence = starts.long().cumsum(dim=1)
        together = sequence[:, :, None] == sequence[:, None, :]
        weights = powers * together[..., None]
        carried = (a ** (t + 1)[:, None] * state.mean[:, None]) * (sequence == 0)[..., None]
        mean = (weights * ((1 - a) * x)[:, None]).sum(dim=2) + carried
        previous = torch.cat([state.last[:, None], x[:, :-1]], dim=1).masked_fill(starts[..., None], 0.0)
        y = torch.tanh(self.C * mean + previous).to(x.dtype)
        rows, last = torch.arange(batch, device=x.device), (lengths - 1).clamp(min=0)
        empty = (lengths == 0)[:, None]
        after = AverageState(
            torch.where(empty, state.mean, mean[rows, last]), torch.where(empty, state.last, x[rows, last])
        )
        return y, after

    def step(
        self, x_t: Tensor, state: AverageState, *, rate: float | None = None, constants: Tensor | None = None
    ) -> tuple[Tensor, AverageState]:
        check_element(x_t, self.d_model)
        a = self.decay(rate) if constants is None else constants
        mean = a * state.mean + (1 - a) * x_t
        y_t = torch.tanh(self.C * mean + state.last).to(x_t.dtype)
        return y_t, AverageState(mean, x_t.to(state.last.dtype))


@register_state
class LeakState(NamedTuple):
    level: Tensor


class Leak(CausalLayer[LeakState]):
    """h_t = a_t h_{t-1} + x_t,  y_t = tanh(C h_t), with a_t = exp(-rate_t dt): events in a leaky vessel.

    Intervals may differ from element to element.
    """

    def __init__(self, d_model: int):
        super().__init__()
        self.d_model = d_model
        self.log_dt = nn.Parameter(torch.linspace(-2.0, 0.0, d_model))
        self.C = nn.Parameter(torch.linspace(0.5, 1.5, d_model))

    def initial_state(self, batch_size: int) -> LeakState:
        return LeakState(self.C.new_zeros(batch_size, self.d_model, dtype=recurrent_dtype(self.C.dtype)))

    def factor(self, rate: Tensor) -> Tensor:
        """a for intervals (...): (..., d_model)."""
        return torch.exp(-rate[..., None] * self.log_dt.to(rate.dtype).exp())

    def intervals(self, rate: float | Tensor | None, x: Tensor, lengths: Tensor | None) -> Tensor:
        rate = check_rate(rate, x, lengths)
        dtype = recurrent_dtype(self.C.dtype)
        if isinstance(rate, Tensor):
            return rate.to(dtype)
        rate = torch.full(x.shape[:-1], rate, dtype=dtype, device=x.device)
        return rate if lengths is None else torch.where(valid_steps(lengths, x.shape[1]), rate, 0.0)

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        state = self.initial_state(x.shape[0])
        return self.forward_with_state(x, state, lengths=lengths, rate=rate, starts=starts)[0]

    def forward_with_state(
        self,
        x: Tensor,
        state: LeakState,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, LeakState]:
        check_sequence(x, self.d_model)
        check_lengths(lengths, x)
        check_starts(starts, x)
        if x.shape[1] == 0:
            return x, state
        a = self.factor(self.intervals(rate, x, lengths))
        if starts is not None:
            marks = starts if lengths is None else starts & valid_steps(lengths, x.shape[1])
            a = torch.where(marks[..., None], 0.0, a)
        h, levels = state.level, []
        for a_t, x_t in zip(a.unbind(1), zero_padding(x, lengths).unbind(1), strict=True):
            h = a_t * h + x_t
            levels.append(h)
        return torch.tanh(self.C * torch.stack(levels, dim=1)).to(x.dtype), LeakState(h)

    def constants(self, *, rate: float | None = None) -> Tensor:
        number = check_fixed_rate(rate, layer="`constants` of Leak")
        return self.factor(self.C.new_full((), number, dtype=recurrent_dtype(self.C.dtype)))

    def step(
        self,
        x_t: Tensor,
        state: LeakState,
        *,
        rate: float | Tensor | None = None,
        constants: Tensor | None = None,
    ) -> tuple[Tensor, LeakState]:
        check_element(x_t, self.d_model)
        check_rate_alone(rate, constants)
        a = self.factor(self.intervals(rate, x_t, None)) if constants is None else constants
        h = a * state.level + x_t
        return torch.tanh(self.C * h).to(x_t.dtype), LeakState(h)


class TrapezoidLeak(Leak):
    """The same with the bilinear rule, a = (1 - z / 2) / (1 + z / 2), which is an integrator of order 2."""

    def factor(self, rate: Tensor) -> Tensor:
        half = rate[..., None] * self.log_dt.to(rate.dtype).exp() / 2
        return (1 - half) / (1 + half)


@register_state
class DeciderState(NamedTuple):
    average: AverageState


class Decider(CausalLayer[DeciderState]):
    """A model with one output a sequence: a moving average of `d_input` channels, read out at the last element."""

    def __init__(self, d_input: int, classes: int):
        super().__init__()
        self.d_model = d_input
        self.average = MovingAverage(d_input)
        self.head = nn.Linear(d_input, classes)

    def initial_state(self, batch_size: int) -> DeciderState:
        return DeciderState(self.average.initial_state(batch_size))

    def constants(self, *, rate: float | None = None) -> Tensor:
        return self.average.constants(rate=rate)

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        y = self.head(self.average(x, lengths=lengths, rate=rate, starts=starts))
        if lengths is None:
            return y[:, -1]
        return y[torch.arange(len(y), device=y.device), (lengths - 1).clamp(min=0)]

    def forward_with_state(
        self,
        x: Tensor,
        state: DeciderState,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, DeciderState]:
        y, after = self.average.forward_with_state(x, state.average, lengths=lengths, rate=rate, starts=starts)
        return self.head(y), DeciderState(after)

    def step(
        self, x_t: Tensor, state: DeciderState, *, rate: float | None = None, constants: Tensor | None = None
    ) -> tuple[Tensor, DeciderState]:
        y_t, after = self.average.step(x_t, state.average, rate=rate, constants=constants)
        return self.head(y_t), DeciderState(after)


class Whitened(SequenceLayer):
    """y = W norm(x - mean over the valid elements of the row): needs the whole sequence, so it stops at rung 1.

    `norm` is batch normalisation over valid elements. `starts` is refused.
    """

    def __init__(self, d_model: int):
        super().__init__()
        self.d_model = d_model
        self.norm = nn.BatchNorm1d(d_model)
        self.W = nn.Linear(d_model, d_model)

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        check_sequence(x, self.d_model)
        check_lengths(lengths, x)
        if starts is not None:
            raise InputError("`starts` is given, but Whitened needs whole rows; unpack the sequences first.")
        if lengths is None:
            lengths = torch.full((x.shape[0],), x.shape[1], device=x.device)
        x = zero_padding(x, lengths)
        centred = x - x.sum(dim=1, keepdim=True) / lengths.clamp(min=1)[:, None, None].to(x.dtype)
        if not self.training:
            return self.W(self.norm(centred.flatten(0, 1)).reshape(x.shape))
        valid = valid_steps(lengths, x.shape[1])
        y = torch.zeros_like(x)
        y[valid] = self.norm(centred[valid])
        return self.W(y)
