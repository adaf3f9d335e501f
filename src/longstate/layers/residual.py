"""A residual branch around a layer, with its normalisation before it."""

from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from longstate._checks import check_lengths, check_sequence, zero_padding
from longstate.layers.base import CausalLayer, SequenceLayer
from longstate.layers.dropout import Dropout
from longstate.layers.norm import build_norm

State = TypeVar("State")


class Residual(CausalLayer[State], Generic[State]):
    """A causal layer in a pre-norm residual branch; its state is that of the layer.

        y = x + scale · dropout(layer(norm(x)))

    Args:
        layer: Any causal layer.
        norm: "layer", "rms" or "batch".
        dropout: Share of the branch's outputs dropped in training.
        norm_eps: What the norm adds to a variance.
        float32: Whether x is a sum in float32 beside parameters of half precision; the branch then computes in the
            type of the layer's first parameter.
        scale: What the branch is multiplied by.

    Example:
        >>> import torch
        >>> from longstate import Residual, S4D
        >>> Residual(S4D(4))(torch.randn(2, 10, 4)).shape
        torch.Size([2, 10, 4])
    """

    def __init__(
        self,
        layer: CausalLayer[State],
        *,
        norm: str = "layer",
        dropout: float = 0.0,
        norm_eps: float = 1e-5,
        float32: bool = False,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.d_model = layer.d_model
        self.norm = build_norm(norm, layer.d_model, eps=norm_eps)
        self.layer = layer
        self.dropout = Dropout(dropout)
        self.float32 = float32
        self.scale = scale

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
        x, h = _branch(self.norm, self.layer, x, lengths, self.float32)
        return x + _scaled(self.dropout(self.layer(h, lengths=lengths, rate=rate, starts=starts)), self.scale)

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
        x, h = _branch(self.norm, self.layer, x, lengths, self.float32)
        y, state = self.layer.forward_with_state(h, state, lengths=lengths, rate=rate, starts=starts)
        return x + _scaled(self.dropout(y), self.scale), state

    def constants(self, *, rate: float | None = None) -> Any:
        """The layer's."""
        return self.layer.constants(rate=rate)

    def step(
        self, x_t: Tensor, state: State, *, rate: float | Tensor | None = None, constants: Any = None
    ) -> tuple[Tensor, State]:
        """One element, with the layer's state."""
        x_t, h = _branch(self.norm, self.layer, x_t, None, self.float32)
        y, state = self.layer.step(h, state, rate=rate, constants=constants)
        return x_t + _scaled(self.dropout(y), self.scale), state


class BidirectionalResidual(SequenceLayer):
    """A layer of rung 1 in a pre-norm residual branch: `Residual` for those that cannot stream.

        y = x + scale · dropout(layer(norm(x)))

    Args:
        layer: Any layer over sequences.
        norm: "layer", "rms" or "batch".
        dropout: Share of the branch's outputs dropped in training.
        norm_eps: What the norm adds to a variance.
        float32: Whether x is a sum in float32 beside parameters of half precision; the branch then computes in the
            type of the layer's first parameter.
        scale: What the branch is multiplied by.
    """

    def __init__(
        self,
        layer: SequenceLayer,
        *,
        norm: str = "layer",
        dropout: float = 0.0,
        norm_eps: float = 1e-5,
        float32: bool = False,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.d_model = layer.d_model
        self.norm = build_norm(norm, layer.d_model, eps=norm_eps)
        self.layer = layer
        self.dropout = Dropout(dropout)
        self.float32 = float32
        self.scale = scale

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
        x, h = _branch(self.norm, self.layer, x, lengths, self.float32)
        return x + _scaled(self.dropout(self.layer(h, lengths=lengths, rate=rate, starts=starts)), self.scale)


def _scaled(y: Tensor, scale: float) -> Tensor:
    return y if scale == 1.0 else y * scale


def _branch(
    norm: nn.Module, layer: nn.Module, x: Tensor, lengths: Tensor | None, float32: bool
) -> tuple[Tensor, Tensor]:
    """The sum as it is kept, and what enters the branch."""
    if not float32:
        return x, norm(x, lengths)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x, norm(x, lengths).to(next(layer.parameters(), x).dtype)
