"""From a configuration to its model."""

from longstate._checks import InputError
from longstate.models.bidirectional import BidirectionalClassifier
from longstate.models.classifier import SequenceClassifier
from longstate.models.config import (
    BidirectionalClassifierConfig,
    ClassifierConfig,
    ModelConfig,
    RegressorConfig,
    StepRegressorConfig,
    TaggerConfig,
)
from longstate.models.regressor import SequenceRegressor
from longstate.models.step_regressor import StepRegressor
from longstate.models.tagger import SequenceTagger

Model = SequenceClassifier | SequenceTagger | SequenceRegressor | StepRegressor | BidirectionalClassifier
"""Every model that a configuration describes."""


def build(config: ModelConfig) -> Model:
    """The model that a configuration describes, freshly initialised and in training mode.

    Args:
        config: Of any kind of model.

    Returns:
        The model.

    Raises:
        InputError: If the configuration is of no known kind, or a value in it is not usable.

    Example:
        >>> from longstate.models import TaggerConfig, build
        >>> type(build(TaggerConfig(d_input=1, classes=("a", "b")))).__name__
        'SequenceTagger'
    """
    if isinstance(config, ClassifierConfig):
        return SequenceClassifier(config)
    if isinstance(config, TaggerConfig):
        return SequenceTagger(config)
    if isinstance(config, RegressorConfig):
        return SequenceRegressor(config)
    if isinstance(config, StepRegressorConfig):
        return StepRegressor(config)
    if isinstance(config, BidirectionalClassifierConfig):
        return BidirectionalClassifier(config)
    raise InputError(
        f"the configuration is a {type(config).__name__}, but one of a model is needed; "
        "give a ClassifierConfig, TaggerConfig, RegressorConfig, StepRegressorConfig or BidirectionalClassifierConfig."
    )
