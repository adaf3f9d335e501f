"""What is known of each HiPPO measure, as data."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from longstate._checks import InputError, check_choice


class Measure(NamedTuple):
    """Facts about a measure; `theory.MEASURE_FACTS` holds one for each name.

    Attributes:
        window: How far back a memory looks, in units of its time; None if it fades and never ends.
        rank: How many vectors P make A + Σ P Pᵀ normal (`theory.nplr`); None if no such vectors are known.
        contraction: Whether A + Aᵀ is negative semidefinite at the default parameters. Then ‖e^{tA}‖₂ <= 1, and
            ‖Ā‖₂ <= 1 under every rule but euler: powers of Ā never amplify a rounding error.
        reconstructs: Whether the past can be read from the state (`theory.reconstruct`). Where not, several stretches
            of the past lie on top of each other.
        even: Whether only even sizes exist.
        alpha: Default of the parameter α; None if there is none.
        beta: Default of the parameter β; None if there is none.
    """

    window: float | None = None
    rank: int | None = None
    contraction: bool = True
    reconstructs: bool = True
    even: bool = False
    alpha: float | None = None
    beta: float | None = None


_FOURIER = Measure(window=2.0, rank=1, even=True)
_FOURIER_DIAG = Measure(rank=0, reconstructs=False, even=True)

MEASURE_FACTS: Mapping[str, Measure] = MappingProxyType(
    {
        "legs": Measure(rank=1),
        "legsd": Measure(rank=0, reconstructs=False),
        "legt": Measure(window=2.0, rank=2),
        "lmu": Measure(window=1.0, contraction=False),
        "lagt": Measure(rank=1, beta=1.0),
        "tlagt": Measure(rank=1, beta=1.0),
        "glagt": Measure(rank=1, alpha=0.0, beta=0.01),
        "fourier": _FOURIER,
        "fout": _FOURIER,
        "fourier_decay": Measure(rank=1, reconstructs=False, even=True),
        "fourier2": _FOURIER._replace(window=1.0),
        "fourier_diag": _FOURIER_DIAG,
        "foud": _FOURIER_DIAG,
    }
)
"""Every measure by its name. lmu is a contraction only after a change of basis: it is legt with other units."""

MEASURES = tuple(MEASURE_FACTS)

_ALIASES = {"fout": "fourier", "foud": "fourier_diag"}


class Parameters(NamedTuple):
    """A measure by its first name, with its α and β (0.0 and 1.0 where it has none)."""

    measure: str
    alpha: float
    beta: float


def parameters(measure: str, alpha: float | None, beta: float | None) -> Parameters:
    """The measure and its parameters, with its defaults for None; raises unless the measure has what is given."""
    check_choice(measure, MEASURES, name="measure")
    facts = MEASURE_FACTS[measure]
    for name, value, default in (("alpha", alpha, facts.alpha), ("beta", beta, facts.beta)):
        if value is not None and default is None:
            having = ", ".join(other for other in MEASURES if getattr(MEASURE_FACTS[other], name) is not None)
            raise InputError(
                f"`{name}` is {value} with measure {measure!r}, but only {having} has one; leave `{name}` out."
            )
    alpha = alpha if alpha is not None else facts.alpha or 0.0
    beta = beta if beta is not None else facts.beta or 1.0
    if not -1 < alpha < 1:
        raise InputError(f"`alpha` is {alpha}, but a number between -1 and 1 is needed; 0 is the plain measure.")
    if not beta > 0:
        raise InputError(f"`beta` is {beta}, but a positive number is needed; leave it out for the default.")
    return Parameters(_ALIASES.get(measure, measure), alpha, beta)
