"""A residual branch around a layer, with its normalisation before it."""

from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from longstate._checks import check_lengths, check_sequence, zero_padding
from longstate.layers.base import CausalLayer, SequenceLayer
from longstate.layers.norm import build_norm

State = TypeVar("State")


class Residual(CausalLayer[State], Generic[State]):
    """A causal layer in a pre-norm residual branch; its state is that of the layer.

        y = x + dropout(layer(norm(x)))

    Args:
        layer: Any causal layer.
        norm: "layer", "rms" or "batch".
        dropout: Share of the branch's outputs dropped in training.

    Example:
        >>> import torch
        >>> from longstate import Residual, S4D
        >>> Residual(S4D(4))(torch.randn(2, 10, 4)).shape
        torch.Size([2, 10, 4])
    """

    def __init__(self, layer: CausalLayer[State], *, norm: str = "layer", dropout: float = 0.0) -> None:
        super().__init__()
        self.d_model = layer.d_model
        self.norm = build_norm(norm, layer.d_model)
        self.layer = layer
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """The whole sequence in parallel."""
        check_sequence(x, self.d_model)
        check_lengths(lengths, x)
        x = zero_padding(x, lengths)  # or the norm's backward would meet its NaN
        return x + self.dropout(self.layer(self.norm(x, lengths), lengths=lengths, rate=rate, starts=starts))

    def initial_state(self, batch_size: int) -> State:
        """The layer's."""
        return self.layer.initial_state(batch_size)

    def forward_with_state(
        self,
        x: Tensor,
        state: State,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """A chunk in parallel, with the layer's state."""
        check_sequence(x, self.d_model)
        check_lengths(lengths, x)
        x = zero_padding(x, lengths)
        y, state = self.layer.forward_with_state(
            self.norm(x, lengths), state, lengths=lengths, rate=rate, starts=starts
        )
        return x + self.dropout(y), state

    def constants(self, *, rate: float | None = None) -> Any:
        """The layer's."""
        return self.layer.constants(rate=rate)

    def step(
        self, x_t: Tensor, state: State, *, rate: float | Tensor | None = None, constants: Any = None
    ) -> tuple[Tensor, State]:
        """One element, with the layer's state."""
        y, state = self.layer.step(self.norm(x_t), state, rate=rate, constants=constants)
        return x_t + self.dropout(y), state


class BidirectionalResidual(SequenceLayer):
    """A layer of rung 1 in a pre-norm residual branch: `Residual` for those that cannot stream.

        y = x + dropout(layer(norm(x)))

    Args:
        layer: Any layer over sequences.
        norm: "layer", "rms" or "batch".
        dropout: Share of the branch's outputs dropped in training.
    """

    def __init__(self, layer: SequenceLayer, *, norm: str = "layer", dropout: float = 0.0) -> None:
        super().__init__()
        self.d_model = layer.d_model
        self.norm = build_norm(norm, layer.d_model)
        self.layer = layer
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """The whole sequence in parallel."""
        check_sequence(x, self.d_model)
        check_lengths(lengths, x)
        x = zero_padding(x, lengths)  # or the norm's backward would meet its NaN
        return x + self.dropout(self.layer(self.norm(x, lengths), lengths=lengths, rate=rate, starts=starts))
