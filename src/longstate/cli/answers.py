"""What the outputs of a model mean: probabilities of its classes, or the values of its targets."""

from torch import Tensor

from longstate import models


def names(config: models.ModelConfig) -> tuple[str, ...]:
    """The name of each output: classes, or targets."""
    return config.targets if isinstance(config, models.NumberConfig) else config.classes


def answer(config: models.ModelConfig, output: Tensor) -> Tensor:
    """Outputs (..., n) as probabilities for classes, as they are for targets; float64."""
    return output.double() if isinstance(config, models.NumberConfig) else output.double().softmax(-1)
