"""The published bidirectional form of S4 and S4D: two kernels, one output stage."""

from typing import Any

from torch import Tensor, nn

from longstate.layers.base import CausalLayer, SequenceLayer
from longstate.layers.bidirectional import Bidirectional
from longstate.layers.lti import LTILayer
from longstate.layers.pointwise import build_output


class TwoSided(SequenceLayer):
    """One convolution whose kernel reaches both ways, and one output stage after it; it cannot stream.

        y_t = output( Σ_{j>=0} K_j x_{t-j} + D x_t + Σ_{j>=0} K'_j x_{t+1+j} )

    K and D are those of the forward layer, K' is the kernel of the backward one. `Bidirectional` sums two whole layers,
    each with an output stage of its own; this sums two systems before a common one, which is what the S4 papers train.

    Args:
        forward_layer: The system from the beginning to the end, with output="none".
        backward_layer: The system from the end to the beginning, of the same width. Its D is set to zero, so that the
            present counts once.
        output: "glu" (as published), "linear", or "none" (the bare system).
        dropout: Share of activations dropped in training, once, before the output map.

    Raises:
        InputError: If the widths differ, or the output is not known.

    Source:
        Goel et al., It's Raw! Audio Generation with State-Space Models, arXiv 2202.09729, section 4.2.

    Example:
        >>> import torch
        >>> from longstate import S4D
        >>> from longstate.layers import TwoSided
        >>> TwoSided(S4D(4, 8, output="none"), S4D(4, 8, output="none"))(torch.randn(2, 10, 4)).shape
        torch.Size([2, 10, 4])
    """

    def __init__(
        self,
        forward_layer: CausalLayer[Any],
        backward_layer: CausalLayer[Any],
        *,
        output: str = "glu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.directions = Bidirectional(forward_layer, backward_layer, strict=True)
        self.d_model = forward_layer.d_model
        self.output = build_output(output, self.d_model, self.d_model, dropout)
        if isinstance(backward_layer, LTILayer):
            nn.init.zeros_(backward_layer.D)

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """The whole sequence in parallel, in both directions."""
        return self.output(self.directions(x, lengths=lengths, rate=rate, starts=starts))
