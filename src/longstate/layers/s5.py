"""S5: a state space layer with one state for all features."""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from longstate import ops, theory
from longstate._checks import check_choice, check_positive
from longstate.layers.base import SLOW, OptimizerRule
from longstate.layers.lti import as_parameter, complex_normal, log_uniform
from longstate.layers.mimo import MIMOLayer

C_INITS = ("trunc_standard_normal", "lecun_normal", "complex_normal")

S5_RULES: Mapping[str, OptimizerRule] = {"A": SLOW, "B": SLOW, "log_dt": SLOW}
"""A, B and dt learn slowly and without decay: the `standard` configuration of the official code."""

_LARGEST_REAL_PART = -1e-4
_STILL = 1e-7
_SPREAD_OF_TRUNCATED_NORMAL = 0.87962566


class S5(MIMOLayer):
    """State space layer with many inputs and outputs: one diagonal state for all features.

        x'(t) = A x(t) + B u(t),    y(t) = 2 Re(C x(t)) + D u(t)

    with A the eigenvalues of HiPPO-LegS' normal part in `blocks` equal copies, B = V* B_0 and C = C_0 V for random B_0
    and C_0, each mode discretised with a learned dt of its own, and an output stage that mixes features. It runs as a
    linear scan, so `rate` may be a tensor: one interval an element, irregular sampling, exact for input held over each
    interval under "zoh".

    Args:
        d_model: Number of features H.
        d_state: Size N of the whole state, all features together: N/2 complex modes, N without `conj_sym`. A multiple
            of 2 `blocks`.
        blocks: Number J of HiPPO matrices side by side, each of size N/J.
        rule: Discretisation: "zoh", "bilinear", "euler", "backward_euler" or "dirac".
        dt_min: Smallest initial step, in samples^-1: a memory of about 1/dt_min steps.
        dt_max: Largest initial step.
        conj_sym: Keep one mode of each conjugate pair and write 2 Re(C x); else keep all and write Re(C x).
        c_init: C_0 at the start. The official names do not say what that code draws, which is done here:
            "trunc_standard_normal" is lecun normal within each row (variance 1/N for real and imaginary part),
            "lecun_normal" counts the rows too (variance 1/(N H)); "complex_normal" draws C itself, of variance 1.
        clip_eigs: Bound Re A by -1e-4 from above, so that the system stays stable. Off, as in the official code,
            training may make it unstable.
        dropout: Share of activations dropped in training, once.
        output: "half_glu1" (the official default), "half_glu2", "full_glu", "gelu" or "none" (the bare system) as
            published, or "glu", "linear"; `layers.build_output` gives their equations.

    Raises:
        InputError: If a size or a name is not usable.

    Source:
        Smith, Warrington, Linderman: Simplified State Space Layers for Sequence Modeling, arXiv 2208.04933;
        initial values as `s5/ssm_init.py` of the official code.

    Example:
        >>> import torch
        >>> from longstate import S5
        >>> layer = S5(d_model=4, d_state=16, blocks=2)
        >>> x, intervals = torch.randn(2, 100, 4), torch.rand(2, 100)
        >>> y, state = layer.forward_with_state(x, layer.initial_state(2), rate=intervals)
        >>> y.shape, state.x.shape
        (torch.Size([2, 100, 4]), torch.Size([2, 8, 2]))
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
        super().__init__(d_model, d_state, d_state // 2 if conj_sym else d_state, output, dropout, layer="S5")
        check_choice(rule, theory.RULES, name="rule")
        self.rule = rule
        self.conj_sym = conj_sym
        self.clip_eigs = clip_eigs
        start = initial_s5(d_model, d_state, blocks, conj_sym, c_init, directions=1)
        self.log_dt = nn.Parameter(log_uniform(self.modes, dt_min, dt_max))
        self.A = nn.Parameter(start.A)
        self.B = nn.Parameter(start.B)
        self.C = nn.Parameter(start.C)
        self.D = nn.Parameter(torch.randn(d_model))

    def system(self, rate: float | Tensor = 1.0) -> ops.MIMOSystem:
        """The discrete diagonal system, in float64 and complex128."""
        A_bar, gain = discretize_s5(self.A, self.log_dt, rate, self.rule, clip_eigs=self.clip_eigs)
        B, C = (torch.view_as_complex(part.double()) for part in (self.B, self.C))
        return ops.MIMOSystem(A_bar, gain, B, 2 * C if self.conj_sym else C, self.D.double())


class S5Start(NamedTuple):
    """Initial A (P, 2), B (P, H, 2) and C (H, directions P, 2), real pairs in the type of parameters."""

    A: Tensor
    B: Tensor
    C: Tensor


def initial_s5(d_model: int, d_state: int, blocks: int, conj_sym: bool, c_init: str, *, directions: int) -> S5Start:
    """Draw the initial system of S5, with a C for each direction."""
    check_positive(d_model=d_model, d_state=d_state, blocks=blocks)
    check_choice(c_init, C_INITS, name="c_init")
    A, V = theory.block_diagonal("legs", d_state, blocks)
    if not conj_sym:
        A, V = torch.cat([A, A.conj()]), torch.cat([V, V.conj()], dim=-1)
    B = V.mH @ _lecun_normal(d_state, d_model, fan_in=d_state).to(V.dtype)
    if c_init == "complex_normal":
        C = complex_normal(d_model, directions * len(A))
    else:
        fan_in = d_state if c_init == "trunc_standard_normal" else d_state * d_model
        drawn = torch.view_as_complex(_lecun_normal(directions, d_model, d_state, 2, fan_in=fan_in))
        C = torch.view_as_real(torch.cat(list(drawn @ V), dim=-1))
    return S5Start(*(as_parameter(part) for part in (torch.view_as_real(A), torch.view_as_real(B), C)))


def discretize_s5(
    A: Tensor, log_dt: Tensor, rate: float | Tensor, rule: str, *, clip_eigs: bool
) -> tuple[Tensor, Tensor]:
    """Ā and the gain that makes B̄ = gain B, each (P,) or (*rate.shape, P), complex128.

    Discretisation treats every mode alone, so B̄ is B times one number a mode, which is the B̄ of an input of 1.
    """
    A = A.double()
    if clip_eigs:
        A = torch.stack([A[:, 0].clamp(max=_LARGEST_REAL_PART), A[:, 1]], dim=-1)
    A, dt = torch.view_as_complex(A), log_dt.double().exp()
    if isinstance(rate, Tensor) and rule in ("zoh", "dirac"):
        return _discretize_intervals(A, dt, rate.double()[..., None], rule)
    dt = dt * (rate[..., None] if isinstance(rate, Tensor) else rate)
    A_bar, gain = theory.discretize_diagonal(A[:, None], torch.ones_like(A)[:, None], dt, rule)
    return A_bar.squeeze(-1), gain.squeeze(-1)


def _discretize_intervals(A: Tensor, dt: Tensor, rate: Tensor, rule: str) -> tuple[Tensor, Tensor]:
    """The exponential rules of `theory.discretize_diagonal` for modes (P,) and intervals (..., 1), three times as fast.

    (e^z - 1) / A has an exact numerator, so that it needs a series only for modes that hardly move in one step.
    """
    z = rate * (dt * A)
    A_bar, growth = theory.exponential(z)
    if rule == "dirac":
        return A_bar, torch.ones_like(A)
    still = (dt * A).abs() < _STILL
    gain = growth / torch.where(still, torch.ones_like(A), A)
    return A_bar, torch.where(still, rate * dt * (1 + z / 2 * (1 + z / 3)), gain)


def _lecun_normal(*shape: int, fan_in: int) -> Tensor:
    """Numbers of variance 1/fan_in, normal but for the tails beyond two standard deviations, in float64."""
    drawn = nn.init.trunc_normal_(torch.empty(*shape, dtype=torch.float64), a=-2.0, b=2.0)
    return drawn / (_SPREAD_OF_TRUNCATED_NORMAL * fan_in**0.5)
