"""S4: a state space layer with a diagonal-plus-low-rank state matrix."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from longstate import ops, theory
from longstate._checks import check_choice
from longstate.layers.base import SLOW, OptimizerRule
from longstate.layers.lti import LTILayer, as_parameter, check_tied, complex_normal, log_uniform, untie

_SMALLEST_DECAY = 1e-4


class S4(LTILayer):
    """The structured state space layer of the S4 papers, kept in its true C and without a maximal length.

        x'(t) = (diag(A) - P P*) x(t) + B u(t),    y(t) = 2 Re(C x(t)) + D u(t),    A = -exp(A_real) + i A_imag

    discretised with a learned dt for each feature, then GELU and a gated linear map over features. The system is
    evaluated in its real orthonormal form, where its matrix is a contraction: kernels are matrix products, exact to
    rounding at every length and rate. One state of `d_state` real numbers a feature.

    Args:
        d_model: Number of features.
        d_state: Real state size N of each feature; even.
        init: HiPPO measure at the start, one of `theory.NPLR_MEASURES`: "legs", "legt", "lagt", "fourier", ...; or a
            mixture that features share evenly: "hippo" (legs, fourier), "diag" (S4D's inv, lin), "all" (these four).
            P has one row, two for legt, and none where the start is diagonal (legsd, fourier_diag, diag).
        rule: Discretisation: "bilinear" (as published), "zoh", "euler", "backward_euler" or "dirac".
        channels: Outputs of each system; the output stage mixes them.
        n_ssm: Number of different (A, P, B); a divisor of `d_model`. All free if None, all tied if 1.
        dt_min: Smallest initial step, in samples^-1: a memory of about 1/dt_min steps.
        dt_max: Largest initial step.
        dropout: Share of activations dropped in training, once, before the output map.
        output: "glu" (as published), "linear", or "none" (the bare system).
        b_clip: Bound on the modulus of every initial B_n, off by default; `theory.nplr` tells why it exists.

    Raises:
        InputError: If a size or a name is not usable.

    Source:
        Gu, Goel, Re: Efficiently Modeling Long Sequences with Structured State Spaces, arXiv 2111.00396,
        equations 3 to 6; A - P P* with tied P after Goel et al., arXiv 2202.09729.

    Example:
        >>> import torch
        >>> from longstate import S4
        >>> layer = S4(d_model=4, d_state=8)
        >>> y, state = layer.forward_with_state(torch.randn(2, 100, 4), layer.initial_state(2))
        >>> y.shape, state.x.shape
        (torch.Size([2, 100, 4]), torch.Size([2, 4, 8]))
    """

    optimizer_rules: ClassVar[Mapping[str, OptimizerRule]] = {
        "log_dt": SLOW,
        "A_real": SLOW,
        "A_imag": SLOW,
        "P": SLOW,
        "B": SLOW,
    }

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        *,
        init: str = "legs",
        rule: str = "bilinear",
        channels: int = 1,
        n_ssm: int | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        dropout: float = 0.0,
        output: str = "glu",
        b_clip: float | None = None,
    ) -> None:
        super().__init__(d_model, d_state, channels, output, dropout, layer="S4")
        check_choice(rule, theory.RULES, name="rule")
        self.rule = rule
        tied = check_tied(n_ssm, d_model)
        A, P, B = theory.dplr_heads(init, tied, d_state, b_clip=b_clip)
        # LegT and Fourier start at Re A = 0, which no exponential reaches.
        decay = (-A.real).clamp(min=_SMALLEST_DECAY)
        self.log_dt = nn.Parameter(log_uniform(d_model, dt_min, dt_max))
        self.A_real = nn.Parameter(as_parameter(decay.log()))
        self.A_imag = nn.Parameter(as_parameter(A.imag))
        self.P = nn.Parameter(as_parameter(torch.view_as_real(P)))
        self.B = nn.Parameter(as_parameter(torch.view_as_real(B)))
        self.C = nn.Parameter(complex_normal(channels, d_model, d_state // 2))
        self.D = nn.Parameter(torch.randn(channels, d_model))

    def system(self, rate: float = 1.0) -> ops.LTISystem:
        """The discrete dense system in real orthonormal coordinates, in float64."""
        A, P, B, C, dt = self._continuous(rate)
        A_bar, B_bar = theory.discretize_dplr(A, P, B, dt, self.rule)
        return ops.LTISystem(A_bar, B_bar, C, self.D.double())

    def convolved_system(self, rate: float = 1.0) -> ops.LTISystem | ops.LowRankSystem:
        """The same; under bilinear without its matrix written out, which a convolution has no need of."""
        if self.rule != "bilinear":
            return self.system(rate)
        A, P, B, C, dt = self._continuous(rate)
        A_bar, left, right, B_bar = theory.bilinear_low_rank(A, P, B, dt)
        return ops.LowRankSystem(A_bar, left, right, B_bar, C, self.D.double())

    def _continuous(self, rate: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A, P, B, real C and the steps of all features, in float64."""
        A = torch.complex(-self.A_real.double().exp(), self.A_imag.double())
        P, B, C = (torch.view_as_complex(part.double().contiguous()) for part in (self.P, self.B, self.C))
        A, P, B = untie(A, self.d_model), untie(P, self.d_model, axis=1), untie(B, self.d_model)
        return A, P, B, theory.real_vector(C.conj_physical()), self.log_dt.double().exp() * rate

    def _state_shape(self) -> tuple[int, ...]:
        return (self.d_model, self.d_state)
