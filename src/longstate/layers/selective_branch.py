"""What stands between the two projections of Mamba: convolution, input-dependent step and vectors, selective scan."""

import math
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longstate import ops
from longstate._checks import InputError, check_choice, check_positive, check_rate, check_rate_alone
from longstate.layers.base import recurrent_dtype, register_state
from longstate.layers.norm import RMSNorm

INNER_NORMS = ("none", "fixed", "weighted")


@register_state
class MambaState(NamedTuple):
    """Of Mamba: the last inputs of the convolution (batch, d_conv-1, E), and the states (batch, E, N)."""

    conv: Tensor
    ssm: Tensor


class MambaConstants(NamedTuple):
    """What a step needs of the parameters alone: A (E, N) in the type of the state, the rate, a compiled step's plan.

    The plan names the memory of the parameters: take new constants once they were moved, or a projection was replaced
    or got a hook.
    """

    A: Tensor
    rate: float
    plan: ops.StepPlan | None = None


class SelectiveBranch(nn.Module):
    """The inner part of Mamba, from its two halves x and z to the gated output.

        x' = silu(conv(x));    r, B, C = W_x x';    Δ = softplus(W_dt r + b_dt);    A = -exp(A_log)
        h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t x'_t,    y_t = (C_t h_t + D x'_t) silu(z_t)

    Args:
        d_inner: Channels E.
        d_state: States N of a channel.
        d_conv: Taps of the convolution.
        dt_rank: Width of r.
        dt_min: Smallest initial step.
        dt_max: Largest initial step.
        conv_bias: Whether the convolution has a bias.
        inner_norm: Whether r, B and C go through an RMS norm: "none", "fixed" (FalconMamba: without weights) or
            "weighted" (Jamba).
        norm_eps: Of that norm.
    """

    def __init__(
        self,
        d_inner: int,
        d_state: int,
        d_conv: int,
        dt_rank: int,
        *,
        dt_min: float,
        dt_max: float,
        conv_bias: bool,
        inner_norm: str,
        norm_eps: float,
    ) -> None:
        super().__init__()
        check_positive(d_state=d_state, d_conv=d_conv, dt_rank=dt_rank)
        check_choice(inner_norm, INNER_NORMS, name="inner_norm")
        self.splits = (dt_rank, d_state, d_state)
        bound = d_conv**-0.5
        self.conv_weight = nn.Parameter(torch.empty(d_inner, d_conv).uniform_(-bound, bound))
        self.conv_bias = nn.Parameter(torch.empty(d_inner).uniform_(-bound, bound)) if conv_bias else None
        self.x_proj = nn.Linear(d_inner, sum(self.splits), bias=False)
        self.dt_proj = nn.Linear(dt_rank, d_inner, bias=False)
        nn.init.uniform_(self.dt_proj.weight, -(dt_rank**-0.5), dt_rank**-0.5)
        self.dt_bias = nn.Parameter(inverse_softplus(d_inner, dt_min, dt_max))
        self.A_log = nn.Parameter(torch.linspace(1, d_state, d_state).log().repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        self.norms = None
        if inner_norm != "none":
            weighted = inner_norm == "weighted"
            self.norms = nn.ModuleList(RMSNorm(size, eps=norm_eps, weighted=weighted) for size in self.splits)

    def forward(
        self,
        x: Tensor,
        z: Tensor | None,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """A whole sequence from rest: (batch, length, E)."""
        return self.forward_with_state(x, z, None, lengths=lengths, rate=rate, starts=starts)[0]

    def initial_state(self, batch_size: int) -> MambaState:
        """Nothing before, and a system at rest."""
        d_inner, d_conv = self.conv_weight.shape
        conv = self.conv_weight.new_zeros(batch_size, d_conv - 1, d_inner)
        ssm = conv.new_zeros(batch_size, *self.A_log.shape, dtype=recurrent_dtype(self.A_log.dtype))
        return MambaState(conv, ssm)

    def forward_with_state(
        self,
        x: Tensor,
        z: Tensor | None,
        state: MambaState | None,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, MambaState]:
        """A chunk in parallel; from rest if `state` is None."""
        rate = check_rate(rate, x, lengths)
        x, conv = ops.causal_conv1d(
            x,
            self.conv_weight,
            self.conv_bias,
            None if state is None else state.conv,
            activation="silu",
            lengths=lengths,
            starts=starts,
        )
        dt, B, C = self._split(x)
        bias, softplus = self.dt_bias, True
        if isinstance(rate, Tensor) or rate != 1.0:
            dt, bias, softplus = self._scaled_steps(dt, rate), None, False
        ssm = None if state is None else state.ssm
        arguments = (x, dt, self._A(), B, C, self.D)
        y, ssm = ops.selective_scan(
            *arguments, z=z, dt_bias=bias, dt_softplus=softplus, state=ssm, lengths=lengths, starts=starts
        )
        return y, MambaState(conv, ssm)

    def constants(self, *, rate: float | None = None) -> MambaConstants:
        """A, and the rate."""
        return MambaConstants(self._A(), 1.0 if rate is None else rate)

    def step(
        self,
        x_t: Tensor,
        z_t: Tensor | None,
        state: MambaState,
        *,
        rate: float | Tensor | None = None,
        constants: MambaConstants | None = None,
    ) -> tuple[Tensor, MambaState]:
        """One element (batch, E)."""
        check_rate_alone(rate, constants)
        A = self._A() if constants is None else constants.A
        return self.advance(x_t, z_t, state, A, check_rate(rate, x_t) if constants is None else constants.rate)

    def advance(
        self, x_t: Tensor, z_t: Tensor | None, state: MambaState, A: Tensor, rate: float | Tensor
    ) -> tuple[Tensor, MambaState]:
        """`step` with A and a rate that was checked."""
        x, conv = ops.causal_conv1d_step(x_t, state.conv, self.conv_weight, self.conv_bias, activation="silu")
        dt, B, C = self._split(x)
        bias, softplus = self.dt_bias, True
        if isinstance(rate, Tensor) or rate != 1.0:
            dt, bias, softplus = self._scaled_steps(dt, rate), None, False
        y, ssm = ops.selective_scan_step(x, dt, A, B, C, self.D, state.ssm, z_t=z_t, dt_bias=bias, dt_softplus=softplus)
        return y, MambaState(conv, ssm)

    def plan(self, A: Tensor, in_proj: nn.Module, out_proj: nn.Module) -> ops.StepPlan | None:
        """That of a step between these two projections; None where the modules are more than their weights."""
        if not (is_plain(in_proj) and is_plain(out_proj) and is_plain(self.x_proj) and is_plain(self.dt_proj)):
            return None
        norm_r = norm_B = norm_C = eps = None
        if self.norms is not None:
            norms = [norm for norm in self.norms if isinstance(norm, RMSNorm)]
            (norm_r, norm_B, norm_C), eps = (norm.weight for norm in norms), norms[0].eps
        weights = ops.MambaWeights(
            *(in_proj.weight, in_proj.bias, self.conv_weight, self.conv_bias, self.x_proj.weight),
            *(norm_r, norm_B, norm_C, self.dt_proj.weight, self.dt_bias),
            *(A, self.D, out_proj.weight, out_proj.bias, eps),
        )
        return ops.mamba_plan(weights)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Steps before bias and softplus, input and output vectors."""
        r, B, C = self.x_proj(x).split(self.splits, dim=-1)
        if self.norms is not None:
            r, B, C = (norm(part) for norm, part in zip(self.norms, (r, B, C), strict=True))
        return self.dt_proj(r), B, C

    def _scaled_steps(self, dt: Tensor, rate: float | Tensor) -> Tensor:
        wide = recurrent_dtype(dt.dtype)
        scale = rate[..., None].to(wide) if isinstance(rate, Tensor) else rate
        return F.softplus(dt.to(wide) + self.dt_bias.to(wide)) * scale

    def _A(self) -> Tensor:
        return -self.A_log.to(recurrent_dtype(self.A_log.dtype)).exp()


def is_plain(linear: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a module is its weights and nothing else: nobody replaced it, nobody listens to it."""
    return type(linear) is nn.Linear and not linear._forward_hooks and not linear._forward_pre_hooks


def inverse_softplus(size: int, dt_min: float, dt_max: float) -> Tensor:
    """Biases whose softplus is log-uniform in [dt_min, dt_max], and at least 1e-4."""
    if not 0 < dt_min <= dt_max:
        raise InputError(
            f"`dt_min` is {dt_min} and `dt_max` {dt_max}, but 0 < dt_min <= dt_max is needed; 0.001 and 0.1 are usual."
        )
    # Of operations that are cheap on the meta device too, where a model is made that will be loaded.
    log_dt = torch.empty(size).uniform_(math.log(dt_min), math.log(dt_max))
    dt = torch.maximum(log_dt.exp(), torch.tensor(1e-4))
    return dt + torch.log(-torch.expm1(-dt))
