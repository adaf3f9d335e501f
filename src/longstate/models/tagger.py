"""The causal classifier of every step."""

from torch import nn

from longstate.models.causal import CausalModel
from longstate.models.config import TaggerConfig
from longstate.models.pooling import EveryStep


class SequenceTagger(CausalModel[TaggerConfig]):
    """A label for every step, from what came until then.

        logits_t = W h_t + b,    h = backbone(encoder(x))

    `forward(x)` and `forward_with_state` give the logits (batch, length, classes), `step` those of one step
    (batch, classes); x is raw input (batch, length, d_input).

    Args:
        config: What the model is.

    Raises:
        InputError: If a size or a name in the configuration is not usable.

    Example:
        >>> import torch
        >>> from longstate.models import BackboneConfig, SequenceTagger, TaggerConfig
        >>> model = SequenceTagger(TaggerConfig(d_input=1, classes=("a", "b", "c"), backbone=BackboneConfig(8, 2)))
        >>> model(torch.randn(5, 100, 1)).shape
        torch.Size([5, 100, 3])
    """

    def __init__(self, config: TaggerConfig) -> None:
        super().__init__(config, EveryStep(), nn.Linear(config.backbone.d_model, len(config.classes)))
