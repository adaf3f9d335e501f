"""What all layers around one diagonal system with many inputs and outputs share: three exact views of one scan."""

import abc
from typing import NamedTuple

from torch import Tensor, nn

from longstate import ops
from longstate._checks import (
    InputError,
    check_element,
    check_fixed_rate,
    check_lengths,
    check_positive,
    check_rate,
    check_rate_alone,
    check_sequence,
    check_starts,
)
from longstate.layers.base import CausalLayer, recurrent_dtype, register_state
from longstate.layers.pieces import by_pieces
from longstate.layers.pointwise import build_output

_COPIES = 4
"""Numbers that a scan keeps of a mode: drive and state, re and im of each."""


@register_state
class MIMOState(NamedTuple):
    """State of the system: x (batch, P, 2) with re, im last."""

    x: Tensor


class MIMOLayer(CausalLayer[MIMOState]):
    """One system for all features and an output stage; a subclass says what the system is.

    A subclass calls `super().__init__()`, makes its parameters (`D` among them) and implements `system`.
    """

    D: nn.Parameter

    def __init__(self, d_model: int, d_state: int, modes: int, output: str, dropout: float, *, layer: str) -> None:
        super().__init__()
        check_positive(d_model=d_model, d_state=d_state)
        self.d_model = d_model
        self.d_state = d_state
        self.modes = modes
        self.layer_name = layer
        self.output = build_output(output, d_model, d_model, dropout)

    @abc.abstractmethod
    def system(self, rate: float | Tensor = 1.0) -> ops.MIMOSystem:
        """The discrete system at a sampling rate, in float64 and complex128 from parameters cast first.

        Args:
            rate: Multiplies the step: 2.0 for a sequence sampled at half the rate of training. A tensor gives every
                element (batch, length), or every row of a single step (batch,), an interval of its own.

        Returns:
            A, gain, B, C, D of `ops.MIMOSystem`, with the axes of `rate` before those of A and gain.
        """

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """The whole sequence by a scan."""
        return self._run(x, None, lengths, rate, starts)[0]

    def initial_state(self, batch_size: int) -> MIMOState:
        """A system at rest."""
        return MIMOState(self.D.new_zeros(batch_size, self.modes, 2, dtype=recurrent_dtype(self.D.dtype)))

    def forward_with_state(
        self,
        x: Tensor,
        state: MIMOState,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, MIMOState]:
        """A chunk by a scan that starts from the incoming state, and the state after it."""
        return self._run(x, state, lengths, rate, starts)

    def constants(self, *, rate: float | None = None) -> ops.MIMOConstants:
        """The discrete system, rounded to the type of the state."""
        if isinstance(rate, Tensor):
            raise InputError(
                f"`rate` is a tensor of shape {tuple(rate.shape)}, but constants hold one number for all steps; "
                "pass a float, or give the tensor to `step` without `constants`."
            )
        system = self.system(check_fixed_rate(rate, layer=self.layer_name))
        return ops.mimo_constants(system, recurrent_dtype(self.D.dtype))

    def step(
        self,
        x_t: Tensor,
        state: MIMOState,
        *,
        rate: float | Tensor | None = None,
        constants: ops.MIMOConstants | None = None,
    ) -> tuple[Tensor, MIMOState]:
        """One element by the recurrence; `constants` already holds its rate."""
        check_element(x_t, self.d_model)
        check_rate_alone(rate, constants)
        if constants is None:
            constants = ops.mimo_constants(self.system(check_rate(rate, x_t)), recurrent_dtype(self.D.dtype))
        y, new = ops.mimo_step(x_t, state.x, constants)
        return self.output(y), MIMOState(new)

    def _run(
        self,
        x: Tensor,
        state: MIMOState | None,
        lengths: Tensor | None,
        rate: float | Tensor | None,
        starts: Tensor | None,
    ) -> tuple[Tensor, MIMOState]:
        check_sequence(x, self.d_model)
        check_lengths(lengths, x)
        check_starts(starts, x)
        rate = check_rate(rate, x, lengths)
        return by_pieces(self._piece, x, state, lengths, rate, starts, width=_COPIES * self.modes)

    def _piece(
        self,
        x: Tensor,
        state: MIMOState | None,
        lengths: Tensor | None,
        rate: float | Tensor,
        starts: Tensor | None,
    ) -> tuple[Tensor, MIMOState]:
        before = None if state is None else state.x
        y, new = ops.mimo_scan(x, self.system(rate), before, lengths=lengths, starts=starts)
        return self.output(y), MIMOState(new)
