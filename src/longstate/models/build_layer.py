"""From the configuration of a layer to the layer."""

import dataclasses
from typing import Any

from longstate._checks import InputError
from longstate.layers import (
    DSS,
    EMA,
    GSS,
    H3,
    LRU,
    LSSL,
    S4,
    S4D,
    S5,
    Attention,
    Bidirectional,
    BidirectionalMamba,
    BidirectionalS5,
    BlockStateTransformer,
    CausalLayer,
    FeedForward,
    Hyena,
    LinOSS,
    LongConv,
    Mamba,
    Mamba2,
    Mamba3,
    MixtureOfExperts,
    ParallelHybrid,
    SequenceLayer,
)
from longstate.models.layer_config import (
    AttentionConfig,
    BlockStateConfig,
    DSSConfig,
    EMAConfig,
    FeedForwardConfig,
    GSSConfig,
    H3Config,
    HyenaConfig,
    LayerConfig,
    LinOSSConfig,
    LongConvConfig,
    LRUConfig,
    LSSLConfig,
    Mamba2Config,
    Mamba3Config,
    MambaConfig,
    MixtureOfExpertsConfig,
    ParallelHybridConfig,
    S4Config,
    S4DConfig,
    S5Config,
)

CAUSAL: dict[type[LayerConfig], type[CausalLayer[Any]]] = {
    S4DConfig: S4D,
    S4Config: S4,
    S5Config: S5,
    LRUConfig: LRU,
    DSSConfig: DSS,
    LSSLConfig: LSSL,
    GSSConfig: GSS,
    H3Config: H3,
    HyenaConfig: Hyena,
    LongConvConfig: LongConv,
    LinOSSConfig: LinOSS,
    EMAConfig: EMA,
    AttentionConfig: Attention,
    MambaConfig: Mamba,
    Mamba2Config: Mamba2,
    Mamba3Config: Mamba3,
    FeedForwardConfig: FeedForward,
    MixtureOfExpertsConfig: MixtureOfExperts,
    BlockStateConfig: BlockStateTransformer,
    ParallelHybridConfig: ParallelHybrid,
}
"""The layer of every configuration."""

BIDIRECTIONAL: dict[type[LayerConfig], type[SequenceLayer]] = {
    S5Config: BidirectionalS5,
    MambaConfig: BidirectionalMamba,
}
"""Layers with a published form that reads both ways; every other one is paired with a copy that runs backwards."""


def build_layer(config: LayerConfig, d_model: int) -> CausalLayer[Any]:
    """The layer that a configuration describes.

    Args:
        config: Of any kind of layer.
        d_model: Its width.

    Returns:
        The layer, freshly initialised.

    Raises:
        InputError: If the configuration is of no known kind, or the layer refuses a value.

    Example:
        >>> from longstate.models import S4DConfig, build_layer
        >>> build_layer(S4DConfig(d_state=8), 4).initial_state(2).x.shape
        torch.Size([2, 4, 4, 2])
    """
    _check_known(config)
    return CAUSAL[type(config)](d_model, **arguments(config))


def build_bidirectional(config: LayerConfig, d_model: int) -> SequenceLayer:
    """The layer that a configuration describes, reading both ways.

    Args:
        config: Of any kind of layer.
        d_model: Its width.

    Returns:
        The published bidirectional form where there is one, else `layers.Bidirectional` of two such layers.

    Raises:
        InputError: If the configuration is of no known kind, or the layer refuses a value.

    Example:
        >>> from longstate.models import S4DConfig
        >>> type(build_bidirectional(S4DConfig(d_state=8), 4)).__name__
        'Bidirectional'
    """
    _check_known(config)
    if type(config) in BIDIRECTIONAL:
        return BIDIRECTIONAL[type(config)](d_model, **arguments(config))
    return Bidirectional(build_layer(config, d_model), build_layer(config, d_model))


def arguments(config: Any) -> dict[str, Any]:
    """What a configuration of a layer says to its constructor."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if field.name != "kind"}


def _check_known(config: LayerConfig) -> None:
    if type(config) not in CAUSAL:
        known = ", ".join(cls.__name__ for cls in CAUSAL)
        raise InputError(
            f"the layer's configuration is a {type(config).__name__}, but one of {known} is needed; choose one."
        )
