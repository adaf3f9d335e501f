"""S5 that reads both ways: one system, two scans, and outputs from both states."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from longstate import ops, theory
from longstate._checks import (
    InputError,
    check_choice,
    check_fixed_rate,
    check_lengths,
    check_sequence,
    check_starts,
    zero_padding,
)
from longstate.layers.base import OptimizerRule, SequenceLayer
from longstate.layers.bidirectional import reversal, take_steps
from longstate.layers.lti import log_uniform
from longstate.layers.pointwise import build_output
from longstate.layers.s5 import S5_RULES, discretize_s5, initial_s5


class BidirectionalS5(SequenceLayer):
    """S5 with a second scan from the end to the beginning. It cannot stream, so it has no state.

        x_t = Ā x_{t-1} + B̄ u_t,    z_t = Ā z_{t+1} + B̄ u_t,    y_t = 2 Re(C [x_t, z_t]) + D u_t

    Both scans share A, B and dt and both count the present element; C (d_model, 2 P) reads both states. Each row (each
    packed sequence) is reversed by its own length, so padding never leaks into the backward direction.

    Args:
        d_model: Number of features H.
        d_state: Size N of the state of one direction: N/2 complex modes, N without `conj_sym`.
        blocks: Number of HiPPO matrices side by side.
        rule: Discretisation: "zoh", "bilinear", "euler", "backward_euler" or "dirac".
        dt_min: Smallest initial step, in samples^-1: a memory of about 1/dt_min steps.
        dt_max: Largest initial step.
        conj_sym: Keep one mode of each conjugate pair and write 2 Re(C x); else keep all and write Re(C x).
        c_init: C at the start, as for `S5`.
        clip_eigs: Bound Re A by -1e-4 from above, so that the system stays stable.
        dropout: Share of activations dropped in training, once.
        output: The output stage, as for `S5`.

    Raises:
        InputError: If a size or a name is not usable.

    Source:
        Smith, Warrington, Linderman: Simplified State Space Layers for Sequence Modeling, arXiv 2208.04933; `apply_ssm`
        of the official code with `bidirectional=True`.

    Example:
        >>> import torch
        >>> from longstate import BidirectionalS5
        >>> BidirectionalS5(d_model=4, d_state=16)(torch.randn(2, 10, 4)).shape
        torch.Size([2, 10, 4])
    """

    optimizer_rules: ClassVar[Mapping[str, OptimizerRule]] = S5_RULES

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        *,
        blocks: int = 1,
        rule: str = "zoh",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        conj_sym: bool = True,
        c_init: str = "trunc_standard_normal",
        clip_eigs: bool = False,
        dropout: float = 0.0,
        output: str = "half_glu1",
    ) -> None:
        super().__init__()
        check_choice(rule, theory.RULES, name="rule")
        start = initial_s5(d_model, d_state, blocks, conj_sym, c_init, directions=2)
        self.d_model = d_model
        self.d_state = d_state
        self.rule = rule
        self.conj_sym = conj_sym
        self.clip_eigs = clip_eigs
        self.log_dt = nn.Parameter(log_uniform(len(start.A), dt_min, dt_max))
        self.A = nn.Parameter(start.A)
        self.B = nn.Parameter(start.B)
        self.C = nn.Parameter(start.C)
        self.D = nn.Parameter(torch.randn(d_model))
        self.output = build_output(output, d_model, d_model, dropout)

    def systems(self, rate: float = 1.0) -> tuple[ops.MIMOSystem, ops.MIMOSystem]:
        """The discrete systems from the beginning and from the end, in float64 and complex128; D is in the first."""
        A_bar, gain = discretize_s5(self.A, self.log_dt, rate, self.rule, clip_eigs=self.clip_eigs)
        B, C = (torch.view_as_complex(part.double()) for part in (self.B, self.C))
        forward_C, backward_C = (2 * C if self.conj_sym else C).chunk(2, dim=-1)
        D = self.D.double()
        return (
            ops.MIMOSystem(A_bar, gain, B, forward_C, D),
            ops.MIMOSystem(A_bar, gain, B, backward_C, torch.zeros_like(D)),
        )

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """The whole sequence in parallel, in both directions."""
        check_sequence(x, self.d_model)
        check_lengths(lengths, x)
        check_starts(starts, x)
        if isinstance(rate, Tensor):
            raise InputError(
                f"`rate` is a tensor of shape {tuple(rate.shape)}, but BidirectionalS5 takes one number, since "
                "intervals backwards are not those forwards; pass a float."
            )
        forward_system, backward_system = self.systems(check_fixed_rate(rate, layer="BidirectionalS5"))
        x = zero_padding(x, lengths)
        order, backward_starts = reversal(x, lengths, starts)
        y, _ = ops.mimo_scan(x, forward_system, lengths=lengths, starts=starts)
        back, _ = ops.mimo_scan(take_steps(x, order), backward_system, lengths=lengths, starts=backward_starts)
        return self.output(y + take_steps(back, order))
