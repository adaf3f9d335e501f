"""What a layer is, as frozen dataclasses: one a published layer, in the order of the table in `build_layer`.

A configuration holds the keyword arguments of its layer's constructor, by the same names and with the same defaults,
but for the width; `tests/models/test_models_layer_config.py` holds the two against each other. `kind` is the layer's
name in configuration files.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

_FORBID_EXTRA = {"extra": "forbid"}

Rule: TypeAlias = Literal["zoh", "bilinear", "euler", "backward_euler", "dirac"]
Output: TypeAlias = Literal["glu", "linear", "none"]


@dataclass(frozen=True, kw_only=True)
class S4DConfig:
    """The arguments of `layers.S4D`, but for its width.

    Example:
        >>> from longstate.models import S4DConfig
        >>> S4DConfig(d_state=16).rule
        'zoh'
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    kind: Literal["s4d"] = "s4d"
    d_state: int = 64
    init: Literal["lin", "inv", "legs", "random", "real"] = "lin"
    rule: Rule = "zoh"
    channels: int = 1
    n_ssm: int | None = None
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    dropout: float = 0.0
    output: Output = "glu"


@dataclass(frozen=True, kw_only=True)
class S4Config:
    """The arguments of `layers.S4`, but for its width.

    Example:
        >>> from longstate.models import S4Config
        >>> S4Config(init="legt").rule
        'bilinear'
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    kind: Literal["s4"] = "s4"
    d_state: int = 64
    init: Literal["legs", "legt", "lagt", "fourier", "fout"] = "legs"
    rule: Rule = "bilinear"
    channels: int = 1
    n_ssm: int | None = None
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    dropout: float = 0.0
    output: Output = "glu"
    b_clip: float | None = None


# S4D stands first: a reader of unions from left to right takes it where `kind` is left out.
LayerConfig: TypeAlias = S4DConfig | S4Config
