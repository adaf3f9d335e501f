"""What all layers around a linear time-invariant system share: three exact views of one convolution."""

import abc
import math
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from longstate import ops
from longstate._checks import (
    InputError,
    check_element,
    check_fixed_rate,
    check_no_rate,
    check_positive,
    check_rate,
    check_rate_alone,
    check_sequence,
)
from longstate.layers.base import CausalLayer, recurrent_dtype, register_state
from longstate.layers.pointwise import build_output


@register_state
class LTIState(NamedTuple):
    """State of the system: x (batch, d_model, N), or (batch, d_model, N, 2) with re, im last."""

    x: Tensor


class LTILayer(CausalLayer[LTIState]):
    """One system a feature and an output stage; a subclass says what the system is.

    A subclass calls `super().__init__()`, makes its parameters (`log_dt`, `C`, `D` among them) and implements `system`.
    """

    has_time_scale: ClassVar[bool] = True
    """Whether there is a dt for `rate` to multiply."""

    C: nn.Parameter
    D: nn.Parameter

    def __init__(self, d_model: int, d_state: int, channels: int, output: str, dropout: float, *, layer: str) -> None:
        super().__init__()
        check_positive(d_model=d_model, d_state=d_state, channels=channels)
        if output == "none" and channels != 1:
            raise InputError(
                f"`channels` is {channels} with output='none', but only 1 keeps the width; use output='glu'."
            )
        self.d_model = d_model
        self.d_state = d_state
        self.channels = channels
        self.layer_name = layer
        self.output = build_output(output, channels * d_model, d_model, dropout)

    @abc.abstractmethod
    def system(self, rate: float = 1.0) -> ops.LTISystem:
        """The discrete system at a sampling rate, in float64 (complex128) from parameters cast first.

        Args:
            rate: Multiplies dt: 2.0 for a sequence sampled at half the rate of training.

        Returns:
            A, B, C, D of `ops.LTISystem`; the factor 2 of left-out conjugate modes is in C.
        """

    def convolved_system(self, rate: float = 1.0) -> ops.LTISystem | ops.LowRankSystem:
        """What `forward` convolves with: `system`, or a cheaper form of it that a subclass knows.

        Args:
            rate: Multiplies dt.

        Returns:
            A system of `ops.lti_conv`.
        """
        return self.system(rate)

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """The whole sequence: by convolution, or by a scan if its steps vary."""
        check_sequence(x, self.d_model)
        if isinstance(rate, Tensor):
            y, _ = ops.varying_scan(x, rate, self._varying(rate), lengths=lengths, starts=starts)
        else:
            y = ops.lti_conv(x, self.convolved_system(self._fixed(rate)), lengths=lengths, starts=starts)
        return self.output(y.flatten(2))

    def initial_state(self, batch_size: int) -> LTIState:
        """A system at rest."""
        return LTIState(self.D.new_zeros(batch_size, *self._state_shape(), dtype=recurrent_dtype(self.D.dtype)))

    def forward_with_state(
        self,
        x: Tensor,
        state: LTIState,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, LTIState]:
        """A chunk by convolution (or a scan), with what the incoming state adds, and the state after it."""
        check_sequence(x, self.d_model)
        if isinstance(rate, Tensor):
            y, new = ops.varying_scan(x, rate, self._varying(rate), state.x, lengths=lengths, starts=starts)
        else:
            y, new = ops.lti_scan(x, self._system(rate), state.x, lengths=lengths, starts=starts)
        return self.output(y.flatten(2)), LTIState(new)

    def constants(self, *, rate: float | None = None) -> ops.StepConstants:
        """The discrete system, rounded to the type of the state."""
        return ops.lti_constants(self._system(rate), recurrent_dtype(self.D.dtype))

    def step(
        self,
        x_t: Tensor,
        state: LTIState,
        *,
        rate: float | Tensor | None = None,
        constants: ops.StepConstants | None = None,
    ) -> tuple[Tensor, LTIState]:
        """One element by the recurrence; `constants` already holds its rate."""
        check_element(x_t, self.d_model)
        if isinstance(rate, Tensor):
            check_rate_alone(rate, constants)
            check_rate(rate, x_t)
            y, new = ops.varying_scan(x_t[:, None], rate[:, None], self._varying(rate), state.x)
            return self.output(y.flatten(1)), LTIState(new)
        constants = self.constants(rate=rate) if constants is None else constants
        y, new = ops.lti_step(x_t.contiguous(), state.x.contiguous(), constants)
        return self.output(y.flatten(1)), LTIState(new)

    def varying_system(self) -> ops.VaryingSystem | None:
        """The system as a function of the interval before each element; None for a layer that has one step for all."""
        return None

    def _system(self, rate: float | None) -> ops.LTISystem:
        return self.system(self._fixed(rate))

    def _fixed(self, rate: float | None) -> float:
        if not self.has_time_scale:
            check_no_rate(rate, layer=self.layer_name)
        return check_fixed_rate(rate, layer=self.layer_name)

    def _varying(self, rate: Tensor) -> ops.VaryingSystem:
        if not self.has_time_scale:
            check_no_rate(rate, layer=self.layer_name)
        system = self.varying_system()
        if system is None:
            raise InputError(
                f"`rate` is a tensor of shape {tuple(rate.shape)}, but {self.layer_name} is time invariant and takes "
                "one number; pass a float, resample the sequence to a regular grid, or take S4D, whose steps may vary."
            )
        return system

    @abc.abstractmethod
    def _state_shape(self) -> tuple[int, ...]:
        """Shape of one row's state."""


def log_uniform(size: int, low: float, high: float) -> Tensor:
    """Logarithms of `size` values drawn log-uniformly from [low, high]: the initial log dt."""
    if not 0 < low <= high:
        raise InputError(
            f"`dt_min` is {low} and `dt_max` {high}, but 0 < dt_min <= dt_max is needed; "
            "1/length of the sequences is a good dt_min."
        )
    return math.log(low) + torch.rand(size) * (math.log(high) - math.log(low))


def as_parameter(x: Tensor) -> Tensor:
    """A value of `theory`, which is float64, in the type of parameters."""
    return x.to(torch.get_default_dtype())


def complex_normal(*shape: int) -> Tensor:
    """Complex numbers of unit variance as real pairs (*shape, 2)."""
    return torch.randn(*shape, 2) * math.sqrt(0.5)


def check_tied(n_ssm: int | None, d_model: int) -> int:
    """How many (A, B) there are for `d_model` features: all free if None."""
    if n_ssm is None:
        return d_model
    check_positive(n_ssm=n_ssm)
    if d_model % n_ssm:
        raise InputError(f"`n_ssm` is {n_ssm}, but a divisor of d_model={d_model} is needed; 1 ties (A, B) everywhere.")
    return n_ssm


def untie(parameter: Tensor, d_model: int, *, axis: int = 0) -> Tensor:
    """Repeat tied rows over the features: row i serves features i, i + n_ssm, i + 2 n_ssm, ..."""
    repeats = [1] * parameter.dim()
    repeats[axis] = d_model // parameter.shape[axis]
    return parameter.repeat(repeats)
