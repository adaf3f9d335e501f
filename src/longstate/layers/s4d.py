"""S4D: a diagonal state space layer."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from longstate import ops, theory
from longstate._checks import check_choice
from longstate.layers.base import SLOW, OptimizerRule, recurrent_dtype
from longstate.layers.lti import LTILayer, as_parameter, check_tied, complex_normal, log_uniform, untie


class S4D(LTILayer):
    """Diagonal state space layer: d_model independent systems with N/2 complex (or N real) modes each.

        x'(t) = A x(t) + B u(t),    y(t) = 2 Re(C x(t)) + D u(t),    A = -exp(A_real) + i A_imag

    discretised with a learned dt for each feature, then GELU and a gated linear map over features. `rate` may be a
    tensor: intervals of irregular sampling, under every rule. There is no kernel then, but a scan over the states.

    Args:
        d_model: Number of features.
        d_state: Real state size N of each feature; even, unless `init` is "real".
        init: Modes at the start: "lin", "inv", "inv2", "quad", "legs", "random", "real" (no imaginary part), or "diag"
            (inv for half of the features, lin for the others).
        b_init: Input vector at the start, a name of `theory.diagonal_input`; None takes that of HiPPO-LegS, halved,
            for init "legs" and ones for the others.
        real_random: Draw the real parts of the modes.
        rule: Discretisation: "zoh", "bilinear", "euler", "backward_euler" or "dirac".
        channels: Outputs of each system; the output stage mixes them.
        n_ssm: Number of different (A, B); a divisor of `d_model`. All free if None, all tied if 1.
        dt_min: Smallest initial step, in samples^-1: a memory of about 1/dt_min steps.
        dt_max: Largest initial step.
        dropout: Share of activations dropped in training, once, before the output map.
        output: "glu" (as published), "linear", or "none" (the bare system).

    Raises:
        InputError: If a size or a name is not usable.

    Source:
        Gu, Gupta, Goel, Re: On the Parameterization and Initialization of Diagonal State Space Models,
        arXiv 2206.11893, equations 3, 5, 7, 9.

    Example:
        >>> import torch
        >>> from longstate import S4D
        >>> layer = S4D(d_model=4, d_state=8)
        >>> y = layer(torch.randn(2, 100, 4))
        >>> y_t, state = layer.step(torch.randn(2, 4), layer.initial_state(2))
        >>> y.shape, y_t.shape
        (torch.Size([2, 100, 4]), torch.Size([2, 4]))
        >>> layer(torch.randn(2, 100, 4), rate=torch.rand(2, 100)).shape
        torch.Size([2, 100, 4])
    """

    optimizer_rules: ClassVar[Mapping[str, OptimizerRule]] = {
        "log_dt": SLOW,
        "A_real": SLOW,
        "A_imag": SLOW,
        "B": SLOW,
    }

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        *,
        init: str = "lin",
        b_init: str | None = None,
        real_random: bool = False,
        rule: str = "zoh",
        channels: int = 1,
        n_ssm: int | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        dropout: float = 0.0,
        output: str = "glu",
    ) -> None:
        super().__init__(d_model, d_state, channels, output, dropout, layer="S4D")
        check_choice(rule, theory.RULES, name="rule")
        self.rule = rule
        tied = check_tied(n_ssm, d_model)
        A, B = theory.diagonal_heads(init, tied, d_state, b_init=b_init, real_random=real_random)
        self.is_real = not A.is_complex()
        self.log_dt = nn.Parameter(log_uniform(d_model, dt_min, dt_max))
        self.A_real = nn.Parameter(as_parameter((-A.real).log()))
        self.A_imag = None if self.is_real else nn.Parameter(as_parameter(A.imag))
        self.B = nn.Parameter(as_parameter(B if self.is_real else torch.view_as_real(B)))
        modes = A.shape[-1]
        self.C = nn.Parameter(
            torch.randn(channels, d_model, modes) if self.is_real else complex_normal(channels, d_model, modes)
        )
        self.D = nn.Parameter(torch.randn(channels, d_model))

    def system(self, rate: float = 1.0) -> ops.LTISystem:
        """The discrete diagonal system, in float64."""
        A, B, C, dt = self._continuous()
        A_bar, B_bar = theory.discretize_diagonal(A, B, dt * rate, self.rule)
        return ops.LTISystem(A_bar, B_bar, C, self.D.double())

    def varying_system(self) -> ops.VaryingSystem:
        """The diagonal system as a function of the intervals, in the type of the state."""
        real = recurrent_dtype(self.D.dtype)
        A, B, C, dt = self._continuous()
        dtype = torch.promote_types(torch.complex32, real) if A.is_complex() else real
        z, held = (dt[:, None] * A).to(dtype), (B / A).to(dtype)
        A, B, C, dt = A.to(dtype), B.to(dtype), C.to(dtype), dt.to(real)

        def discretize(rate: Tensor) -> tuple[Tensor, Tensor]:
            rate = rate.to(real)
            if self.rule not in ("zoh", "dirac"):
                return theory.discretize_diagonal(A, B, rate[..., None] * dt, self.rule)
            # What `discretize_diagonal` does, for an A that is never 0 and without torch's slow complex exponential.
            A_bar, growth = theory.exponential(z, rate[..., None, None])
            return A_bar, growth * held if self.rule == "zoh" else B.expand_as(A_bar)

        if self.rule not in ("zoh", "dirac"):
            return ops.VaryingSystem(discretize, C, self.D.to(real))
        exponents = ops.Exponents(z, held if self.rule == "zoh" else B, self.rule == "zoh")
        return ops.VaryingSystem(discretize, C, self.D.to(real), exponents)

    def _continuous(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A, B and C (with the factor 2 of left-out modes) of all features, and their steps, in float64."""
        A = untie(-self.A_real.double().exp(), self.d_model)
        B, C = self.B.double(), self.C.double()
        if self.A_imag is not None:
            A = torch.complex(A, untie(self.A_imag.double(), self.d_model))
            B, C = torch.view_as_complex(B), 2 * torch.view_as_complex(C)
        return A, untie(B, self.d_model), C, self.log_dt.double().exp()

    def _state_shape(self) -> tuple[int, ...]:
        return (self.d_model, self.d_state) if self.is_real else (self.d_model, self.d_state // 2, 2)
