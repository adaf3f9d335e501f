"""EMA: the multi-dimensional damped moving average of Mega."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from longstate import ops
from longstate.layers.base import SLOW, OptimizerRule
from longstate.layers.lti import LTILayer


class EMA(LTILayer):
    """Damped exponential moving averages, several for each feature: a diagonal system of real modes without a dt.

        h_t = q h_{t-1} + p B x_t,    y_t = 1/√N Σ C h_t + D x_t,    p = sigmoid(delta), q = 1 - p sigmoid(alpha)

    then GELU and a gated linear map over features. Mega itself applies SiLU to y and hands it to its attention: take
    output="none" for that. q lies in (0, 1), so a mode fades and never turns; `S4D` has modes that do. There is no time
    scale: `rate` is refused.

    Args:
        d_model: Number of features.
        d_state: Averages N of each feature.
        residual: Whether x itself enters y, weighted by D.
        dropout: Share of activations dropped in training, once, before the output map.
        output: "glu", "linear", or "none" (the bare averages).

    `alpha` and `delta` are named as in Mega's code; B is its β, C its γ (η in the publication), D its ω.

    Raises:
        InputError: If a size or a name is not usable, or a `rate` is given.

    Source:
        Ma et al., Mega: Moving Average Equipped Gated Attention, arXiv 2209.10655, section 3.1; initial values of its
        code.

    Example:
        >>> import torch
        >>> from longstate import EMA
        >>> layer = EMA(d_model=4, d_state=16)
        >>> y, state = layer.forward_with_state(torch.randn(2, 100, 4), layer.initial_state(2))
        >>> y.shape, state.x.shape
        (torch.Size([2, 100, 4]), torch.Size([2, 4, 16]))
    """

    optimizer_rules: ClassVar[Mapping[str, OptimizerRule]] = {"alpha": SLOW, "delta": SLOW, "B": SLOW}
    has_time_scale: ClassVar[bool] = False

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        *,
        residual: bool = True,
        dropout: float = 0.0,
        output: str = "glu",
    ) -> None:
        super().__init__(d_model, d_state, 1, output, dropout, layer="EMA")
        self.alpha = nn.Parameter(0.2 * torch.randn(d_model, d_state))
        self.delta = nn.Parameter(0.2 * torch.randn(d_model, d_state))
        signs = 1.0 - 2.0 * (torch.arange(d_state) % 2)
        self.B = nn.Parameter(signs + 0.02 * torch.randn(d_model, d_state))
        self.C = nn.Parameter(torch.randn(1, d_model, d_state))
        D = torch.randn(1, d_model) if residual else torch.zeros(1, d_model)
        self.D = nn.Parameter(D, requires_grad=residual)

    def system(self, rate: float = 1.0) -> ops.LTISystem:
        """The averages as a diagonal system, in float64; `rate` is 1."""
        p = self.delta.double().sigmoid()
        q = 1 - p * self.alpha.double().sigmoid()
        return ops.LTISystem(q, p * self.B.double(), self.C.double() / math.sqrt(self.d_state), self.D.double())

    def _state_shape(self) -> tuple[int, ...]:
        return (self.d_model, self.d_state)
