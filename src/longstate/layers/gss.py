"""GSS: a gated layer whose state space part is narrow and as simple as it can be."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longstate import ops
from longstate._checks import InputError, check_element, check_lengths, check_positive, check_sequence, zero_padding
from longstate.layers.base import SLOW, CausalLayer, OptimizerRule
from longstate.layers.dss import held_input
from longstate.layers.lti import LTILayer, LTIState
from longstate.layers.pieces import by_pieces


class UnitStepDSS(LTILayer):
    """The state space part of `GSS`: `DSS` of the form exp with dt = 1, all of whose modes start at random.

        K_l = Re sum_n C_n (e^{A_n} - 1) / A_n e^{l A_n},    A = -exp(A_real) + i exp(A_imag)

    Args:
        d_model: Number of features.
        d_state: Number of complex modes N, shared by all features.

    Source:
        Mehta, Gupta, Cutkosky, Neyshabur, arXiv 2206.13947, section 3.2.

    Example:
        >>> import torch
        >>> from longstate.layers.gss import UnitStepDSS
        >>> UnitStepDSS(4, 8)(torch.randn(2, 10, 4)).shape
        torch.Size([2, 10, 4])
    """

    optimizer_rules: ClassVar[Mapping[str, OptimizerRule]] = {"A_real": SLOW, "A_imag": SLOW, "C": SLOW}

    def __init__(self, d_model: int, d_state: int) -> None:
        super().__init__(d_model, d_state, 1, "none", 0.0, layer="GSS")
        self.A_real = nn.Parameter(torch.randn(d_state))
        self.A_imag = nn.Parameter(torch.randn(d_state))
        self.C = nn.Parameter(torch.randn(1, d_model, d_state, 2))
        self.D = nn.Parameter(torch.randn(1, d_model))

    def system(self, rate: float = 1.0) -> ops.LTISystem:
        """The discrete diagonal system, in float64."""
        A, C = self._continuous()
        return ops.LTISystem(torch.exp(rate * A), torch.expm1(rate * A) / A, C, self.D.double())

    def varying_system(self) -> ops.VaryingSystem:
        """The diagonal system as a function of the intervals, in the type of the state."""
        A, C = self._continuous()
        return held_input(A, A.reciprocal(), C, self.D)

    def _continuous(self) -> tuple[Tensor, Tensor]:
        """A (d_model, N) and C, in complex128."""
        A = torch.complex(-self.A_real.double().exp(), self.A_imag.double().exp())
        return A.expand(self.d_model, -1), torch.view_as_complex(self.C.double())

    def _state_shape(self) -> tuple[int, ...]:
        return (self.d_model, self.d_state, 2)


class GSS(CausalLayer[LTIState]):
    """Gated state space layer: a wide gate around a narrow state space.

        v = gelu(W1 x),    u = layer_norm(gelu(W2 x)),    y = W4 ((W3 ssm(u)) * v)

    The published block normalises its input and adds it to the output; here that is `Residual(GSS(d_model))`, as for
    every layer. It takes the place of a layer and of the feed-forward part after it.

    Args:
        d_model: Number of features.
        d_inner: Width of the gate v; 4 d_model if None.
        d_ssm: Width of the state space part u, at least 2; a quarter of `d_model` if None.
        d_state: Number of complex modes N of each of the `d_ssm` systems.

    Raises:
        InputError: If a size is not usable.

    Source:
        Mehta, Gupta, Cutkosky, Neyshabur: Long Range Language Modeling via Gated State Spaces, arXiv 2206.13947,
        section 3.2.

    Example:
        >>> import torch
        >>> from longstate import GSS, Residual
        >>> block = Residual(GSS(d_model=8, d_state=16))
        >>> y_t, state = block.step(torch.randn(2, 8), block.initial_state(2))
        >>> y_t.shape, state.x.shape
        (torch.Size([2, 8]), torch.Size([2, 2, 16, 2]))
    """

    def __init__(
        self, d_model: int, *, d_inner: int | None = None, d_ssm: int | None = None, d_state: int = 512
    ) -> None:
        super().__init__()
        d_inner = 4 * d_model if d_inner is None else d_inner
        d_ssm = max(d_model // 4, 2) if d_ssm is None else d_ssm
        check_positive(d_model=d_model, d_inner=d_inner, d_ssm=d_ssm, d_state=d_state)
        if d_ssm == 1:
            raise InputError("`d_ssm` is 1, but a layer norm of one feature is always 0; use 2 or more.")
        self.d_model = d_model
        self.gate = nn.Linear(d_model, d_inner, bias=False)
        self.narrow = nn.Linear(d_model, d_ssm, bias=False)
        self.norm = nn.LayerNorm(d_ssm)
        self.ssm = UnitStepDSS(d_ssm, d_state)
        self.widen = nn.Linear(d_ssm, d_inner, bias=False)
        self.output = nn.Linear(d_inner, d_model)

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """The whole sequence, its narrow part by convolution."""
        check_sequence(x, self.d_model)
        check_lengths(lengths, x)
        x = zero_padding(x, lengths)  # or the weights' gradients would meet its NaN
        return self._join(x, self.ssm(self._input(x), lengths=lengths, rate=rate, starts=starts))

    def initial_state(self, batch_size: int) -> LTIState:
        """A system at rest: (batch, d_ssm, N, 2)."""
        return self.ssm.initial_state(batch_size)

    def forward_with_state(
        self,
        x: Tensor,
        state: LTIState,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, LTIState]:
        """A chunk by convolution, with what the incoming state adds, and the state after it."""
        check_sequence(x, self.d_model)
        check_lengths(lengths, x)
        x = zero_padding(x, lengths)
        y, state = self.ssm.forward_with_state(self._input(x), state, lengths=lengths, rate=rate, starts=starts)
        return self._join(x, y), state

    def constants(self, *, rate: float | None = None) -> ops.StepConstants:
        """The discrete system, rounded to the type of the state."""
        return self.ssm.constants(rate=rate)

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
        y, state = self.ssm.step(self._input(x_t), state, rate=rate, constants=constants)
        return self._join(x_t, y), state

    def _input(self, x: Tensor) -> Tensor:
        return self.norm(F.gelu(self.narrow(x)))

    def _join(self, x: Tensor, y: Tensor) -> Tensor:
        """The wide part, which sees one element at a time: (batch, length, d_model), or (batch, d_model) in a step."""

        def piece(x: Tensor, begin: int, *_: object) -> tuple[Tensor, int]:
            end = begin + x.shape[1]
            return self._joined(x, y[:, begin:end]), end

        if x.dim() == 2:
            return self._joined(x, y)
        return by_pieces(piece, x, 0, None, 1.0, None, width=2 * self.gate.out_features)[0]

    def _joined(self, x: Tensor, y: Tensor) -> Tensor:
        return self.output(self.widen(y) * F.gelu(self.gate(x)))
