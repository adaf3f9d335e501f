"""The causal classifier of whole sequences."""

from torch import nn

from longstate.models.causal import CausalModel
from longstate.models.config import ClassifierConfig
from longstate.models.pooling import build_pooling


class SequenceClassifier(CausalModel[ClassifierConfig]):
    """One label a sequence, and while it runs the decision so far.

        logits_t = W pooling(h_1 .. h_t) + b,    h = backbone(encoder(x))

    `forward(x)` gives the logits (batch, classes) after the last valid step, `forward_with_state` those after every
    step (batch, length, classes), `step` those after one more; x is raw input (batch, length, d_input). A row of
    length 0 gives the logits of the mean (or the last step) of nothing, which is 0. In a packed row (`starts`) each
    sequence is decided alone, and `forward` gives the decision on the last one.

    Args:
        config: What the model is.

    Raises:
        InputError: If a size or a name in the configuration is not usable.

    Example:
        >>> import torch
        >>> from longstate.models import BackboneConfig, ClassifierConfig, SequenceClassifier
        >>> config = ClassifierConfig(d_input=3, classes=("rest", "walk"), backbone=BackboneConfig(8, 2))
        >>> model = SequenceClassifier(config).eval()
        >>> x = torch.randn(5, 100, 3)
        >>> running, state = model.forward_with_state(x, model.initial_state(5))
        >>> model(x).shape, running.shape
        (torch.Size([5, 2]), torch.Size([5, 100, 2]))
        >>> torch.allclose(model(x), running[:, -1], atol=1e-5)
        True
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__(config, build_pooling(config.pooling), nn.Linear(config.backbone.d_model, len(config.classes)))
