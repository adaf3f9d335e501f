"""Every layer and model that the laws are run on. A new layer is a new line here."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor

from longstate.layers import S4, S4D, Bidirectional, BidirectionalResidual, Residual, SequenceLayer
from longstate.theory import RULES

D_MODEL, D_STATE = 4, 8


@dataclass(frozen=True)
class Entry:
    """How to make a layer, and how wide its inputs are. `programs`: export and compile it too, which takes seconds."""

    name: str
    build: Callable[[], SequenceLayer]
    d_input: int = D_MODEL
    programs: bool = False

    def make_input(self, batch: int, length: int) -> Tensor:
        return torch.randn(batch, length, self.d_input, dtype=torch.float64)

    def __str__(self) -> str:
        return self.name


def _lti(cls: type[S4] | type[S4D], programs: bool = False, **options: object) -> Entry:
    written = ", ".join(str(value) for value in options.values())
    return Entry(f"{cls.__name__}({written})", lambda: cls(D_MODEL, D_STATE, **options), programs=programs)


def _all_rules(cls: type[S4] | type[S4D], inits: tuple[str, ...]) -> list[Entry]:
    """Every init with every rule, and along them the other options in turn, so that all pairs of choices meet."""
    channels, tied, outputs = cycle((1, 2, 3, 1)), cycle((None, 1, 2)), cycle(("glu", "linear"))
    return [
        _lti(cls, init=init, rule=rule, channels=next(channels), n_ssm=next(tied), output=next(outputs))
        for init in inits
        for rule in RULES
    ]


def _s4d(**options: object) -> S4D:
    return S4D(D_MODEL, D_STATE, **options)


CAUSAL_LAYERS = [
    _lti(S4D, programs=True),
    _lti(S4, programs=True),
    *_all_rules(S4D, ("lin", "inv", "legs", "random", "real")),
    *_all_rules(S4, ("legs", "legt", "lagt", "fourier")),
    _lti(S4D, output="none"),
    _lti(S4, output="none", b_clip=2.0),
    _lti(S4D, dropout=0.2),
    Entry("S4D(1, 2)", lambda: S4D(1, 2, dt_min=0.5, dt_max=2.0), d_input=1),
    Entry("Residual(layer)", lambda: Residual(_s4d()), programs=True),
    Entry("Residual(rms)", lambda: Residual(_s4d(), norm="rms", dropout=0.2)),
    Entry("Residual(batch)", lambda: Residual(_s4d(), norm="batch")),
    Entry("Residual(Residual)", lambda: Residual(Residual(_s4d(init="real")), norm="batch")),
]

BIDIRECTIONAL_LAYERS = [
    Entry("Bidirectional", lambda: Bidirectional(_s4d(), S4(D_MODEL, D_STATE)), programs=True),
    Entry("Bidirectional(strict)", lambda: Bidirectional(_s4d(), _s4d(channels=2), strict=True)),
    Entry("BidirectionalResidual(layer)", lambda: BidirectionalResidual(Bidirectional(_s4d(), _s4d()))),
    Entry("BidirectionalResidual(batch)", lambda: BidirectionalResidual(Bidirectional(_s4d(), _s4d()), norm="batch")),
]

ALL = [*CAUSAL_LAYERS, *BIDIRECTIONAL_LAYERS]
