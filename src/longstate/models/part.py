"""A part of a model that is kept by itself: one layer, or a backbone."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from longstate._checks import InputError
from longstate.layers import SequenceLayer, TwoSided
from longstate.models.backbone import Backbone
from longstate.models.build_layer import build_layer
from longstate.models.config import BackboneConfig
from longstate.models.layer_config import LayerConfig, S4Config, S4DConfig


@dataclass(frozen=True, kw_only=True)
class LayerPart:
    """One layer of width `d_model`.

    Args:
        d_model: Its width.
        layer: What it is.
        two_sided: The published bidirectional form, `layers.TwoSided`, of S4 or S4D with one channel.

    Raises:
        InputError: If `layer` has no two-sided form.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["layer"] = "layer"
    d_model: int
    layer: LayerConfig
    two_sided: bool = False

    def __post_init__(self) -> None:
        if self.two_sided and not (isinstance(self.layer, S4Config | S4DConfig) and self.layer.channels == 1):
            raise InputError(
                f"`two_sided` is asked of {self.layer}, but S4 or S4D with one channel is needed; "
                "use `layers.Bidirectional` for other layers."
            )


@dataclass(frozen=True, kw_only=True)
class BackbonePart:
    """A stack of layers without encoder and head."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["backbone"] = "backbone"
    backbone: BackboneConfig


PartConfig: TypeAlias = LayerPart | BackbonePart


def build_part(config: PartConfig) -> SequenceLayer:
    """The layer or the backbone that a configuration describes, freshly initialised and in training mode.

    Args:
        config: Of a part.

    Returns:
        The layer itself (an `S4`, say), or a `Backbone`.

    Raises:
        InputError: If a value in it is not usable.

    Example:
        >>> from longstate.models import LayerPart, S4DConfig, build_part
        >>> type(build_part(LayerPart(d_model=4, layer=S4DConfig(d_state=8)))).__name__
        'S4D'
    """
    if isinstance(config, BackbonePart):
        return Backbone(config.backbone)
    layer = config.layer
    if config.two_sided and isinstance(layer, S4Config | S4DConfig):
        bare = dataclasses.replace(layer, output="none", dropout=0.0)
        systems = (build_layer(bare, config.d_model), build_layer(bare, config.d_model))
        return TwoSided(*systems, output=layer.output, dropout=layer.dropout)
    return build_layer(layer, config.d_model)
