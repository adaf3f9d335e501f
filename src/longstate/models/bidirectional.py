"""The classifier of whole sequences that reads them both ways."""

from torch import Tensor, nn

from longstate._checks import check_lengths, check_sequence, check_starts, zero_padding
from longstate.layers.base import SequenceLayer
from longstate.models.backbone import BidirectionalBackbone
from longstate.models.config import BidirectionalClassifierConfig
from longstate.models.input import InputEncoder
from longstate.models.pooling import build_pooling


class BidirectionalClassifier(SequenceLayer):
    """One label a sequence, from all of it at once; it cannot stream, so it has no state and no `step`.

        logits = W pooling(h) + b,    h = bidirectional_backbone(encoder(x))

    `forward(x)` gives the logits (batch, classes); x is raw input (batch, length, d_input).

    Args:
        config: What the model is.

    Raises:
        InputError: If a size or a name in the configuration is not usable.

    Example:
        >>> import torch
        >>> from longstate.models import BackboneConfig, BidirectionalClassifier, BidirectionalClassifierConfig
        >>> config = BidirectionalClassifierConfig(d_input=3, classes=("rest", "walk"), backbone=BackboneConfig(8, 2))
        >>> BidirectionalClassifier(config)(torch.randn(5, 100, 3)).shape
        torch.Size([5, 2])
    """

    def __init__(self, config: BidirectionalClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.d_model = config.d_input
        self.encoder = InputEncoder(config.d_input, config.backbone.d_model, config.statistics)
        self.backbone = BidirectionalBackbone(config.backbone)
        self.pooling = build_pooling(config.pooling)
        self.head = nn.Linear(config.backbone.d_model, len(config.classes))

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """The logits (batch, classes) of each row, or of its last sequence if packed."""
        check_sequence(x, self.d_model)
        check_lengths(lengths, x)
        check_starts(starts, x)
        h = self.encoder(zero_padding(x, lengths))
        h = self.backbone(h, lengths=lengths, rate=rate, starts=starts)
        return self.head(self.pooling(h, lengths=lengths, starts=starts))
