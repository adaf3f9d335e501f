"""LRU: a linear recurrent unit, parametrised so that it is stable whatever is learned."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from longstate import ops
from longstate._checks import InputError
from longstate.layers.base import SLOW, OptimizerRule
from longstate.layers.lti import as_parameter
from longstate.layers.mimo import MIMOLayer


class LRU(MIMOLayer):
    """Linear recurrent unit: one diagonal recurrence for all features, without a continuous system behind it.

        x_t = λ x_{t-1} + exp(gamma_log) (B u_t),    y_t = Re(C x_t) + D u_t
        λ = exp(-exp(nu_log) + i exp(theta_log))

    and an output stage. |λ| < 1 by construction. At the start λ is spread evenly over a ring of the complex plane and
    exp(gamma_log) = √(1 - |λ|²), which gives every mode the variance of a white input.

    There is no dt. `rate` acts as λ^rate, on the modulus and on the phase exp(theta_log): a number for another sampling
    rate, a tensor for one interval an element. exp(gamma_log) stays what it was learned to be, so that an element adds
    the same to the state whatever the interval before it: elements count as events, not as a signal held over time. On
    a signal sampled twice as finely (rate 0.5) twice as many elements add up, and slow modes grow up to twofold; S5
    with "zoh" scales its input instead. Phases in (π, 2π), which are negative frequencies at rate 1, are positive
    ones at other rates: choose `max_phase` of at most π where rates vary.

    Args:
        d_model: Number of features H.
        d_state: Number of complex modes: a state of twice as many real numbers, all features together.
        r_min: Smallest initial |λ|; 0.9 or more for long memories, of about 1/(1 - |λ|) elements.
        r_max: Largest initial |λ|.
        max_phase: Largest initial phase of λ, in radians an element.
        dropout: Share of activations dropped in training, once.
        output: "full_glu" (the block of the paper), "none" (the bare recurrence), or any other of
            `layers.build_output`.

    Raises:
        InputError: If a size or a name is not usable, or the ring is none.

    Source:
        Orvieto et al.: Resurrecting Recurrent Neural Networks for Long Sequences, arXiv 2303.06349, appendix A.

    Example:
        >>> import torch
        >>> from longstate import LRU
        >>> layer = LRU(d_model=4, d_state=8, r_min=0.9, r_max=0.999)
        >>> y, state = layer.forward_with_state(torch.randn(2, 100, 4), layer.initial_state(2))
        >>> y.shape, state.x.shape
        (torch.Size([2, 100, 4]), torch.Size([2, 8, 2]))
    """

    optimizer_rules: ClassVar[Mapping[str, OptimizerRule]] = {
        "nu_log": SLOW,
        "theta_log": SLOW,
        "gamma_log": SLOW,
        "B": SLOW,
    }

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        *,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
        dropout: float = 0.0,
        output: str = "full_glu",
    ) -> None:
        super().__init__(d_model, d_state, d_state, output, dropout, layer="LRU")
        if not (0 <= r_min <= r_max <= 1 and r_min < 1 and r_max > 0):
            raise InputError(
                f"`r_min` is {r_min} and `r_max` {r_max}, but 0 <= r_min <= r_max <= 1 is needed, with r_min below 1 "
                "and r_max above 0; long memories start with r_min near 1, such as 0.9."
            )
        if not 0 < max_phase <= 2 * math.pi:
            raise InputError(f"`max_phase` is {max_phase}, but an angle in (0, 2π] is needed; 2π leaves it free.")
        radius, angle = _open_interval(d_state), _open_interval(d_state)
        nu = -0.5 * torch.log(radius * (r_max**2 - r_min**2) + r_min**2)
        self.nu_log = nn.Parameter(as_parameter(nu.log()))
        self.theta_log = nn.Parameter(as_parameter((max_phase * angle).log()))
        self.gamma_log = nn.Parameter(as_parameter(0.5 * torch.log(-torch.expm1(-2 * nu))))
        self.B = nn.Parameter(torch.randn(d_state, d_model, 2) / math.sqrt(2 * d_model))
        self.C = nn.Parameter(torch.randn(d_model, d_state, 2) / math.sqrt(d_state))
        self.D = nn.Parameter(torch.randn(d_model))

    def system(self, rate: float | Tensor = 1.0) -> ops.MIMOSystem:
        """The recurrence, in float64 and complex128; `gain` has no length axis, whatever the rate."""
        log_A = torch.complex(-self.nu_log.double().exp(), self.theta_log.double().exp())
        A = torch.exp(log_A * (rate[..., None] if isinstance(rate, Tensor) else rate))
        gain = self.gamma_log.double().exp()
        B, C = (torch.view_as_complex(part.double()) for part in (self.B, self.C))
        return ops.MIMOSystem(A, torch.complex(gain, torch.zeros_like(gain)), B, C, self.D.double())


def _open_interval(size: int) -> Tensor:
    """Uniform numbers strictly between 0 and 1, whose logarithms and those of 1 minus them are finite."""
    return torch.rand(size, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
