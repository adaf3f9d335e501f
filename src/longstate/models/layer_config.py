"""What a layer is, as frozen dataclasses: one a published layer, in the order of the table in `build_layer`.

A configuration holds the keyword arguments of its layer's constructor, by the same names and with the same defaults,
but for the width; `tests/models/test_models_layer_config.py` holds the two against each other. `kind` is the layer's
name in configuration files. The file is long because every layer has its entry, and the union at its end needs them
all.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

_FORBID_EXTRA = {"extra": "forbid"}

DiagonalInit: TypeAlias = Literal["lin", "inv", "inv2", "quad", "legs", "random", "real", "diag"]
DPLRInit: TypeAlias = Literal[
    "legs",
    "legsd",
    "legt",
    "lagt",
    "tlagt",
    "glagt",
    "fourier",
    "fout",
    "fourier_decay",
    "fourier2",
    "fourier_diag",
    "foud",
    "hippo",
    "diag",
    "all",
]
Rule: TypeAlias = Literal["zoh", "bilinear", "euler", "backward_euler", "dirac"]
Output: TypeAlias = Literal["glu", "linear", "none", "full_glu", "half_glu1", "half_glu2", "gelu"]


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
    init: DiagonalInit = "lin"
    b_init: Literal["constant", "random", "alternating", "unit_cw", "unit_ccw", "legs"] | None = None
    real_random: bool = False
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
    init: DPLRInit = "legs"
    rule: Rule = "bilinear"
    channels: int = 1
    n_ssm: int | None = None
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    dropout: float = 0.0
    output: Output = "glu"
    b_clip: float | None = None


@dataclass(frozen=True, kw_only=True)
class S5Config:
    """The arguments of `layers.S5` and of `layers.BidirectionalS5`, but for the width.

    Example:
        >>> from longstate.models import S5Config
        >>> S5Config(d_state=256, blocks=8).output
        'half_glu1'
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    kind: Literal["s5"] = "s5"
    d_state: int = 64
    blocks: int = 1
    rule: Rule = "zoh"
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    conj_sym: bool = True
    c_init: Literal["trunc_standard_normal", "lecun_normal", "complex_normal"] = "trunc_standard_normal"
    clip_eigs: bool = False
    dropout: float = 0.0
    output: Output = "half_glu1"


@dataclass(frozen=True, kw_only=True)
class LRUConfig:
    """The arguments of `layers.LRU`, but for its width.

    Example:
        >>> from longstate.models import LRUConfig
        >>> LRUConfig(r_min=0.9, r_max=0.999).d_state
        64
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    kind: Literal["lru"] = "lru"
    d_state: int = 64
    r_min: float = 0.0
    r_max: float = 1.0
    max_phase: float = 2 * math.pi
    dropout: float = 0.0
    output: Output = "full_glu"


@dataclass(frozen=True, kw_only=True)
class DSSConfig:
    """The arguments of `layers.DSS`, but for its width.

    Example:
        >>> from longstate.models import DSSConfig
        >>> DSSConfig(form="softmax", l_max=1024).init
        'legs'
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    kind: Literal["dss"] = "dss"
    d_state: int = 64
    form: Literal["exp", "softmax"] = "exp"
    l_max: int | None = None
    init: Literal["legs", "lin", "random"] = "legs"
    channels: int = 1
    n_ssm: int | None = 1
    separate_dt: bool = False
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    dropout: float = 0.0
    output: Output = "linear"


@dataclass(frozen=True, kw_only=True)
class LSSLConfig:
    """The arguments of `layers.LSSL`, but for its width; `measure` is one of `theory.MEASURES`.

    Example:
        >>> from longstate.models import LSSLConfig
        >>> LSSLConfig(measure="legt", trainable=False).alpha
        0.5
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    kind: Literal["lssl"] = "lssl"
    d_state: int = 64
    measure: str = "legs"
    rule: Literal["gbt", "zoh", "bilinear", "euler", "backward_euler", "dirac"] = "gbt"
    alpha: float = 0.5
    trainable: bool = True
    channels: int = 1
    n_ssm: int | None = 1
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    dropout: float = 0.0
    output: Output = "linear"


@dataclass(frozen=True, kw_only=True)
class GSSConfig:
    """The arguments of `layers.GSS`, but for its width.

    Example:
        >>> from longstate.models import GSSConfig
        >>> GSSConfig(d_ssm=64).d_state
        512
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    kind: Literal["gss"] = "gss"
    d_inner: int | None = None
    d_ssm: int | None = None
    d_state: int = 512


