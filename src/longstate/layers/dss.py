"""DSS: a diagonal state space layer of complex modes without conjugates, with or without the softmax over time."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from longstate import ops, theory
from longstate._checks import InputError, check_choice, check_positive
from longstate.layers.base import SLOW, OptimizerRule, recurrent_dtype
from longstate.layers.lti import LTILayer, as_parameter, check_tied, log_uniform, untie

FORMS = ("exp", "softmax")
INITS = ("legs", "lin", "random")

# A mode may grow by e^32 over l_max elements: its first tap is then 1e-14 of its last one, less than float32 shows, and
# its states still lie within float32.
_MOST_GROWTH = 32.0
_EPSILON = 1e-7


class DSS(LTILayer):
    """Diagonal state space layer of N complex modes a feature: no conjugate pairs, hence no factor 2.

        exp        K_l = Re sum_n C_n (e^z - 1) / A_n e^{l z},                          z = dt A_n
        softmax    K_l = Re sum_n C_n / A_n softmax_{0 <= r < l_max}(r z)_l

    with a learned dt for each feature and A shared by all features, then GELU and a linear map over features. C is the
    W of the paper. Every view is that of the system x_t = e^z x_{t-1} + B u_t, y_t = Re(C x_t) + D u_t, where B is
    (e^z - 1) / A for exp and (e^z - 1) / (A (e^{l_max z} - 1)) for softmax.

    exp is S4D with zero-order hold, B = 1 and no symmetry: A = -exp(A_real) + i A_imag, so it runs for ever. softmax
    weighs each mode to a sum of 1 / A over l_max elements; its A = A_real + i A_imag may have a positive real part, a
    mode that recalls the far end of l_max elements better than the present. Such a mode grows by at most e^32 in l_max
    elements, in every view alike, **and goes on growing after them**: start afresh (`starts`, a new state) within
    l_max elements, or take exp for streams without end. `rate` multiplies dt in both forms; softmax then spans
    l_max / rate elements (intervals that add up to l_max), so that the sum of a kernel stays.

    Args:
        d_model: Number of features.
        d_state: Number of complex modes N of each feature: 2N real numbers of state.
        form: "exp" or "softmax".
        l_max: Number of elements that softmax runs over: the length of the training sequences. Refused for exp.
        init: Modes at the start, Re A = -1/2 and Im A "legs" (the positive half of the skew part of HiPPO-LegS of size
            2N), "lin" (pi n) or "random" (normal).
        channels: Outputs of each system; the output stage mixes them.
        n_ssm: Number of different A; a divisor of `d_model`. All tied if 1 (as published), all free if None.
        separate_dt: Learn a dt for the real part of A and another one for the imaginary part.
        dt_min: Smallest initial step, in samples^-1: a memory of about 1/dt_min steps.
        dt_max: Largest initial step.
        dropout: Share of activations dropped in training, once, before the output map.
        output: "linear" (as published), "none" (the bare system), or any other of `layers.build_output`.

    Raises:
        InputError: If a size or a name is not usable, or `l_max` does not belong to the form.

    Source:
        Gupta, Gu, Berant: Diagonal State Spaces are as Effective as Structured State Spaces, arXiv 2203.14343,
        proposition 1 and section 3.2; the reciprocal of the softmax with its 1e-7 as there.

    Example:
        >>> import torch
        >>> from longstate import DSS
        >>> layer = DSS(d_model=4, d_state=8)
        >>> y, state = layer.forward_with_state(torch.randn(2, 100, 4), layer.initial_state(2))
        >>> y.shape, state.x.shape
        (torch.Size([2, 100, 4]), torch.Size([2, 4, 8, 2]))
    """

    optimizer_rules: ClassVar[Mapping[str, OptimizerRule]] = {
        "log_dt": SLOW,
        "A_real": SLOW,
        "A_imag": SLOW,
        "C": SLOW,
    }

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        *,
        form: str = "exp",
        l_max: int | None = None,
        init: str = "legs",
        channels: int = 1,
        n_ssm: int | None = 1,
        separate_dt: bool = False,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        dropout: float = 0.0,
        output: str = "linear",
    ) -> None:
        super().__init__(d_model, d_state, channels, output, dropout, layer="DSS")
        check_choice(form, FORMS, name="form")
        check_choice(init, INITS, name="init")
        self.form = form
        self.l_max = _check_l_max(l_max, form)
        A = _modes(init, d_state)
        tied = check_tied(n_ssm, d_model)
        log_dt = log_uniform(d_model, dt_min, dt_max)
        self.log_dt = nn.Parameter(log_dt[:, None].repeat(1, 2) if separate_dt else log_dt)
        decay = A.real if form == "softmax" else (-A.real).log()
        self.A_real = nn.Parameter(as_parameter(decay).repeat(tied, 1))
        self.A_imag = nn.Parameter(as_parameter(A.imag).repeat(tied, 1))
        self.C = nn.Parameter(torch.randn(channels, d_model, d_state, 2))
        self.D = nn.Parameter(torch.randn(channels, d_model))

    def system(self, rate: float = 1.0) -> ops.LTISystem:
        """The discrete diagonal system, in float64; C without a factor."""
        z, gain, C = self._continuous()
        return ops.LTISystem(torch.exp(rate * z), torch.expm1(rate * z) * gain, C, self.D.double())

    def varying_system(self) -> ops.VaryingSystem:
        """The diagonal system as a function of the intervals, in the type of the state."""
        z, gain, C = self._continuous()
        return held_input(z, gain, C, self.D)

    def _continuous(self) -> tuple[Tensor, Tensor, Tensor]:
        """Exponents dt A and the factors of e^z - 1 in B, both (d_model, N), and C, in complex128."""
        dt = self.log_dt.double().exp().reshape(self.d_model, -1)
        real = untie(self.A_real.double(), self.d_model)
        real = -real.exp() if self.l_max is None else torch.minimum(real, _MOST_GROWTH / (self.l_max * dt[:, :1]))
        imag = untie(self.A_imag.double(), self.d_model)
        A, z = torch.complex(real, imag), torch.complex(dt[:, :1] * real, dt[:, -1:] * imag)
        gain = A.reciprocal() if self.l_max is None else _softmax_gain(A, z, self.l_max)
        return z, gain, torch.view_as_complex(self.C.double())

    def _state_shape(self) -> tuple[int, ...]:
        return (self.d_model, self.d_state, 2)


def held_input(z: Tensor, gain: Tensor, C: Tensor, D: Tensor) -> ops.VaryingSystem:
    """The system A = e^{rate z}, B = (e^{rate z} - 1) gain as a function of the intervals, in the type of the state."""
    real = recurrent_dtype(D.dtype)
    dtype = torch.promote_types(torch.complex32, real)
    z, gain = z.to(dtype), gain.to(dtype)

    def discretize(rate: Tensor) -> tuple[Tensor, Tensor]:
        A_bar, growth = theory.exponential(rate.to(real)[..., None, None] * z)
        return A_bar, growth * gain

    return ops.VaryingSystem(discretize, C.to(dtype), D.to(real), ops.Exponents(z, gain, held=True))


def _check_l_max(l_max: int | None, form: str) -> int | None:
    if form == "softmax":
        if l_max is None:
            raise InputError(
                "`l_max` is None with form='softmax', but its softmax runs over a fixed number of elements; "
                "give the length of the training sequences as `l_max`, or use form='exp'."
            )
        check_positive(l_max=l_max)
    elif l_max is not None:
        raise InputError(
            f"`l_max` is {l_max} with form={form!r}, but only softmax has one; leave it out, or use form='softmax'."
        )
    return l_max


def _modes(init: str, d_state: int) -> Tensor:
    """Initial A (d_state,), complex128."""
    if init != "random":
        return theory.diagonal(init, 2 * d_state)
    frequency = torch.randn(d_state, dtype=torch.float64)
    return torch.complex(torch.full_like(frequency, -0.5), frequency)


def _softmax_gain(A: Tensor, z: Tensor, l_max: int) -> Tensor:
    """1 / (A (e^{l_max z} - 1)), finite everywhere, for modes that decay and modes that grow."""
    growing = z.real > 0
    # Only exponents that do not grow: 1 / (e^Lz - 1) = -e^-Lz / (e^-Lz - 1).
    denominator = A * torch.expm1(l_max * torch.where(growing, -z, z))
    inverse = denominator.conj_physical() / (denominator.real.square() + denominator.imag.square() + _EPSILON)
    shift = -torch.exp(-l_max * torch.where(growing, z, torch.zeros_like(z)))
    return torch.where(growing, shift * inverse, inverse)
