"""The causal model of numbers at every step."""

from longstate.models.causal import CausalModel
from longstate.models.config import StepRegressorConfig
from longstate.models.input import TargetDecoder
from longstate.models.pooling import EveryStep


class StepRegressor(CausalModel[StepRegressorConfig]):
    """Numbers for every step, from what came until then: a filter, or a forecast so many steps ahead.

        y_t = (W h_t + b) * scale + shift,    h = backbone(encoder(x))

    `forward(x)` and `forward_with_state` give the targets (batch, length, targets), `step` those of one step
    (batch, targets); x is raw input (batch, length, d_input), and with `target_statistics` the outputs are in the
    targets' own units.

    Args:
        config: What the model is.

    Raises:
        InputError: If a size or a name in the configuration is not usable.

    Example:
        >>> import torch
        >>> from longstate.models import BackboneConfig, StepRegressor, StepRegressorConfig
        >>> model = StepRegressor(StepRegressorConfig(d_input=1, targets=("level",), backbone=BackboneConfig(8, 2)))
        >>> model(torch.randn(5, 100, 1)).shape
        torch.Size([5, 100, 1])
    """

    def __init__(self, config: StepRegressorConfig) -> None:
        head = TargetDecoder(config.backbone.d_model, len(config.targets), config.target_statistics)
        super().__init__(config, EveryStep(), head)