@dataclass(frozen=True, kw_only=True)
class LinOSSConfig:
    """The arguments of `layers.LinOSS`, but for its width.

    Example:
        >>> from longstate.models import LinOSSConfig
        >>> LinOSSConfig(rule="damped").r_min
        0.9
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    kind: Literal["linoss"] = "linoss"
    d_state: int = 64
    rule: Literal["im", "imex", "damped"] = "im"
    r_min: float = 0.9
    r_max: float = 1.0
    theta_max: float = math.pi
    dropout: float = 0.0
    output: Output = "full_glu"


@dataclass(frozen=True, kw_only=True)
class EMAConfig:
    """The arguments of `layers.EMA`, but for its width.

    Example:
        >>> from longstate.models import EMAConfig
        >>> EMAConfig(residual=False).d_state
        16
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    kind: Literal["ema"] = "ema"
    d_state: int = 16
    residual: bool = True
    dropout: float = 0.0
    output: Output = "glu"


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """The arguments of `layers.Attention`, but for its width.

    Example:
        >>> from longstate.models import AttentionConfig
        >>> AttentionConfig(n_heads=4, window=128).rotary_base is None
        True
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    kind: Literal["attention"] = "attention"
    n_heads: int = 8
    n_kv_heads: int | None = None
    head_dim: int | None = None
    window: int | None = None
    rotary_base: float | None = None
    rotary_dim: int | None = None
    d_conv: int = 0
    scale: float | None = None
    bias: bool = False


@dataclass(frozen=True, kw_only=True)
class FeedForwardConfig:
    """The arguments of `layers.FeedForward`, but for its width.

    Example:
        >>> from longstate.models import FeedForwardConfig
        >>> FeedForwardConfig(d_inner=256).activation
        'gelu'
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    kind: Literal["feed_forward"] = "feed_forward"
    d_inner: int | None = None
    activation: Literal["gelu", "swiglu", "relu2"] = "gelu"
    bias: bool = True
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class MixtureOfExpertsConfig:
    """The arguments of `layers.MixtureOfExperts`, but for its width.

    Example:
        >>> from longstate.models import MixtureOfExpertsConfig
        >>> MixtureOfExpertsConfig(n_experts=8).top_k
        2
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    kind: Literal["mixture_of_experts"] = "mixture_of_experts"
    d_inner: int | None = None
    n_experts: int = 16
    top_k: int = 2
    activation: Literal["gelu", "swiglu", "relu2"] = "swiglu"
    normalise: bool = False
    d_shared: int | None = None
    scores: Literal["softmax", "sigmoid"] = "softmax"
    scale: float = 1.0
    d_latent: int | None = None


@dataclass(frozen=True, kw_only=True)
class H3Config:
    """The arguments of `layers.H3`, but for its width.

    Example:
        >>> from longstate.models import H3Config
        >>> H3Config(head_dim=8).rule
        'bilinear'
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    kind: Literal["h3"] = "h3"
    d_state: int = 64
    head_dim: int = 1
    init: DiagonalInit = "lin"
    rule: Rule = "bilinear"
    n_ssm: int | None = None
    dt_min: float = 1e-3
    dt_max: float = 1e-1


@dataclass(frozen=True, kw_only=True)
class HyenaConfig:
    """The arguments of `layers.Hyena`, but for its width.

    Example:
        >>> from longstate.models import HyenaConfig
        >>> HyenaConfig(filter_length=4096).order
        2
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    kind: Literal["hyena"] = "hyena"
    filter_length: int = 1024
    order: int = 2
    filter_order: int = 64
    emb_dim: int = 3
    num_inner_mlps: int = 2
    frequency: float = 1.0
    shift: float = 0.0
    fast_decay: float = 0.3
    slow_decay: float = 1.5
    target: float = 1e-2
    short_width: int = 3
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class LongConvConfig:
    """The arguments of `layers.LongConv`, but for its width.

    Example:
        >>> from longstate.models import LongConvConfig
        >>> LongConvConfig(filter_length=4096).squash
        0.003
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    kind: Literal["long_conv"] = "long_conv"
    filter_length: int = 1024
    init: Literal["random", "double_exponential"] = "random"
    squash: float = 0.003
    smooth: Literal["none", "time", "frequency"] = "none"
    smooth_width: int = 7
    channels: int = 1
    kernel_dropout: float = 0.0
    dropout: float = 0.0
    output: Output = "glu"


