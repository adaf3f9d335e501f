"""The feed-forward layer that stands between mixers: element by element, so its state is empty."""

from torch import Tensor, nn
from torch.nn import functional as F

from longstate._checks import check_choice, check_positive
from longstate.layers.dropout import Dropout
from longstate.layers.elementwise import ElementwiseLayer

ACTIVATIONS = ("gelu", "swiglu", "relu2")


class FeedForward(ElementwiseLayer):
    """Two linear maps with an activation between them, or the gated form of LLaMA, Jamba and Mamba's MLP.

        gelu, relu2     y = W_2 act(W_1 x)             relu2(a) = relu(a)²
        swiglu          y = W_2 (a * silu(b)),         [a, b] = W_1 x

    Args:
        d_model: Number of features.
        d_inner: Width between the maps; 4 d_model if None.
        activation: "gelu", "swiglu" or "relu2".
        bias: Whether the maps have biases.
        dropout: Share of the inner activations dropped in training.

    Raises:
        InputError: If a size or a name is not usable.

    Source:
        Vaswani et al., arXiv 1706.03762, section 3.3; swiglu: Shazeer, arXiv 2002.05202, equation 6.

    Example:
        >>> import torch
        >>> from longstate import FeedForward
        >>> FeedForward(4, activation="swiglu")(torch.randn(2, 10, 4)).shape
        torch.Size([2, 10, 4])
    """

    def __init__(
        self,
        d_model: int,
        d_inner: int | None = None,
        *,
        activation: str = "gelu",
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_choice(activation, ACTIVATIONS, name="activation")
        d_inner = 4 * d_model if d_inner is None else d_inner
        check_positive(d_model=d_model, d_inner=d_inner)
        self.d_model = d_model
        self.activation = activation
        self.in_proj = nn.Linear(d_model, 2 * d_inner if activation == "swiglu" else d_inner, bias=bias)
        self.dropout = Dropout(dropout)
        self.out_proj = nn.Linear(d_inner, d_model, bias=bias)

    def map_elements(self, x: Tensor) -> Tensor:
        """The two maps and what stands between them."""
        return self.out_proj(self.dropout(activate(self.in_proj(x), self.activation)))


def activate(h: Tensor, activation: str) -> Tensor:
    """The activation between the maps; "swiglu" halves the width."""
    if activation == "swiglu":
        value, gate = h.chunk(2, dim=-1)
        return value * F.silu(gate)
    return F.gelu(h) if activation == "gelu" else F.relu(h).square()
