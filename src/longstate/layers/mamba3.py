"""Mamba-3: a selective state space layer with the trapezoidal rule, a rotation that depends on the input, and ranks."""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longstate import ops
from longstate._checks import (
    InputError,
    check_choice,
    check_element,
    check_lengths,
    check_positive,
    check_rate,
    check_rate_alone,
    check_sequence,
    check_starts,
    valid_steps,
    zero_padding,
)
from longstate.layers.base import CausalLayer, OptimizerRule, recurrent_dtype, register_state
from longstate.layers.mamba import NO_DECAY
from longstate.layers.norm import RMSNorm
from longstate.layers.pieces import by_pieces
from longstate.layers.selective_branch import inverse_softplus
from longstate.layers.turns import PAIRS, rotate_pairs, running_turns

A_ACTIVATIONS = ("linear_reciprocal", "softplus")
_SMALLEST_DECAY = 1e-4


@register_state
class Mamba3State(NamedTuple):
    """Turns (batch, H, angles) in float64, S (batch, H, head_dim, N), and the last keys (batch, H, R, N) and x.

    An angle is a sum without end, so it is kept in turns from 0 to 1 and in float64: in float32 it would drift by 5e-5
    in 65,000 steps. `k` holds turned keys; x (batch, H, head_dim) is the value before it is spread over the ranks.
    """

    turns: Tensor
    ssm: Tensor
    k: Tensor
    x: Tensor


