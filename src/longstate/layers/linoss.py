"""LinOSS: a layer of forced harmonic oscillators."""

import math
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from longstate import ops, theory
from longstate._checks import (
    InputError,
    check_choice,
    check_element,
    check_fixed_rate,
    check_lengths,
    check_positive,
    check_rate,
    check_rate_alone,
    check_sequence,
    check_starts,
    zero_padding,
)
from longstate.layers.base import SLOW, CausalLayer, OptimizerRule, recurrent_dtype, register_state
from longstate.layers.pieces import by_pieces, piece_length, shortest_piece
from longstate.layers.pointwise import build_output

_SYSTEM = 2048
"""Elements that take as long as making the system, which every piece of a long sequence does."""


@register_state
class LinOSSState(NamedTuple):
    """Velocity and position of the oscillators, each (batch, d_state, 2) with re, im last."""

    velocity: Tensor
    position: Tensor


class LinOSSConstants(NamedTuple):
    """One step of the oscillators, M (d_state, 2, 2) and F (d_state, 2), and the real maps around them.

    B (2 d_state, d_model) and C (d_model, 2 d_state) hold re and im of an oscillator side by side.
    """

    B: Tensor
    M: Tensor
    F: Tensor
    C: Tensor


class LinOSS(CausalLayer[LinOSSState]):
    """Linear oscillatory state space layer: d_state oscillators, driven by and read out to all features.

        x''(t) = -A x(t) - G x'(t) + B u(t),    y(t) = Re(C x(t)) + D u(t),    A, G >= 0 diagonal, B and C complex

    discretised with a learned dt = sigmoid(logit_dt) for each oscillator, then GELU and a gated linear map over
    features. With fixed steps re and im of an oscillator are two real systems of two numbers (velocity and position):
    a linear map, one convolution, a linear map. Steps that vary (`rate` a tensor) go through `ops.linear_scan`.

    Args:
        d_model: Number of features.
        d_state: Number of oscillators.
        rule: "im" (implicit: oscillators lose energy, the more the longer the step), "imex" (no loss: an energy is
            kept for ever), or "damped" (a learned friction G: D-LinOSS).
        r_min: Smallest modulus of the initial eigenvalues; of "damped" only, as are the next two.
        r_max: Largest modulus of the initial eigenvalues; at most 1.
        theta_max: Largest phase of the initial eigenvalues, in radians a step; at most pi.
        dropout: Share of activations dropped in training, once, before the output map.
        output: "full_glu" (as published), any other of `layers.build_output`, or "none" (the bare oscillators).

    Where steps vary, only "im" is sure to stay bounded: its energy A x² + x'² falls at every step, however long. Under
    the other two, steps of changing length can pump an oscillator up, as one does a swing.

    Under "imex" and "damped" a stiffness beyond what the step can follow (`theory.stiffness_bounds`) acts as the
    largest that it can, at a `rate` above 1 too; the official code diverges there under "imex".

    Raises:
        InputError: If a size, a name or a range is not usable.

    Source:
        Rusch, Rus: Oscillatory State-Space Models, arXiv 2410.03943; Boyer, Rusch, Rus: Learning to Dissipate Energy
        in Oscillatory State-Space Models, arXiv 2505.12171.

    Example:
        >>> import torch
        >>> from longstate import LinOSS
        >>> layer = LinOSS(d_model=4, d_state=8)
        >>> y, state = layer.forward_with_state(torch.randn(2, 100, 4), layer.initial_state(2))
        >>> y.shape, state.position.shape
        (torch.Size([2, 100, 4]), torch.Size([2, 8, 2]))
        >>> layer(torch.randn(2, 100, 4), rate=torch.rand(2, 100)).shape
        torch.Size([2, 100, 4])
    """

    optimizer_rules: ClassVar[Mapping[str, OptimizerRule]] = {"logit_dt": SLOW, "A": SLOW, "G": SLOW}

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        *,
        rule: str = "im",
        r_min: float = 0.9,
        r_max: float = 1.0,
        theta_max: float = math.pi,
        dropout: float = 0.0,
        output: str = "full_glu",
    ) -> None:
        super().__init__()
        check_positive(d_model=d_model, d_state=d_state)
        check_choice(rule, theory.OSCILLATOR_RULES, name="rule")
        self.d_model = d_model
        self.d_state = d_state
        self.rule = rule
        if rule == "damped":
            self.logit_dt = nn.Parameter(0.5 * torch.randn(d_state))
            modulus, phase = _ring(d_state, r_min, r_max, theta_max)
            A, G = theory.ring_oscillator(modulus, phase, self.logit_dt.detach().sigmoid())
            self.A, self.G = nn.Parameter(A), nn.Parameter(G)
        else:
            self.logit_dt = nn.Parameter(torch.rand(d_state))
            self.A, self.G = nn.Parameter(torch.rand(d_state)), None
        self.B = nn.Parameter(_uniform(d_state, d_model, 2))
        self.C = nn.Parameter(_uniform(d_model, d_state, 2))
        self.D = nn.Parameter(torch.randn(d_model))
        self.output = build_output(output, d_model, d_model, dropout)

    def oscillators(self, rate: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
        """One step of the oscillators, M and F of `theory.discretize_oscillator`.

        Args:
            rate: Multiplies dt; a number, or intervals (...).

        Returns:
            M (d_state, 2, 2) and F (d_state, 2) in float64 for a number; for intervals M (..., d_state, 2, 2) and
            F (..., d_state, 2) in the wider type of theirs and the parameters', float32 at least.
        """
        dt, A = self.logit_dt.double().sigmoid(), self.A.double().relu()
        G = None if self.G is None else self.G.double().relu()
        if isinstance(rate, Tensor):
            dtype = recurrent_dtype(torch.promote_types(rate.dtype, self.D.dtype))
            rate = rate[..., None].to(dtype)
            dt, A, G = dt.to(dtype), A.to(dtype), None if G is None else G.to(dtype)
        step = dt * rate
        if self.rule != "im":
            friction = torch.zeros_like(dt) if G is None else G
            A = torch.maximum(A, theory.stiffness_bounds(dt, friction)[0])
            A = torch.minimum(A, theory.stiffness_bounds(torch.maximum(dt, step), friction)[1])
        return theory.discretize_oscillator(A, step, self.rule, G=G)

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """The whole sequence: by convolution, or by a scan if its steps vary."""
        x, rate = self._check(x, lengths, rate, starts)
        if piece_length(x, **self._sizes()) is not None:
            state = self.initial_state(len(x))
            return self.forward_with_state(x, state, lengths=lengths, rate=rate, starts=starts)[0]
        drive = _map(x, self._input_map())
        if isinstance(rate, Tensor):
            positions = self._scan(drive, rate, None, lengths, starts)[0]
        else:
            positions = ops.lti_conv(drive, self._system(rate), lengths=lengths, starts=starts).squeeze(2)
        return self.output(self._read(positions, x))

    def initial_state(self, batch_size: int) -> LinOSSState:
        """Oscillators at rest."""
        zeros = self.D.new_zeros(batch_size, self.d_state, 2, dtype=recurrent_dtype(self.D.dtype))
        return LinOSSState(zeros, zeros.clone())

    def forward_with_state(
        self,
        x: Tensor,
        state: LinOSSState,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, LinOSSState]:
        """A chunk of the sequence, and the oscillators after its last valid element."""
        x, rate = self._check(x, lengths, rate, starts)
        return by_pieces(self._piece, x, state, lengths, rate, starts, **self._sizes())

    def _sizes(self) -> dict[str, int]:
        """Of the pieces of a long sequence: drive and position, of two numbers each."""
        return {"width": 4 * self.d_state, "shortest": shortest_piece(_SYSTEM)}

    def _piece(
        self, x: Tensor, state: LinOSSState, lengths: Tensor | None, rate: float | Tensor, starts: Tensor | None
    ) -> tuple[Tensor, LinOSSState]:
        drive = _map(x, self._input_map())
        before = torch.stack(state, dim=-1).flatten(1, 2)
        if isinstance(rate, Tensor):
            positions, after = self._scan(drive, rate, before, lengths, starts)
        else:
            y, after = ops.lti_scan(drive, self._system(rate), before, lengths=lengths, starts=starts)
            positions = y.squeeze(2)
        velocity, position = after.unflatten(1, (self.d_state, 2)).unbind(-1)
        return self.output(self._read(positions, x)), LinOSSState(velocity, position)

    def constants(self, *, rate: float | None = None) -> LinOSSConstants:
        """One step of the oscillators, rounded to the type of the state, and the maps around them."""
        return self._constants(check_fixed_rate(rate, layer="`constants` of LinOSS"))

    def step(
        self,
        x_t: Tensor,
        state: LinOSSState,
        *,
        rate: float | Tensor | None = None,
        constants: LinOSSConstants | None = None,
    ) -> tuple[Tensor, LinOSSState]:
        """One element by the recurrence; `constants` already holds its rate."""
        check_element(x_t, self.d_model)
        check_rate_alone(rate, constants)
        B, M, drive_by, C = self._constants(check_rate(rate, x_t)) if constants is None else constants
        drive = _map(x_t, B).to(state.velocity.dtype).unflatten(-1, (self.d_state, 2))
        velocity, position = (
            M[..., row, 0, None] * state.velocity
            + M[..., row, 1, None] * state.position
            + drive_by[..., row, None] * drive
            for row in range(2)
        )
        y = _map(position.flatten(1).to(x_t.dtype), C) + self.D.to(x_t.dtype) * x_t
        return self.output(y), LinOSSState(velocity, position)

    def _check(
        self, x: Tensor, lengths: Tensor | None, rate: float | Tensor | None, starts: Tensor | None
    ) -> tuple[Tensor, float | Tensor]:
        """The input and its intervals, with zeros in the padding."""
        check_sequence(x, self.d_model)
        check_lengths(lengths, x)
        check_starts(starts, x)
        return zero_padding(x, lengths), check_rate(rate, x, lengths)

    def _constants(self, rate: float | Tensor) -> LinOSSConstants:
        dtype = recurrent_dtype(self.D.dtype)
        M, drive_by = self.oscillators(rate)
        return LinOSSConstants(self._input_map(), M.to(dtype), drive_by.to(dtype), self._output_map())

    def _input_map(self) -> Tensor:
        return self.B.movedim(-1, 1).flatten(0, 1)

    def _output_map(self) -> Tensor:
        # Re(C x) = Re C Re x - Im C Im x
        return torch.stack([self.C[..., 0], -self.C[..., 1]], dim=-1).flatten(1)

    def _system(self, rate: float) -> ops.LTISystem:
        """Re and im of every oscillator as one real system each, read out at its position."""
        M, drive_by = (part.repeat_interleave(2, dim=0) for part in self.oscillators(rate))
        C = torch.zeros_like(drive_by)
        C[:, 1] = 1.0
        return ops.LTISystem(M, drive_by, C[None], drive_by.new_zeros(1, len(drive_by)))

    def _scan(
        self, drive: Tensor, rate: Tensor, state: Tensor | None, lengths: Tensor | None, starts: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Positions (batch, length, 2 d_state) under steps that vary, and the state after them."""
        M, drive_by = self.oscillators(rate)
        M, drive_by = M.repeat_interleave(2, dim=2), drive_by.repeat_interleave(2, dim=2)
        h, after = ops.linear_scan(M, drive_by * drive[..., None], state, lengths=lengths, starts=starts)
        return h[..., 1].to(drive.dtype), after

    def _read(self, positions: Tensor, x: Tensor) -> Tensor:
        return _map(positions, self._output_map()) + self.D.to(x.dtype) * x


def _map(x: Tensor, W: Tensor) -> Tensor:
    """A linear map of the last axis, in the type of `x`."""
    # As one matrix product: torch would choose its form, and the rounding, by whether W wants a gradient.
    return (x.flatten(0, -2) @ W.to(x.dtype).mT).unflatten(0, x.shape[:-1])


def _uniform(*shape: int) -> Tensor:
    """Pairs (re, im) uniform within one over the square root of how many are summed."""
    return (2 * torch.rand(*shape) - 1) / math.sqrt(shape[-2])


def _ring(size: int, r_min: float, r_max: float, theta_max: float) -> tuple[Tensor, Tensor]:
    """Moduli and phases of points spread evenly over a part of a ring."""
    if not (0 < r_min <= r_max <= 1 and 0 < theta_max <= math.pi):
        raise InputError(
            f"`r_min` is {r_min}, `r_max` {r_max} and `theta_max` {theta_max}, but 0 < r_min <= r_max <= 1 and "
            "0 < theta_max <= pi are needed; 0.9, 1.0 and pi are the published choice."
        )
    return torch.sqrt(r_min**2 + (r_max**2 - r_min**2) * torch.rand(size)), theta_max * torch.rand(size)
