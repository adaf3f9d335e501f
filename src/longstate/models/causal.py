"""What all causal models share: encoder, backbone, pooling and head in three exact views."""

import abc
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from longstate._checks import check_element, check_lengths, check_sequence, check_starts, zero_padding
from longstate.layers.base import CausalLayer
from longstate.models.backbone import Backbone
from longstate.models.config import ClassifierConfig, RegressorConfig, StepRegressorConfig, TaggerConfig
from longstate.models.input import InputEncoder
from longstate.models.pooling import Pooling

ModelState = tuple[tuple[Any, ...], Any]
"""State of a causal model: that of its backbone and that of its pooling."""


Config = TypeVar("Config", ClassifierConfig, TaggerConfig, RegressorConfig, StepRegressorConfig)


class CausalModel(CausalLayer[ModelState], Generic[Config]):
    """A causal model over its own spaces, (batch, length, d_input) to (batch, d_output); abstract.

        y_t = head(pooling(backbone(encoder(x_1 .. x_t))))

    `forward` gives y after the last valid step of each row, `forward_with_state` after every step (the running
    answer), `step` after one more. `d_model` is the width of the input; a subclass says what pools and what answers.
    """

    @abc.abstractmethod
    def __init__(self, config: Config, pooling: Pooling[Any], head: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.d_model = config.d_input
        self.encoder = InputEncoder(config.d_input, config.backbone.d_model, config.statistics)
        self.backbone = Backbone(config.backbone)
        self.pooling = pooling
        self.head = head

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """The answer after the last valid step of each row, (batch, d_output); that of its last sequence if packed."""
        h = self.backbone(self._encode(x, lengths, starts), lengths=lengths, rate=rate, starts=starts)
        return self.head(self.pooling(h, lengths=lengths, starts=starts))

    def initial_state(self, batch_size: int) -> ModelState:
        """The state before the first step."""
        like = self.encoder.linear.weight.new_zeros(batch_size, self.backbone.d_model)
        return self.backbone.initial_state(batch_size), self.pooling.initial_state(like)

    def forward_with_state(
        self,
        x: Tensor,
        state: ModelState,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, ModelState]:
        """The running answer (batch, length, d_output), and the state after the last valid step of each row."""
        stack, pooled = state
        h, stack = self.backbone.forward_with_state(
            self._encode(x, lengths, starts), stack, lengths=lengths, rate=rate, starts=starts
        )
        h, pooled = self.pooling.forward_with_state(h, pooled, lengths=lengths, starts=starts)
        return self.head(h), (stack, pooled)

    def constants(self, *, rate: float | None = None) -> tuple[Any, ...]:
        """Those of the backbone."""
        return self.backbone.constants(rate=rate)

    def step(
        self,
        x_t: Tensor,
        state: ModelState,
        *,
        rate: float | Tensor | None = None,
        constants: tuple[Any, ...] | None = None,
    ) -> tuple[Tensor, ModelState]:
        """The answer after one more step (batch, d_output), and the next state."""
        check_element(x_t, self.d_model)
        stack, pooled = state
        h, stack = self.backbone.step(self.encoder(x_t), stack, rate=rate, constants=constants)
        h, pooled = self.pooling.step(h, pooled)
        return self.head(h), (stack, pooled)

    def _encode(self, x: Tensor, lengths: Tensor | None, starts: Tensor | None) -> Tensor:
        check_sequence(x, self.d_model)
        check_lengths(lengths, x)
        check_starts(starts, x)
        # A NaN in the padding would reach the encoder's gradient through a product with 0.
        return self.encoder(zero_padding(x, lengths))
