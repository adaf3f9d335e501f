"""Mamba-2: a selective state space layer with one decay a head, computed as matrix products."""

import math
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
    zero_padding,
)
from longstate.layers.base import CausalLayer, OptimizerRule, recurrent_dtype, register_state
from longstate.layers.mamba import NO_DECAY
from longstate.layers.norm import GatedRMSNorm
from longstate.layers.pieces import by_pieces
from longstate.layers.selective_branch import inverse_softplus, is_plain

GATES = ("gate_first", "norm_first", "none")


@register_state
class Mamba2State(NamedTuple):
    """The last inputs of the convolution (batch, d_conv-1, d_ssm + 2 G N), and the states (batch, H, head_dim, N)."""

    conv: Tensor
    ssm: Tensor


class Mamba2Constants(NamedTuple):
    """What a step needs of the parameters alone: A (H,) in the type of the state, the rate, a compiled step's plan.

    The plan names the memory of the parameters: take new constants once they were moved, or a projection was replaced
    or got a hook.
    """

    A: Tensor
    rate: float
    plan: ops.StepPlan | None = None


class Mamba2(CausalLayer[Mamba2State]):
    """The selective layer of state space duality: heads of `head_dim` channels that share one decay.

        [z, x, B, C, dt] = W_in u;    [x, B, C] = silu(conv([x, B, C]));    Δ = clamp(softplus(dt + dt_bias))
        S_t = exp(Δ_t A) S_{t-1} + Δ_t x_t ⊗ B_t,    y_t = S_t C_t + D x_t,    out = W_out norm(y * silu(z))

    with A = -exp(A_log) one number a head; head h reads B and C of group h // (H/G). The norm is an RMS norm over each
    group's channels. With d_ssm < d_inner the other channels are a gated feed-forward beside the heads. Every
    view keeps Δ between `dt_floor` and `dt_ceiling`; `rate` multiplies it after that, a number or one an element.

    Args:
        d_model: Number of features.
        d_state: States N of a channel.
        d_conv: Taps of the convolution.
        expand: Inner channels for every feature.
        d_inner: Inner channels; expand · d_model if None.
        head_dim: Channels of a head.
        n_groups: Groups G that share B and C; a divisor of the number of heads.
        d_ssm: Channels that go through the state space, a multiple of head_dim; all inner channels if None.
        dt_min: Smallest initial step.
        dt_max: Largest initial step.
        dt_floor: Smallest step at any time.
        dt_ceiling: Largest step at any time; None sets no limit.
        A_min: Smallest initial decay -A.
        A_max: Largest initial decay -A.
        D_per_channel: Whether D has one number a channel instead of one a head.
        gate: "gate_first" (norm(y silu(z)), as published), "norm_first" (norm(y) silu(z)), or "none" (y silu(z)).
        norm_eps: Of that norm.
        conv_bias: Whether the convolution has a bias.
        bias: Whether the two outer projections have biases.

    Raises:
        InputError: If sizes do not fit or a name is not known.

    Source:
        Dao, Gu: Transformers are SSMs, arXiv 2405.21060, section 7 and figure 6.

    Example:
        >>> import torch
        >>> from longstate import Mamba2
        >>> layer = Mamba2(d_model=16, d_state=8, head_dim=8)
        >>> y, state = layer.forward_with_state(torch.randn(2, 100, 16), layer.initial_state(2))
        >>> y.shape, state.ssm.shape
        (torch.Size([2, 100, 16]), torch.Size([2, 4, 8, 8]))
    """

    optimizer_rules: ClassVar[Mapping[str, OptimizerRule]] = {"A_log": NO_DECAY, "D": NO_DECAY, "dt_bias": NO_DECAY}

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        *,
        d_conv: int = 4,
        expand: int = 2,
        d_inner: int | None = None,
        head_dim: int = 64,
        n_groups: int = 1,
        d_ssm: int | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        dt_floor: float = 0.0,
        dt_ceiling: float | None = None,
        A_min: float = 1.0,
        A_max: float = 16.0,
        D_per_channel: bool = False,
        gate: str = "gate_first",
        norm_eps: float = 1e-5,
        conv_bias: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        check_choice(gate, GATES, name="gate")
        check_positive(d_model=d_model, d_state=d_state, d_conv=d_conv, expand=expand, head_dim=head_dim)
        d_inner = expand * d_model if d_inner is None else d_inner
        d_ssm = d_inner if d_ssm is None else d_ssm
        check_positive(n_groups=n_groups, d_inner=d_inner, d_ssm=d_ssm)
        if d_ssm > d_inner or d_ssm % head_dim or (d_ssm // head_dim) % n_groups:
            raise InputError(
                f"d_ssm is {d_ssm} with head_dim {head_dim} and n_groups {n_groups}, but at most {d_inner} channels, a "
                "multiple of head_dim, and groups that divide the heads are needed; choose a smaller head_dim."
            )
        if not 0 < A_min <= A_max:
            raise InputError(
                f"`A_min` is {A_min} and `A_max` {A_max}, but 0 < A_min <= A_max is needed; 1.0 and 16.0 are usual."
            )
        if not 0 <= dt_floor <= (math.inf if dt_ceiling is None else dt_ceiling):
            raise InputError(
                f"`dt_floor` is {dt_floor} and `dt_ceiling` {dt_ceiling}, but 0 <= dt_floor <= dt_ceiling is needed; "
                "0.0 and None set no limit."
            )
        self.d_model = d_model
        self.head_dim = head_dim
        self.dt_limit = (dt_floor, math.inf if dt_ceiling is None else dt_ceiling)
        self.n_groups = n_groups
        heads = d_ssm // head_dim
        vectors = n_groups * d_state
        self.splits = (d_inner - d_ssm, d_inner - d_ssm, d_ssm, d_ssm + 2 * vectors, heads)
        self.conv_splits = (d_ssm, vectors, vectors)
        channels, bound = d_ssm + 2 * vectors, d_conv**-0.5
        self.in_proj = nn.Linear(d_model, sum(self.splits), bias=bias)
        self.conv_weight = nn.Parameter((torch.rand(channels, d_conv) * 2 - 1) * bound)
        self.conv_bias = nn.Parameter((torch.rand(channels) * 2 - 1) * bound) if conv_bias else None
        self.dt_bias = nn.Parameter(inverse_softplus(heads, dt_min, dt_max))
        self.A_log = nn.Parameter((A_min + torch.rand(heads) * (A_max - A_min)).log())
        self.D = nn.Parameter(torch.ones(d_ssm if D_per_channel else heads))
        self.norm = GatedRMSNorm(d_ssm, n_groups, kind=gate, eps=norm_eps)
        self.out_proj = nn.Linear(d_inner, d_model, bias=bias)

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """The whole sequence in parallel."""
        return self._run(x, None, lengths, rate, starts)[0]

    def initial_state(self, batch_size: int) -> Mamba2State:
        """Nothing before, and systems at rest."""
        channels, d_conv = self.conv_weight.shape
        conv = self.conv_weight.new_zeros(batch_size, d_conv - 1, channels)
        shape = (len(self.A_log), self.head_dim, self.conv_splits[1] // self.n_groups)
        return Mamba2State(conv, conv.new_zeros(batch_size, *shape, dtype=recurrent_dtype(self.A_log.dtype)))

    def forward_with_state(
        self,
        x: Tensor,
        state: Mamba2State,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, Mamba2State]:
        """A chunk in parallel, from the state of the convolution and of the scan."""
        return self._run(x, state, lengths, rate, starts)

    def constants(self, *, rate: float | None = None) -> Mamba2Constants:
        """A, the rate, and the plan of a compiled step."""
        A = self._A()
        return Mamba2Constants(A, 1.0 if rate is None else rate, self._plan(A))

    def step(
        self,
        x_t: Tensor,
        state: Mamba2State,
        *,
        rate: float | Tensor | None = None,
        constants: Mamba2Constants | None = None,
    ) -> tuple[Tensor, Mamba2State]:
        """One element by the recurrence; `constants` already holds its rate."""
        check_element(x_t, self.d_model)
        check_rate_alone(rate, constants)
        rate = check_rate(rate, x_t) if constants is None else constants.rate
        known = constants
        if known is None:
            known = Mamba2Constants(self._A(), 1.0) if torch.is_grad_enabled() else self.constants()
        if known.plan is not None:
            fused = ops.step_at_once(x_t, *state, known.plan, rate)
            if fused is not None:
                return fused[0], Mamba2State(*fused[1:])
        z0, x0, z, inner, dt = self.in_proj(x_t).split(self.splits, dim=-1)
        inner, conv = ops.causal_conv1d_step(inner, state.conv, self.conv_weight, self.conv_bias, activation="silu")
        x, B, C = self._heads(inner)
        dt, bias, limit = self._steps(dt, rate)
        y, ssm = ops.ssd_step(
            x, dt, known.A, B, C, self._D(), state.ssm, dt_bias=bias, dt_softplus=bias is not None, dt_limit=limit
        )
        return self._out(y.flatten(1), z, z0, x0), Mamba2State(conv, ssm)

    def _run(
        self,
        x: Tensor,
        state: Mamba2State | None,
        lengths: Tensor | None,
        rate: float | Tensor | None,
        starts: Tensor | None,
    ) -> tuple[Tensor, Mamba2State]:
        check_sequence(x, self.d_model)
        check_lengths(lengths, x)
        check_starts(starts, x)
        rate = check_rate(rate, x, lengths)
        return by_pieces(self._piece, x, state, lengths, rate, starts, width=sum(self.splits))

    def _piece(
        self,
        x: Tensor,
        state: Mamba2State | None,
        lengths: Tensor | None,
        rate: float | Tensor,
        starts: Tensor | None,
    ) -> tuple[Tensor, Mamba2State]:
        z0, x0, z, inner, dt = self.in_proj(zero_padding(x, lengths)).split(self.splits, dim=-1)
        inner, conv = ops.causal_conv1d(
            inner,
            self.conv_weight,
            self.conv_bias,
            None if state is None else state.conv,
            activation="silu",
            lengths=lengths,
            starts=starts,
        )
        x, B, C = self._heads(inner)
        dt, bias, limit = self._steps(dt, rate)
        y, ssm = ops.ssd(
            *(x, dt, self._A(), B, C, self._D()),
            dt_bias=bias,
            dt_softplus=bias is not None,
            dt_limit=limit,
            state=None if state is None else state.ssm,
            lengths=lengths,
            starts=starts,
        )
        return self._out(y.flatten(2), z, z0, x0), Mamba2State(conv, ssm)

    def _plan(self, A: Tensor) -> ops.StepPlan | None:
        """None where the modules are more than their weights, or a feed-forward stands beside the heads."""
        norm = self.norm
        if self.splits[0] or type(norm) is not GatedRMSNorm or norm._forward_hooks or norm._forward_pre_hooks:
            return None
        if not (is_plain(self.in_proj) and is_plain(self.out_proj)):
            return None
        weights = ops.Mamba2Weights(
            *(self.in_proj.weight, self.in_proj.bias, self.conv_weight, self.conv_bias, self.dt_bias, A, self.D),
            *(norm.weight, self.out_proj.weight, self.out_proj.bias, self.n_groups, self.dt_limit, norm.kind, norm.eps),
        )
        return ops.mamba2_plan(weights)

    def _heads(self, inner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, B, C = inner.split(self.conv_splits, dim=-1)
        groups = (self.n_groups, -1)
        return x.unflatten(-1, (-1, self.head_dim)), B.unflatten(-1, groups), C.unflatten(-1, groups)

    def _steps(self, dt: Tensor, rate: float | Tensor) -> tuple[Tensor, Tensor | None, tuple[float, float]]:
        """Steps, and the bias and limits that are still to be applied to them."""
        if not isinstance(rate, Tensor) and rate == 1.0:
            return dt, self.dt_bias, self.dt_limit
        wide = recurrent_dtype(dt.dtype)
        scale = rate[..., None].to(wide) if isinstance(rate, Tensor) else rate
        return F.softplus(dt.to(wide) + self.dt_bias.to(wide)).clamp(*self.dt_limit) * scale, None, (0.0, math.inf)

    def _D(self) -> Tensor:
        return self.D if len(self.D) == len(self.A_log) else self.D.unflatten(0, (-1, self.head_dim))

    def _A(self) -> Tensor:
        return -self.A_log.to(recurrent_dtype(self.A_log.dtype)).exp()

    def _out(self, y: Tensor, z: Tensor, z0: Tensor, x0: Tensor) -> Tensor:
        y = self.norm(y, z)
        return self.out_proj(torch.cat([F.silu(z0) * x0, y], dim=-1) if z0.shape[-1] else y)
