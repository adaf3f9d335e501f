"""What stands after a sequence operator: activation, dropout and a gated linear map, element by element."""

from torch import Tensor, nn
from torch.nn import functional as F

from longstate._checks import check_choice

OUTPUTS = ("glu", "linear", "none")


def build_output(kind: str, d_inner: int, d_model: int, dropout: float) -> nn.Module:
    """The output stage by name: "glu" (the S4 papers'), "linear" (without the gate), "none" (the bare operator)."""
    check_choice(kind, OUTPUTS, name="output")
    if kind == "glu":
        return GatedOutput(d_inner, d_model, dropout)
    if kind == "linear":
        return nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(d_inner, d_model))
    return nn.Identity()


class GatedOutput(nn.Module):
    """GELU, dropout, and a gated linear unit.

        a, b = W dropout(gelu(y)) + c,        out = a * sigmoid(b)

    Args:
        d_inner: Width of what comes in.
        d_model: Width of what goes out.
        dropout: Share of activations dropped in training.

    Example:
        >>> import torch
        >>> from longstate.layers import GatedOutput
        >>> GatedOutput(8, 4)(torch.zeros(2, 10, 8)).shape
        torch.Size([2, 10, 4])
    """

    def __init__(self, d_inner: int, d_model: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(d_inner, 2 * d_model)

    def forward(self, y: Tensor) -> Tensor:
        """Map (..., d_inner) to (..., d_model)."""
        return F.glu(self.linear(self.dropout(F.gelu(y))), dim=-1)