@dataclass(frozen=True, kw_only=True)
class MambaConfig:
    """The arguments of `layers.Mamba`, but for its width; read both ways it is `layers.BidirectionalMamba`.

    Example:
        >>> from longstate.models import MambaConfig
        >>> MambaConfig(d_state=8).expand
        2
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    kind: Literal["mamba"] = "mamba"
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    dt_rank: int | None = None
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    conv_bias: bool = True
    bias: bool = False
    inner_norm: Literal["none", "fixed", "weighted"] = "none"
    norm_eps: float = 1e-6


@dataclass(frozen=True, kw_only=True)
class Mamba2Config:
    """The arguments of `layers.Mamba2`, but for its width.

    Example:
        >>> from longstate.models import Mamba2Config
        >>> Mamba2Config(head_dim=32).d_state
        128
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    kind: Literal["mamba2"] = "mamba2"
    d_state: int = 128
    d_conv: int = 4
    expand: int = 2
    d_inner: int | None = None
    head_dim: int = 64
    n_groups: int = 1
    d_ssm: int | None = None
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    dt_floor: float = 0.0
    dt_ceiling: float | None = None
    A_min: float = 1.0
    A_max: float = 16.0
    D_per_channel: bool = False
    gate: Literal["gate_first", "norm_first", "none"] = "gate_first"
    norm_eps: float = 1e-5
    conv_bias: bool = True
    bias: bool = False


@dataclass(frozen=True, kw_only=True)
class Mamba3Config:
    """The arguments of `layers.Mamba3`, but for its width.

    Example:
        >>> from longstate.models import Mamba3Config
        >>> Mamba3Config(rank=4).pairs
        'adjacent'
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    kind: Literal["mamba3"] = "mamba3"
    d_state: int = 128
    expand: int = 2
    head_dim: int = 64
    n_groups: int = 1
    rank: int = 1
    rope_fraction: float = 0.5
    pairs: Literal["adjacent", "halves"] = "adjacent"
    A_activation: Literal["linear_reciprocal", "softplus"] = "linear_reciprocal"
    output_norm: bool = False
    dt_min: float = 1e-3
    dt_max: float = 1e-1


@dataclass(frozen=True, kw_only=True)
class BlockStateConfig:
    """The arguments of `layers.BlockStateTransformer`, but for its width.

    Example:
        >>> from longstate.models import BlockStateConfig
        >>> BlockStateConfig(variant="multi_filter").window
        512
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    kind: Literal["block_state"] = "block_state"
    window: int = 512
    variant: Literal["single_head", "multi_head", "multi_filter"] = "single_head"
    n_heads: int = 8
    n_filters: int = 8
    head_dim: int | None = None
    rotary_base: float | None = 10_000.0
    bias: bool = False
    layer: Literal["s4d", "s4"] = "s4d"
    d_state: int = 64
    init: Literal[DiagonalInit, DPLRInit] | None = None
    rule: Rule | None = None
    n_ssm: int | None = None
    dt_min: float = 1e-3
    dt_max: float = 1e-1


@dataclass(frozen=True, kw_only=True)
class ParallelHybridConfig:
    """The arguments of `layers.ParallelHybrid`, but for its width.

    Example:
        >>> from longstate.models import ParallelHybridConfig
        >>> ParallelHybridConfig(n_heads=4, window=128).gate
        'none'
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    kind: Literal["parallel_hybrid"] = "parallel_hybrid"
    n_heads: int = 8
    n_kv_heads: int | None = None
    head_dim: int | None = None
    window: int | None = None
    rotary_base: float | None = 10_000.0
    bias: bool = False
    d_state: int = 128
    d_conv: int = 4
    d_inner: int | None = None
    ssm_head_dim: int = 64
    n_groups: int = 1
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    dt_floor: float = 0.0
    dt_ceiling: float | None = None
    gate: Literal["gate_first", "norm_first", "none"] = "none"
    norm_eps: float = 1e-5
    conv_bias: bool = True
    ssm_bias: bool = False


# S4D stands first: a reader of unions from left to right takes it where `kind` is left out.
LayerConfig: TypeAlias = (
    S4DConfig
    | S4Config
    | S5Config
    | LRUConfig
    | DSSConfig
    | LSSLConfig
    | GSSConfig
    | H3Config
    | HyenaConfig
    | LongConvConfig
    | LinOSSConfig
    | EMAConfig
    | AttentionConfig
    | MambaConfig
    | Mamba2Config
    | Mamba3Config
    | FeedForwardConfig
    | MixtureOfExpertsConfig
    | BlockStateConfig
    | ParallelHybridConfig
)
