"""The causal model of numbers about whole sequences."""

from longstate.models.causal import CausalModel
from longstate.models.config import RegressorConfig
from longstate.models.input import TargetDecoder
from longstate.models.pooling import build_pooling


class SequenceRegressor(CausalModel[RegressorConfig]):
    """Numbers about a sequence, and while it runs the estimate so far.

        y_t = (W pooling(h_1 .. h_t) + b) * scale + shift,    h = backbone(encoder(x))

    `forward(x)` gives the targets (batch, targets) after the last valid step, `forward_with_state` those after every
    step, `step` those after one more; x is raw input (batch, length, d_input), and with `target_statistics` the
    outputs are in the targets' own units. A loss is best taken of errors divided by their scale. Rows of length 0 and
    packed rows are treated as in `SequenceClassifier`.

    Args:
        config: What the model is.

    Raises:
        InputError: If a size or a name in the configuration is not usable.

    Example:
        >>> import torch
        >>> from longstate.models import BackboneConfig, RegressorConfig, SequenceRegressor, TargetStatistics
        >>> config = RegressorConfig(
        ...     d_input=2,
        ...     targets=("mass",),
        ...     target_statistics=TargetStatistics(shift=(70.0,), scale=(12.0,)),
        ...     backbone=BackboneConfig(8, 2),
        ... )
        >>> SequenceRegressor(config)(torch.randn(5, 100, 2)).shape
        torch.Size([5, 1])
    """

    def __init__(self, config: RegressorConfig) -> None:
        head = TargetDecoder(config.backbone.d_model, len(config.targets), config.target_statistics)
        super().__init__(config, build_pooling(config.pooling), head)
