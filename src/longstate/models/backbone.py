"""The stack of residual layers that every model is built on, causal or bidirectional."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from longstate._checks import check_positive, zero_padding
from longstate.layers import BidirectionalResidual, CausalLayer, Residual, SequenceLayer
from longstate.layers.lti_fused import FusedStack, fuse
from longstate.layers.norm import build_norm
from longstate.layers.step_branches import step_branches
from longstate.models.build_layer import build_bidirectional, build_layer
from longstate.models.config import BackboneConfig


class BackboneConstants(NamedTuple):
    """Constants of a backbone: those of its layers, and all of them as one call, or the sentence why they are not."""

    layers: tuple[Any, ...]
    fused: FusedStack | str


class Backbone(CausalLayer[tuple[Any, ...]]):
    """A stack of causal layers in pre-norm residual branches, with a norm at its end.

        x_i = x_{i-1} + branch_scale · dropout(layer_i(norm_i(x_{i-1}))),    y = norm(x_n)

    Its state is the tuple of the layers' states.

    Args:
        config: Width, depth, layer and norm.

    Raises:
        InputError: If a size or a name is not usable.

    Example:
        >>> import torch
        >>> from longstate.models import Backbone, BackboneConfig
        >>> backbone = Backbone(BackboneConfig(d_model=8, n_layers=2)).eval()
        >>> y, state = backbone.forward_with_state(torch.randn(2, 10, 8), backbone.initial_state(2))
        >>> y.shape, len(state)
        (torch.Size([2, 10, 8]), 2)
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        check_positive(d_model=config.d_model, n_layers=config.n_layers)
        self.config = config
        self.d_model = config.d_model
        self.layers = nn.ModuleList(
            Residual(
                build_layer(layer, config.d_model),
                norm=config.norm,
                dropout=config.dropout,
                norm_eps=config.norm_eps,
                float32=config.float32_residual,
                scale=config.branch_scale,
            )
            for layer in config.schedule
        )
        self.norm = build_norm(config.norm, config.d_model, eps=config.norm_eps)

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """The whole sequence in parallel."""
        x = zero_padding(x, lengths)
        for layer in self.layers:
            x = layer(x, lengths=lengths, rate=rate, starts=starts)
        return self.norm(x, lengths)

    def initial_state(self, batch_size: int) -> tuple[Any, ...]:
        """Those of the layers."""
        return tuple(layer.initial_state(batch_size) for layer in self._causal())

    def forward_with_state(
        self,
        x: Tensor,
        state: tuple[Any, ...],
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """A chunk in parallel, with the layers' states."""
        x = zero_padding(x, lengths)
        new = []
        for layer, before in zip(self._causal(), state, strict=True):
            x, after = layer.forward_with_state(x, before, lengths=lengths, rate=rate, starts=starts)
            new.append(after)
        return self.norm(x, lengths), tuple(new)

    def constants(self, *, rate: float | None = None) -> BackboneConstants:
        """Those of the layers, and what makes one call of their steps where that can be."""
        layers = tuple(layer.constants(rate=rate) for layer in self._causal())
        return BackboneConstants(layers, fuse(self, self.layers, self.norm, layers))

    def step(
        self,
        x_t: Tensor,
        state: tuple[Any, ...],
        *,
        rate: float | Tensor | None = None,
        constants: Any = None,
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """One element, with the layers' states; in one call, or in few, where constants and layers allow it."""
        if constants is not None and not isinstance(rate, Tensor):
            of_layers, fused = constants
            if isinstance(fused, FusedStack) and fused.why_not(self, x_t, state, of_layers) is None:
                return fused.step(x_t, state)
            x_t, after = step_branches(self.layers, x_t, state, of_layers)
            return self.norm(x_t), after
        of_layers = (None,) * len(self.layers) if constants is None else constants.layers
        new = []
        for layer, before, constant in zip(self._causal(), state, of_layers, strict=True):
            x_t, after = layer.step(x_t, before, rate=rate, constants=constant)
            new.append(after)
        return self.norm(x_t), tuple(new)

    def _causal(self) -> list[Residual[Any]]:
        return [layer for layer in self.layers if isinstance(layer, Residual)]


class BidirectionalBackbone(SequenceLayer):
    """`Backbone` with a forward and a backward layer in every branch; it sees the whole sequence and has no state.

        x_i = x_{i-1} + branch_scale · dropout(bidirectional_i(norm_i(x_{i-1}))),    y = norm(x_n)

    Args:
        config: Width, depth, layer (two of them a branch) and norm.

    Raises:
        InputError: If a size or a name is not usable.

    Example:
        >>> import torch
        >>> from longstate.models import BackboneConfig, BidirectionalBackbone
        >>> BidirectionalBackbone(BackboneConfig(d_model=8, n_layers=2))(torch.randn(2, 10, 8)).shape
        torch.Size([2, 10, 8])
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        check_positive(d_model=config.d_model, n_layers=config.n_layers)
        self.config = config
        self.d_model = config.d_model
        self.layers = nn.ModuleList(
            BidirectionalResidual(
                build_bidirectional(layer, config.d_model),
                norm=config.norm,
                dropout=config.dropout,
                norm_eps=config.norm_eps,
                float32=config.float32_residual,
                scale=config.branch_scale,
            )
            for layer in config.schedule
        )
        self.norm = build_norm(config.norm, config.d_model, eps=config.norm_eps)

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """The whole sequence in parallel, in both directions."""
        x = zero_padding(x, lengths)
        for layer in self.layers:
            x = layer(x, lengths=lengths, rate=rate, starts=starts)
        return self.norm(x, lengths)
