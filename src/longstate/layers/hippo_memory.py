"""HippoMemory: the online memories of the HiPPO paper, without anything to learn."""

from typing import NamedTuple

import torch
from torch import Tensor

from longstate import ops, theory
from longstate._checks import (
    InputError,
    check_choice,
    check_element,
    check_fixed_rate,
    check_positive,
    check_sequence,
    valid_steps,
)
from longstate.layers.base import CausalLayer, recurrent_dtype, register_state
from longstate.layers.pieces import by_pieces

_BLOCK = 32
_COPIES = 6
_DOUBLINGS = 20
_MOST_GROWTH = 100.0


@register_state
class HippoState(NamedTuple):
    """State of the memory: x (batch, d_model, order), and how many elements each row has seen, steps (batch,)."""

    x: Tensor
    steps: Tensor


class _Running(NamedTuple):
    """What a piece hands on: x in the type that it is computed in, and the clock of the rows."""

    x: Tensor
    clock: Tensor


class HippoMemory(CausalLayer[HippoState]):
    """A summary of the past of each feature by `order` coefficients, updated with every element, and nothing learned.

        legs without a window    x'(t) = (A x(t) + B u(t)) / t    all of the past, in a resolution that coarsens with it
        any other measure        x'(t) = A x(t) + B u(t)          a window that slides along, or a past that fades

    The output is the coefficients themselves, (batch, length, d_model * order): those of feature h are
    `y.unflatten(-1, (d_model, order))[..., h, :]`. From them `reconstruct` reads the past, and any linear map of them
    is a linear functional of it. With `rule="zoh"` the coefficients of legs are, to rounding, the projection of the
    whole past on Legendre polynomials, each element held for one step.

    legs without a window has no time scale: stretched input gives the same coefficients, so that `rate` means nothing
    and is refused. Its element k moves the coefficients by a share of 1/k, which float32 would round away in a long
    life: its state is float64, whatever the type of the outputs. The sliding and fading memories take a number for
    `rate`, which shortens the window by that factor.

    Args:
        d_model: Number of features; the output is d_model * order wide.
        order: Number N of coefficients of each feature; even for the Fourier measures.
        measure: "legs", "legt", "lmu", "lagt", "tlagt", "glagt", "fourier" or "fourier2", see `theory.hippo`.
        window: How far the memory looks back, in elements. For measures that fade (legs, lagt, tlagt, glagt) one unit
            of their time: legs forgets by a factor e in it. None for legs over all of the past.
        rule: Discretisation: "zoh" (exact for an input held over each step), "bilinear", "euler" or "backward_euler".
        alpha: Parameter of glagt.
        beta: Parameter of lagt, tlagt and glagt.

    Raises:
        InputError: If a size or a name is not usable, the measure keeps no past that can be read, or "euler" would let
            the coefficients grow.

    Source:
        Gu, Dao, Ermon, Rudra, Re: HiPPO: Recurrent Memory with Optimal Polynomial Projections, arXiv 2008.07669,
        theorems 1 and 2. The authors' code starts legs at time 1, as if one element of 0 had come before: its numbers
        under zoh are those of this layer with a 0 in front.

    Example:
        >>> import torch
        >>> from longstate import HippoMemory
        >>> memory = HippoMemory(1, order=8)
        >>> u = torch.sin(torch.linspace(0, 6, 300)).reshape(1, 300, 1)
        >>> y, state = memory.forward_with_state(u, memory.initial_state(1))
        >>> past = memory.reconstruct(state, torch.arange(300))  # 8 numbers stand for 300
        >>> y.shape, bool((past - u.flip(1)).abs().max() < 0.01)
        (torch.Size([1, 300, 8]), True)
    """

    _like: Tensor

    def __init__(
        self,
        d_model: int,
        order: int = 64,
        *,
        measure: str = "legs",
        window: float | None = None,
        rule: str = "zoh",
        alpha: float | None = None,
        beta: float | None = None,
    ) -> None:
        super().__init__()
        check_positive(d_model=d_model, order=order)
        check_choice(rule, theory.MEMORY_RULES, name="rule")
        theory.check_reconstructs(measure)
        theory.check_window(measure, window)
        self.d_model = d_model
        self.order = order
        self.d_output = d_model * order
        self.measure = measure
        self.window = window
        self.rule = rule
        self.alpha = alpha
        self.beta = beta
        # No number that matters: it follows `.to()`, so that states are made on the right device in the right type.
        self.register_buffer("_like", torch.zeros(()), persistent=False)
        self._blocks(1, torch.float32, 1.0)

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """The coefficients after every element."""
        check_sequence(x, self.d_model)
        rest = self.initial_state(len(x))
        return self._scan(x, rest.x, rest.steps.new_zeros(1), lengths, starts, self._speed(rate))[0]

    def initial_state(self, batch_size: int) -> HippoState:
        """Nothing seen yet."""
        x = self._like.new_zeros(batch_size, self.d_model, self.order, dtype=self._state_dtype())
        return HippoState(x, torch.zeros(batch_size, dtype=torch.int64, device=x.device))

    def forward_with_state(
        self,
        x: Tensor,
        state: HippoState,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, HippoState]:
        """The coefficients after every element of a chunk, and the state after it."""
        check_sequence(x, self.d_model)
        y, new = self._scan(x, state.x, self._clock(state), lengths, starts, self._speed(rate))
        return y, HippoState(new, _seen(state.steps, x, lengths, starts))

    def constants(self, *, rate: float | None = None) -> theory.Blocks:
        """The matrices of one step, as a function of how many elements came before."""
        return self._blocks(1, self._state_dtype(), self._speed(rate))

    def step(
        self,
        x_t: Tensor,
        state: HippoState,
        *,
        rate: float | Tensor | None = None,
        constants: theory.Blocks | None = None,
    ) -> tuple[Tensor, HippoState]:
        """One element; `constants` already holds its rate."""
        check_element(x_t, self.d_model)
        blocks = self._blocks(1, state.x.dtype, self._speed(rate)) if constants is None else constants
        y, new = ops.memory_scan(x_t[:, None], state.x, self._clock(state), blocks, 1)
        return y.flatten(1), HippoState(new, state.steps + 1)

    def reconstruct(self, state: HippoState, lags: Tensor, *, rate: float | None = None) -> Tensor:
        """The past that the memory holds, see `theory.reconstruct`.

        Args:
            state: After the newest element, which has the lag 0.
            lags: Elements back (P,), within the window.
            rate: What the memory ran with.

        Returns:
            The features at these lags (batch, P, d_model), in the type of the state.

        Raises:
            InputError: If a lag lies outside the window.
        """
        window = None if self.window is None else self.window / self._speed(rate)
        steps = state.steps[:, None] if window is None else None
        return theory.reconstruct(
            state.x, lags, measure=self.measure, window=window, steps=steps, alpha=self.alpha, beta=self.beta
        ).mT

    def _scan(
        self,
        x: Tensor,
        before: Tensor,
        clock: Tensor,
        lengths: Tensor | None,
        starts: Tensor | None,
        speed: float,
    ) -> tuple[Tensor, Tensor]:
        """Outputs (batch, length, d_model * order) and the coefficients after them."""
        dtype = torch.promote_types(recurrent_dtype(x.dtype), before.dtype)

        def piece(
            x: Tensor, state: _Running, lengths: Tensor | None, rate: object, starts: Tensor | None
        ) -> tuple[Tensor, _Running]:
            before, clock = state
            size = max(1, min(_BLOCK, x.shape[1]))
            blocks = self._blocks(size, dtype, speed)
            y, after = ops.memory_scan(x, before, clock, blocks, size, lengths=lengths, starts=starts)
            # Rows that have ended count on beside the others: with a clock of their own they would want matrices too.
            clock = clock + x.shape[1] if starts is None else _seen(clock.expand(len(x)), x, None, starts)
            return y.flatten(2), _Running(after, clock)

        width = _COPIES * self.d_output
        y, after = by_pieces(piece, x, _Running(before.to(dtype), clock), lengths, 1.0, starts, width=width)
        return y, after.x.to(before.dtype)

    def _blocks(self, size: int, dtype: torch.dtype, speed: float) -> theory.Blocks:
        device = self._like.device
        if self.window is None:
            return theory.scaled_blocks(self.order, size, rule=self.rule, dtype=dtype, device=device)
        dt = speed * (theory.MEASURE_FACTS[self.measure].window or 1.0) / self.window
        A, B = theory.hippo(self.measure, self.order, alpha=self.alpha, beta=self.beta)
        A_bar, B_bar = theory.discretize_dense(A, B, dt, self.rule)
        if self.rule == "euler" and not torch.compiler.is_compiling():
            _check_powers(A_bar, dt)
        return theory.sliding_blocks(A_bar, B_bar, size, dtype=dtype, device=device)

    def _state_dtype(self) -> torch.dtype:
        return torch.float64 if self.window is None else recurrent_dtype(self._like.dtype)

    def _clock(self, state: HippoState) -> Tensor:
        """What the matrices depend on: nothing where there is a window, so that all rows share them."""
        return state.steps if self.window is None else torch.zeros_like(state.steps[:1])

    def _speed(self, rate: float | Tensor | None) -> float:
        """`rate` as a number; without a window there is none."""
        if self.window is None and rate is not None:
            raise InputError(
                "`rate` is given, but a memory of all of the past has no time scale: stretched input leaves the same "
                "coefficients; leave `rate` out, or give HippoMemory a window."
            )
        return check_fixed_rate(rate, layer="HippoMemory")


def _seen(steps: Tensor, x: Tensor, lengths: Tensor | None, starts: Tensor | None) -> Tensor:
    """How many elements each row has seen after x, since its last sequence began."""
    length = x.shape[1]
    count = torch.full_like(steps, length) if lengths is None else lengths.to(steps.dtype)
    if starts is None or length == 0:
        return steps + count
    begun = starts & valid_steps(count, length)
    last = length - 1 - begun.flip(1).to(torch.int64).argmax(1)
    return torch.where(begun.any(1), count - last, steps + count)


def _check_powers(A_bar: Tensor, dt: float) -> None:
    """Raise where the powers of a matrix grow."""
    power = A_bar
    for _ in range(_DOUBLINGS):
        power = power @ power
        if not float(power.abs().max()) <= _MOST_GROWTH:
            raise InputError(
                f"`rule` is 'euler' with a step of {dt:.3g} for order {len(A_bar)}, but its powers grow without end; "
                "use 'zoh', a longer window or a smaller order."
            )
