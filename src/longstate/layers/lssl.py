"""LSSL: the linear state space layer with a full state matrix, trained or fixed."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from longstate import ops, theory
from longstate._checks import InputError, check_choice
from longstate.layers.base import SLOW, OptimizerRule
from longstate.layers.lti import LTILayer, as_parameter, check_tied, log_uniform, untie

RULES = ("gbt", *theory.RULES)
_TRANSITION = OptimizerRule(max_lr=1e-4, weight_decay=0.0)
# Rounding errors of float32 columns are multiplied by what the powers of A multiply.
_MOST_GROWTH = 100.0
_DOUBLINGS = 20


class LSSL(LTILayer):
    """Linear state space layer: the HiPPO system itself, discretised by the generalised bilinear transform.

        x'(t) = A x(t) + B u(t),    y(t) = C x(t) + D u(t)
        A_bar = (I - alpha dt A)^-1 (I + (1 - alpha) dt A),    B_bar = dt (I - alpha dt A)^-1 B

    with a dt for each feature, then GELU and a linear map over features. A is a full N x N matrix. Trained, it starts
    at HiPPO and moves freely: nothing but its small learning rate keeps the system stable, as in the paper. `S4` is the
    layer that is stable by construction, from the same start. Fixed (LSSL-fixed), A, B and dt are buffers, and only C,
    D and the output map learn.

    Args:
        d_model: Number of features.
        d_state: State size N of each feature; the published runs go up to 256.
        measure: HiPPO measure that A and B start from, one of `theory.MEASURES`.
        rule: "gbt", or another discretisation: "zoh", "bilinear", "euler", "backward_euler" or "dirac".
        alpha: Of gbt, from 0 (Euler) over 1/2 (bilinear, as published) to 1 (backward Euler).
        trainable: Whether A, B and dt learn.
        channels: Outputs of each system, M in the paper; the output stage mixes them.
        n_ssm: Number of different (A, B); a divisor of `d_model`. All tied if 1 (as published), all free if None.
        dt_min: Smallest initial step, in samples^-1: a memory of about 1/dt_min steps.
        dt_max: Largest initial step.
        dropout: Share of activations dropped in training, once, before the output map.
        output: "linear" (as published), "none" (the bare system), or any other of `layers.build_output`.

    Raises:
        InputError: If a size or a name is not usable, or the powers of A_bar would grow.

    Source:
        Gu et al.: Combining Recurrent, Convolutional, and Continuous-time Models with Linear State-Space Layers,
        arXiv 2110.13985, sections 2 and 3; parameters as in the authors' code.

    Example:
        >>> import torch
        >>> from longstate import LSSL
        >>> layer = LSSL(d_model=4, d_state=8, measure="legt", trainable=False)
        >>> y, state = layer.forward_with_state(torch.randn(2, 100, 4), layer.initial_state(2))
        >>> y.shape, state.x.shape
        (torch.Size([2, 100, 4]), torch.Size([2, 4, 8]))
    """

    log_dt: Tensor
    A: Tensor
    B: Tensor
    optimizer_rules: ClassVar[Mapping[str, OptimizerRule]] = {"log_dt": SLOW, "A": _TRANSITION, "B": _TRANSITION}

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        *,
        measure: str = "legs",
        rule: str = "gbt",
        alpha: float = 0.5,
        trainable: bool = True,
        channels: int = 1,
        n_ssm: int | None = 1,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        dropout: float = 0.0,
        output: str = "linear",
    ) -> None:
        super().__init__(d_model, d_state, channels, output, dropout, layer="LSSL")
        check_choice(rule, RULES, name="rule")
        if rule != "gbt" and alpha != 0.5:
            raise InputError(f"`alpha` is {alpha} with rule={rule!r}, but only gbt has one; use rule='gbt'.")
        self.rule = rule
        self.alpha = alpha
        A, B = theory.hippo(measure, d_state)
        log_dt = log_uniform(d_model, dt_min, dt_max)
        _check_powers(A, B, (dt_min, dt_max), measure, rule, alpha)
        tied = check_tied(n_ssm, d_model)
        starting = {
            "log_dt": log_dt,
            "A": as_parameter(A).repeat(tied, 1, 1),
            "B": as_parameter(B).repeat(tied, 1),
        }
        for name, value in starting.items():
            if trainable:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        self.C = nn.Parameter(torch.randn(channels, d_model, d_state))
        self.D = nn.Parameter(torch.randn(channels, d_model))

    def system(self, rate: float = 1.0) -> ops.LTISystem:
        """The discrete dense system, in float64."""
        A, B = untie(self.A.double(), self.d_model), untie(self.B.double(), self.d_model)
        A_bar, B_bar = _discretize(A, B, self.log_dt.double().exp() * rate, self.rule, self.alpha)
        return ops.LTISystem(A_bar, B_bar, self.C.double(), self.D.double())

    def _state_shape(self) -> tuple[int, ...]:
        return (self.d_model, self.d_state)


def _discretize(A: Tensor, B: Tensor, dt: Tensor, rule: str, alpha: float) -> tuple[Tensor, Tensor]:
    return theory.gbt(A, B, dt, alpha) if rule == "gbt" else theory.discretize_dense(A, B, dt, rule)


def _check_powers(A: Tensor, B: Tensor, steps: tuple[float, float], measure: str, rule: str, alpha: float) -> None:
    """Raise where A_bar, A_bar^2, A_bar^4, ... grow, at the smallest or the largest step."""
    power, _ = _discretize(A, B, torch.tensor(steps, dtype=torch.float64), rule, alpha)
    for _ in range(_DOUBLINGS):
        growth = float(torch.linalg.matrix_norm(power).max()) / len(A) ** 0.5
        if not growth <= _MOST_GROWTH:
            written = f"rule 'gbt' with alpha={alpha}" if rule == "gbt" else f"rule {rule!r}"
            raise InputError(
                f"measure {measure!r} of size {len(A)} under {written} and dt from {steps[0]} to {steps[1]} has a "
                f"discrete A whose powers grow beyond {_MOST_GROWTH:g}, but a stable system is needed; "
                "use alpha=0.5 or more, or a smaller dt_max."
            )
        power = power @ power