class Mamba3(CausalLayer[Mamba3State]):
    """The layer of Mamba-3; with `rank` 1 it is the SISO form, above the MIMO form.

        [z, x, B, C, dt, a, trap, angle] = W_in u;    Δ = softplus(dt + dt_bias);    λ = σ(trap)
        A = -max(f(a), 1e-4);    θ_t = θ_{t-1} + π tanh(angle_t) Δ_t
        k = Rot(θ)(norm(B) + B_bias);    q = Rot(θ)(norm(C) + C_bias)
        S_t = e^{ΔA} (S_{t-1} + (1-λ) Δ v_{t-1} ⊗ k_{t-1}) + λ Δ v_t ⊗ k_t;    y_t = S_t q_t + D v_t
        out = W_out (y * silu(z))

    With ranks, v_r = x w_r, S gains the sum over r, y_r is read by q_r, gated by silu(z u_r), and the sum of o_r y_r
    goes out. There is no convolution. `rate` multiplies Δ, a number or one for every element.

    Args:
        d_model: Number of features.
        d_state: States N of a channel; even.
        expand: Inner channels for every feature.
        head_dim: Channels of a head.
        n_groups: Groups that share B and C before the biases; a divisor of the number of heads.
        rank: Keys, queries and values a step.
        rope_fraction: Share of the N states that turn.
        pairs: Which states turn together: "adjacent" (2i, 2i+1), as in the published SISO form, or "halves"
            (i, i + N/2), as in the published MIMO kernels.
        A_activation: f: "linear_reciprocal" (1 + a for a >= 0, 1/(1-a) below, as published) or "softplus" (as before
            June 2026).
        output_norm: Whether every head's output goes through an RMS norm before the gate.
        dt_min: Smallest initial step.
        dt_max: Largest initial step.

    Raises:
        InputError: If sizes do not fit or a name is not known.

    Source:
        Lahoti et al.: Mamba-3, arXiv 2603.15569, sections 3.1 to 3.3.

    Example:
        >>> import torch
        >>> from longstate import Mamba3
        >>> layer = Mamba3(d_model=16, d_state=8, head_dim=8, rank=2)
        >>> y, state = layer.forward_with_state(torch.randn(2, 100, 16), layer.initial_state(2))
        >>> y.shape, state.ssm.shape, state.k.shape
        (torch.Size([2, 100, 16]), torch.Size([2, 4, 8, 8]), torch.Size([2, 4, 2, 8]))
    """

    optimizer_rules: ClassVar[Mapping[str, OptimizerRule]] = {"dt_bias": NO_DECAY, "D": NO_DECAY}

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        *,
        expand: int = 2,
        head_dim: int = 64,
        n_groups: int = 1,
        rank: int = 1,
        rope_fraction: float = 0.5,
        pairs: str = "adjacent",
        A_activation: str = "linear_reciprocal",
        output_norm: bool = False,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
    ) -> None:
        super().__init__()
        check_choice(pairs, PAIRS, name="pairs")
        check_choice(A_activation, A_ACTIVATIONS, name="A_activation")
        check_positive(d_model=d_model, d_state=d_state, expand=expand, head_dim=head_dim, n_groups=n_groups, rank=rank)
        d_inner = expand * d_model
        heads = d_inner // head_dim
        if d_inner % head_dim or heads % n_groups:
            raise InputError(
                f"`head_dim` is {head_dim} and `n_groups` {n_groups}, but a divisor of the {d_inner} inner channels "
                "and groups that divide the heads are needed; choose a smaller head_dim."
            )
        angles = int(d_state * rope_fraction) // 2
        if d_state % 2 or not 0 <= rope_fraction <= 1:
            raise InputError(
                f"`d_state` is {d_state} and `rope_fraction` {rope_fraction}, but an even size and a share from 0 to 1 "
                "are needed; 0.5 is usual."
            )
        self.d_model = d_model
        self.head_dim = head_dim
        self.n_groups = n_groups
        self.rank = rank
        self.pairs = pairs
        self.A_activation = A_activation
        vectors = rank * n_groups * d_state
        self.splits = (d_inner, d_inner, vectors, vectors, heads, heads, heads, angles)
        self.in_proj = nn.Linear(d_model, sum(self.splits), bias=False)
        self.dt_bias = nn.Parameter(inverse_softplus(heads, dt_min, dt_max))
        self.B_norm, self.C_norm = RMSNorm(d_state), RMSNorm(d_state)
        self.B_bias = nn.Parameter(torch.ones(heads, rank, d_state))
        self.C_bias = nn.Parameter(torch.ones(heads, rank, d_state))
        self.D = nn.Parameter(torch.ones(heads))
        ranks = (heads, rank, head_dim)
        self.rank_in = nn.Parameter(torch.full(ranks, 1 / rank)) if rank > 1 else None
        self.rank_gate = nn.Parameter(torch.ones(ranks)) if rank > 1 else None
        self.rank_out = nn.Parameter(torch.full(ranks, 1 / rank)) if rank > 1 else None
        self.norm_weight = nn.Parameter(torch.ones(heads, head_dim)) if output_norm else None
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """The whole sequence in parallel."""
        return self.forward_with_state(x, self.initial_state(len(x)), lengths=lengths, rate=rate, starts=starts)[0]

    def initial_state(self, batch_size: int) -> Mamba3State:
        """Systems at rest."""
        heads, rank, d_state = self.B_bias.shape
        like = self.D.new_zeros(batch_size, heads, dtype=recurrent_dtype(self.D.dtype))
        return Mamba3State(
            like.new_zeros(batch_size, heads, self.splits[-1], dtype=torch.float64),
            like.new_zeros(batch_size, heads, self.head_dim, d_state),
            like.new_zeros(batch_size, heads, rank, d_state),
            like.new_zeros(batch_size, heads, self.head_dim),
        )

    def forward_with_state(
        self,
        x: Tensor,
        state: Mamba3State,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, Mamba3State]:
        """A chunk in parallel: one scan, from the state and the last key and value."""
        check_sequence(x, self.d_model)
        check_lengths(lengths, x)
        check_starts(starts, x)
        rate = check_rate(rate, x, lengths)
        heads, rank, d_state = self.B_bias.shape
        width = sum(self.splits) + 2 * heads * rank * d_state
        return by_pieces(self._piece, x, state, lengths, rate, starts, width=width)

    def _piece(
        self,
        x: Tensor,
        state: Mamba3State,
        lengths: Tensor | None,
        rate: float | Tensor,
        starts: Tensor | None,
    ) -> tuple[Tensor, Mamba3State]:
        z, x, k, q, log_decay, now, before, turn = self._prepare(zero_padding(x, lengths), rate, state.ssm.dtype)
        if lengths is not None:
            # With Δ = 0 the state, and the angle, stand still.
            valid = valid_steps(lengths, x.shape[1])[..., None]
            log_decay, now, before = (torch.where(valid, part, 0.0) for part in (log_decay, now, before))
            turn = torch.where(valid[..., None], turn, 0.0)
            starts = None if starts is None else starts & valid[..., 0]
        turns = running_turns(turn, state.turns, starts)
        k, q = (rotate_pairs(part, turns, self.pairs) for part in (k, q))
        scan_state = ops.TrapezoidalState(state.ssm, state.k, self._values(state.x))
        v = self._values(x)
        y, new = ops.trapezoidal_scan(v, k, q, log_decay, now, before, scan_state, lengths=lengths, starts=starts)
        last = turns[:, -1].clone() if x.shape[1] else state.turns
        out = self._out(y, v, z)
        return out, Mamba3State(last, new.S, new.k, _last_valid(x, state.x, lengths))

    def constants(self, *, rate: float | None = None) -> float:
        """The rate: all else depends on the input."""
        return 1.0 if rate is None else rate

    def step(
        self,
        x_t: Tensor,
        state: Mamba3State,
        *,
        rate: float | Tensor | None = None,
        constants: float | None = None,
    ) -> tuple[Tensor, Mamba3State]:
        """One element by the recurrence; `constants` already holds its rate."""
        check_element(x_t, self.d_model)
        check_rate_alone(rate, constants)
        rate = check_rate(rate, x_t) if constants is None else constants
        z, x, k, q, log_decay, now, before, turn = self._prepare(x_t, rate, state.ssm.dtype)
        turns = state.turns + turn
        turns = turns - turns.floor()
        k, q = (rotate_pairs(part, turns, self.pairs) for part in (k, q))
        scan_state = ops.TrapezoidalState(state.ssm, state.k, self._values(state.x))
        v = self._values(x)
        y, new = ops.trapezoidal_step(v, k, q, log_decay, now, before, scan_state)
        return self._out(y, v, z), Mamba3State(turns, new.S, new.k, x)

    def _prepare(self, u: Tensor, rate: float | Tensor, wide: torch.dtype) -> tuple[Tensor, ...]:
        """z, x, keys and queries before their rotation, ΔA, λΔ, (1-λ)Δ, and how far θ turns: of (..., d_model)."""
        z, x, B, C, dt, a, trap, angle = self.in_proj(u).split(self.splits, dim=-1)
        scale = rate[..., None].to(wide) if isinstance(rate, Tensor) else rate
        dt = F.softplus(dt.to(wide) + self.dt_bias.to(wide)) * scale
        a = a.to(wide)
        if self.A_activation == "softplus":
            decay = F.softplus(a)
        else:
            # Each branch sees only what it can bear: 1/(1-a) is infinite at a = 1.
            decay = torch.where(a >= 0, 1 + a, 1 / (1 - a.clamp(max=0)))
        log_decay = -dt * decay.clamp(min=_SMALLEST_DECAY)
        present = torch.sigmoid(trap.to(wide))
        turn = 0.5 * torch.tanh(angle.double())[..., None, :] * dt.double()[..., None]
        k, q = (
            self._vectors(part.to(wide), norm, bias.to(wide))
            for part, norm, bias in ((B, self.B_norm, self.B_bias), (C, self.C_norm, self.C_bias))
        )
        x = x.to(wide).unflatten(-1, (-1, self.head_dim))
        return z, x, k, q, log_decay, present * dt, (1 - present) * dt, turn

    def _vectors(self, part: Tensor, norm: RMSNorm, bias: Tensor) -> Tensor:
        """Rows (rank, group, N) normalised, given to the heads of their group, and shifted: (..., H, R, N)."""
        part = norm(part.unflatten(-1, (self.rank, self.n_groups, -1)))
        return part.repeat_interleave(len(bias) // self.n_groups, dim=-2).transpose(-2, -3) + bias

    def _values(self, x: Tensor) -> Tensor:
        """X (..., H, P) as the values of every rank (..., H, R, P)."""
        x = x.unsqueeze(-2)
        return x if self.rank_in is None else x * self.rank_in.to(x.dtype)

    def _out(self, y: Tensor, v: Tensor, z: Tensor) -> Tensor:
        """Skip, norm, gate and the sum over ranks of y (..., H, R, P)."""
        wide = y.dtype
        y = y + self.D.to(wide)[:, None, None] * v
        if self.norm_weight is not None:
            y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-5) * self.norm_weight.to(wide)[:, None]
        z = z.to(wide).unflatten(-1, (-1, 1, self.head_dim))
        if self.rank_gate is None or self.rank_out is None:
            y = y * F.silu(z)
        else:
            y = y * F.silu(z * self.rank_gate.to(wide)) * self.rank_out.to(wide)
        return self.out_proj(y.sum(-2).flatten(-2).to(self.out_proj.weight.dtype))


def _last_valid(x: Tensor, before: Tensor, lengths: Tensor | None) -> Tensor:
    """A copy of the last valid element of x (batch, length, ...) in each row, or `before` in a row without one."""
    if x.shape[1] == 0:
        return before
    if lengths is None:
        return x[:, -1].clone()
    last = x[torch.arange(len(x), device=x.device), (lengths.to(torch.int64) - 1).clamp(min=0)]
    return torch.where((lengths > 0)[:, None, None], last, before)
