"""H3: two state spaces between gates, one that shifts and one that remembers."""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longstate import ops
from longstate._checks import (
    InputError,
    check_element,
    check_lengths,
    check_positive,
    check_rate,
    check_rate_alone,
    check_sequence,
    check_starts,
    zero_padding,
)
from longstate.layers.base import SLOW, CausalLayer, OptimizerRule, register_state
from longstate.layers.lti import LTIState
from longstate.layers.pieces import by_pieces, piece_length, shortest_piece
from longstate.layers.s4d import S4D

_SYSTEM = 2048
"""Elements that take as long as making the system, which every piece of a long sequence does."""


@register_state
class H3State(NamedTuple):
    """What the two systems keep.

    tail: The last keys, oldest first, which are all that the shift keeps (batch, d_state - 1, d_model).
    x: State of the diagonal systems, one for each product of a key with a value of a head:
        (batch, head_dim, head_dim, heads, N/2, 2), or (batch, head_dim, head_dim, heads, N) for real modes.
    """

    tail: Tensor
    x: Tensor


class H3Constants(NamedTuple):
    """Taps of the shift in the order of time (1, d_state, d_model), and the diagonal systems."""

    taps: Tensor
    diagonal: ops.StepConstants


class H3(CausalLayer[H3State]):
    """Hungry hungry hippos: multiplicative recall from a shift and a diagonal state space.

        q, k, v = W x + b,        y = W_out (q * diagonal(shift(k) * v)) + b_out

    Within a head of width d the key and the value are multiplied as vectors, d x d numbers that each run through the
    head's system, and the query sums them over the keys; d = 1 is a product of numbers. The shift is a system whose
    state holds the last `d_state` elements, that is a filter with as many taps,

        K_l = sum_n C_{l+n} B_n,    l < d_state        (plus D at lag 0)

    It counts elements: `rate`, a number or an interval for each element, acts on the dt of the diagonal systems alone.

    Args:
        d_model: Number of features.
        d_state: Real state size N of the diagonal systems (even, unless `init` is "real") and taps of the shift.
        head_dim: Width d of a head, a divisor of `d_model`.
        init: Modes of the diagonal systems at the start, as in `S4D`.
        rule: Their discretisation: "bilinear" (as published), "zoh", "euler", "backward_euler" or "dirac".
        n_ssm: Number of different (A, B) among the heads; a divisor of their number. All free if None.
        dt_min: Smallest initial step, in samples^-1: a memory of about 1/dt_min steps.
        dt_max: Largest initial step.

    Raises:
        InputError: If a size or a name is not usable.

    Source:
        Fu, Dao et al.: Hungry Hungry Hippos, arXiv 2212.14052, section 3 and algorithm 1. The features after the
        contraction stand in the order of the published code (the place within a head counts slower than the head), so
        that its checkpoints fit; the order of the inputs would be `W_out` with its columns permuted.

    Example:
        >>> import torch
        >>> from longstate import H3
        >>> layer = H3(d_model=4, d_state=8, head_dim=2)
        >>> y, state = layer.forward_with_state(torch.randn(2, 100, 4), layer.initial_state(2))
        >>> y.shape, state.tail.shape, state.x.shape
        (torch.Size([2, 100, 4]), torch.Size([2, 7, 4]), torch.Size([2, 2, 2, 2, 4, 2]))
    """

    optimizer_rules: ClassVar[Mapping[str, OptimizerRule]] = {"shift_B": SLOW}

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        *,
        head_dim: int = 1,
        init: str = "lin",
        rule: str = "bilinear",
        n_ssm: int | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
    ) -> None:
        super().__init__()
        check_positive(d_model=d_model, d_state=d_state, head_dim=head_dim)
        if d_model % head_dim:
            raise InputError(f"`head_dim` is {head_dim}, but a divisor of d_model={d_model} is needed; 1 always is.")
        self.d_model = d_model
        self.d_state = d_state
        self.head_dim = head_dim
        self.in_proj = nn.Linear(d_model, 3 * d_model)
        self.shift_B = nn.Parameter(F.pad(torch.ones(d_model, 1), (0, d_state - 1)))
        self.shift_C = nn.Parameter((2 * torch.rand(d_model, d_state) - 1) / d_state**0.5)
        self.shift_D = nn.Parameter(torch.randn(d_model))
        self.diagonal = S4D(
            d_model // head_dim,
            d_state,
            init=init,
            rule=rule,
            n_ssm=n_ssm,
            dt_min=dt_min,
            dt_max=dt_max,
            output="none",
        )
        self.out_proj = nn.Linear(d_model, d_model)

    def shift_filter(self) -> Tensor:
        """The shift as a filter with D in its first tap (1, d_model, d_state), the present first; float32 at least."""
        dtype = torch.promote_types(self.shift_C.dtype, torch.float32)
        shifted = F.pad(self.shift_C.to(dtype), (0, self.d_state - 1)).unfold(-1, self.d_state, 1)
        K = (shifted * self.shift_B.to(dtype)[:, None]).sum(-1)
        return torch.cat([K[:, :1] + self.shift_D.to(dtype)[:, None], K[:, 1:]], dim=-1)[None]

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """The whole sequence by two convolutions."""
        rate = self._check(x, lengths, rate, starts)
        if piece_length(x, **self._sizes()) is not None:
            state = self.initial_state(len(x))
            return self.forward_with_state(x, state, lengths=lengths, rate=rate, starts=starts)[0]
        q, k, v = self._project(x, lengths)
        intervals = self._intervals(rate, x, lengths)
        k = ops.long_conv(k, self.shift_filter(), lengths=lengths, starts=starts).squeeze(2)
        kv = self._outer(k, v)
        y = self.diagonal(kv, lengths=self._per_product(lengths), rate=intervals, starts=self._per_product(starts))
        return self.out_proj(self._contract(y, q))

    def initial_state(self, batch_size: int) -> H3State:
        """No keys, and systems at rest."""
        tail = self.shift_B.new_zeros(batch_size, self.d_state - 1, self.d_model)
        return H3State(tail, self._unfold(self.diagonal.initial_state(batch_size * self.head_dim**2)))

    def forward_with_state(
        self,
        x: Tensor,
        state: H3State,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, H3State]:
        """A chunk by two convolutions, with what both states add, and the states after it."""
        rate = self._check(x, lengths, rate, starts)
        return by_pieces(self._piece, x, state, lengths, rate, starts, **self._sizes())

    def _sizes(self) -> dict[str, int]:
        """Of the pieces of a long sequence: queries, keys and values; their products and what comes of these."""
        width = (3 + 2 * self.head_dim) * self.d_model
        return {"width": width, "shortest": shortest_piece(_SYSTEM)}

    def _piece(
        self, x: Tensor, state: H3State, lengths: Tensor | None, rate: float | Tensor, starts: Tensor | None
    ) -> tuple[Tensor, H3State]:
        q, k, v = self._project(x, lengths)
        intervals = self._intervals(rate, x, lengths)
        k, tail = ops.long_conv_scan(k, self.shift_filter(), state.tail, lengths=lengths, starts=starts)
        kv = self._outer(k.squeeze(2), v)
        y, inner = self.diagonal.forward_with_state(
            kv,
            LTIState(state.x.flatten(0, 2)),
            lengths=self._per_product(lengths),
            rate=intervals,
            starts=self._per_product(starts),
        )
        return self.out_proj(self._contract(y, q)), H3State(tail, self._unfold(inner))

    def constants(self, *, rate: float | None = None) -> H3Constants:
        """The taps of the shift and the discrete diagonal systems."""
        return H3Constants(ops.long_conv_constants(self.shift_filter()), self.diagonal.constants(rate=rate))

    def step(
        self,
        x_t: Tensor,
        state: H3State,
        *,
        rate: float | Tensor | None = None,
        constants: H3Constants | None = None,
    ) -> tuple[Tensor, H3State]:
        """One element by both recurrences; `constants` already hold its rate."""
        check_element(x_t, self.d_model)
        check_rate_alone(rate, constants)
        rate = self._intervals(rate, x_t, None)
        taps = ops.long_conv_constants(self.shift_filter()) if constants is None else constants.taps
        diagonal = None if constants is None else constants.diagonal
        q, k, v = self.in_proj(x_t).chunk(3, dim=-1)
        k, tail = ops.long_conv_step(k, state.tail, taps)
        kv = self._outer(k, v.unsqueeze(1)).squeeze(1)
        y, inner = self.diagonal.step(kv, LTIState(state.x.flatten(0, 2)), rate=rate, constants=diagonal)
        y = self._contract(y.unsqueeze(1), q.unsqueeze(1)).squeeze(1)
        return self.out_proj(y), H3State(tail, self._unfold(inner))

    def _project(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (batch, length, d_model), in memory with time last as the convolutions want them."""
        flat = zero_padding(x, lengths).flatten(0, 1)
        projected = self.in_proj.weight @ flat.mT
        projected = projected + self.in_proj.bias.to(projected.dtype)[:, None]
        q, k, v = projected.unflatten(1, x.shape[:2]).permute(1, 2, 0).chunk(3, dim=-1)
        return q, k, v

    def _outer(self, k: Tensor, v: Tensor) -> Tensor:
        """Products of keys and values within heads: (batch head_dim head_dim, length, heads)."""
        if self.head_dim == 1:
            return k * v
        k, v = (part.unflatten(-1, (-1, self.head_dim)).movedim(-1, 1) for part in (k, v))
        return (k.unsqueeze(2) * v.unsqueeze(1)).flatten(0, 2)

    def _contract(self, y: Tensor, q: Tensor) -> Tensor:
        """Sum over the keys of a head, weighted by the queries: (batch, length, d_model)."""
        if self.head_dim == 1:
            return y * q
        y = y.unflatten(0, (-1, self.head_dim, self.head_dim))
        q = q.unflatten(-1, (-1, self.head_dim)).movedim(-1, 1)
        return (y * q.unsqueeze(2)).sum(1).movedim(1, 2).flatten(2)

    def _per_product(self, of_row: Tensor | None) -> Tensor | None:
        """`lengths` or `starts` of the rows for every product of a key and a value."""
        return None if of_row is None else of_row.repeat_interleave(self.head_dim**2, dim=0)

    def _intervals(self, rate: float | Tensor | None, x: Tensor, lengths: Tensor | None) -> float | Tensor | None:
        """`rate` as the diagonal systems take it: a number, or the intervals of the rows for every product."""
        rate = check_rate(rate, x, lengths)
        return self._per_product(rate) if isinstance(rate, Tensor) else rate

    def _check(
        self, x: Tensor, lengths: Tensor | None, rate: float | Tensor | None, starts: Tensor | None
    ) -> float | Tensor:
        check_sequence(x, self.d_model)
        check_lengths(lengths, x)
        check_starts(starts, x)
        return check_rate(rate, x, lengths)

    def _unfold(self, state: LTIState) -> Tensor:
        """The state of all products with its axes apart."""
        return state.x.unflatten(0, (-1, self.head_dim, self.head_dim))
