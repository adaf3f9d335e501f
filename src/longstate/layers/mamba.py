"""Mamba: a selective state space layer."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from longstate import ops
from longstate._checks import (
    check_element,
    check_lengths,
    check_positive,
    check_rate,
    check_rate_alone,
    check_sequence,
    check_starts,
    zero_padding,
)
from longstate.layers.base import CausalLayer, OptimizerRule
from longstate.layers.halves import linear_halves
from longstate.layers.pieces import by_pieces
from longstate.layers.selective_branch import MambaConstants, MambaState, SelectiveBranch

NO_DECAY = OptimizerRule(weight_decay=0.0)


class Mamba(CausalLayer[MambaState]):
    """The selective state space layer: E = expand · d_model channels whose step and vectors depend on the input.

        [x, z] = W_in u;    x' = silu(conv(x));    r, B, C = W_x x';    Δ = softplus(W_dt r + b_dt)
        h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t x'_t,    y_t = W_out ((C_t h_t + D x'_t) silu(z_t)),    A = -exp(A_log)

    A chunk goes on from any state, by any number of elements; that state is the last d_conv-1 inputs of the convolution
    and E x N numbers. `rate` multiplies Δ, a number or one for every element.

    Args:
        d_model: Number of features.
        d_state: States N of a channel.
        d_conv: Taps of the convolution.
        expand: Channels for every feature.
        dt_rank: Width of the map that makes the steps; d_model / 16, rounded up, if None.
        dt_min: Smallest initial step.
        dt_max: Largest initial step.
        conv_bias: Whether the convolution has a bias.
        bias: Whether the two outer projections have biases.
        inner_norm: An RMS norm of r, B and C: "none", "fixed" (without weights, FalconMamba) or "weighted" (Jamba).
        norm_eps: Of that norm.

    Raises:
        InputError: If a size or a name is not usable.

    Source:
        Gu, Dao: Mamba, arXiv 2312.00752, algorithm 2 and figure 3; inner norms: arXiv 2410.05355 and 2403.19887.

    Example:
        >>> import torch
        >>> from longstate import Mamba
        >>> layer = Mamba(d_model=8)
        >>> y, state = layer.forward_with_state(torch.randn(2, 100, 8), layer.initial_state(2))
        >>> y.shape, state.conv.shape, state.ssm.shape
        (torch.Size([2, 100, 8]), torch.Size([2, 3, 16]), torch.Size([2, 16, 16]))
    """

    optimizer_rules: ClassVar[Mapping[str, OptimizerRule]] = {
        "branch.A_log": NO_DECAY,
        "branch.D": NO_DECAY,
        "branch.dt_bias": NO_DECAY,
    }

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        *,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        conv_bias: bool = True,
        bias: bool = False,
        inner_norm: str = "none",
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        check_positive(d_model=d_model, expand=expand)
        self.d_model = d_model
        d_inner = expand * d_model
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=bias)
        self.branch = SelectiveBranch(
            d_inner,
            d_state,
            d_conv,
            -(-d_model // 16) if dt_rank is None else dt_rank,
            dt_min=dt_min,
            dt_max=dt_max,
            conv_bias=conv_bias,
            inner_norm=inner_norm,
            norm_eps=norm_eps,
        )
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

    def initial_state(self, batch_size: int) -> MambaState:
        """Nothing before, and a system at rest."""
        return self.branch.initial_state(batch_size)

    def forward_with_state(
        self,
        x: Tensor,
        state: MambaState,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, MambaState]:
        """A chunk in parallel, from the state of the convolution and of the scan."""
        return self._run(x, state, lengths, rate, starts)

    def constants(self, *, rate: float | None = None) -> MambaConstants:
        """A, the rate, and the plan of a compiled step."""
        A, number, _ = self.branch.constants(rate=rate)
        return MambaConstants(A, number, self.branch.plan(A, self.in_proj, self.out_proj))

    def step(
        self,
        x_t: Tensor,
        state: MambaState,
        *,
        rate: float | Tensor | None = None,
        constants: MambaConstants | None = None,
    ) -> tuple[Tensor, MambaState]:
        """One element by the recurrence; `constants` already holds its rate."""
        check_element(x_t, self.d_model)
        check_rate_alone(rate, constants)
        rate = check_rate(rate, x_t) if constants is None else constants.rate
        known = constants
        if known is None:
            known = self.branch.constants() if torch.is_grad_enabled() else self.constants()
        if known.plan is not None:
            fused = ops.step_at_once(x_t, *state, known.plan, rate)
            if fused is not None:
                return fused[0], MambaState(*fused[1:])
        x, z = self.in_proj(x_t).chunk(2, dim=-1)
        y, state = self.branch.advance(x, z, state, known.A, rate)
        return self.out_proj(y), state

    def _run(
        self,
        x: Tensor,
        state: MambaState | None,
        lengths: Tensor | None,
        rate: float | Tensor | None,
        starts: Tensor | None,
    ) -> tuple[Tensor, MambaState]:
        check_sequence(x, self.d_model)
        check_lengths(lengths, x)
        check_starts(starts, x)
        rate = check_rate(rate, x, lengths)
        return by_pieces(self._piece, x, state, lengths, rate, starts, width=4 * self.branch.D.numel())

    def _piece(
        self,
        x: Tensor,
        state: MambaState | None,
        lengths: Tensor | None,
        rate: float | Tensor,
        starts: Tensor | None,
    ) -> tuple[Tensor, MambaState]:
        x, z = linear_halves(self.in_proj, zero_padding(x, lengths))
        y, state = self.branch.forward_with_state(x, z, state, lengths=lengths, rate=rate, starts=starts)
        return self.out_proj(y), state
