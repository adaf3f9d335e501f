"""What stands after a sequence operator: activation, dropout and a gate or a linear map, element by element."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longstate import ops
from longstate._checks import InputError, check_choice
from longstate.layers.dropout import Dropout

OUTPUTS = ("glu", "linear", "none", "full_glu", "half_glu1", "half_glu2", "gelu")

_KEEP_THE_WIDTH = ("none", "half_glu1", "half_glu2", "gelu")

_MANY = 1 << 16
"""Numbers from which on `ops.gelu_map` takes less time and memory than its operations one after the other."""


def build_output(kind: str, d_inner: int, d_model: int, dropout: float) -> nn.Module:
    """The output stage by name.

    With g = dropout(gelu(y)), V and W linear maps with bias:

        glu          V g * sigmoid(W g)      the S4 papers'
        linear       W g
        none         y                       the bare operator
        full_glu     V g * sigmoid(W g)      S5's `full_glu`, and the block of LRU
        half_glu1    g * sigmoid(W g)        S5's `half_glu1`
        half_glu2    y * sigmoid(W g)        S5's `half_glu2`: GELU only before the gate
        gelu         g                       S5's `gelu`

    GELU is exact in the first three, and its tanh approximation, which JAX means by that name, in the last four:
    "glu" and "full_glu" differ in nothing else.

    Args:
        kind: One of the seven names.
        d_inner: Width of what comes in.
        d_model: Width of what goes out; the same as `d_inner` unless a map V or W makes it.
        dropout: Share of activations dropped in training, once.

    Returns:
        A module that maps (..., d_inner) to (..., d_model).

    Raises:
        InputError: If the name is unknown or the stage keeps the width and the widths differ.

    Example:
        >>> import torch
        >>> from longstate.layers import build_output
        >>> build_output("half_glu1", 4, 4, dropout=0.0)(torch.zeros(2, 10, 4)).shape
        torch.Size([2, 10, 4])
    """
    check_choice(kind, OUTPUTS, name="output")
    if kind in _KEEP_THE_WIDTH and d_inner != d_model:
        raise InputError(
            f"`output` is {kind!r}, which keeps the width, but {d_inner} features come in and {d_model} go out; "
            "use output='glu'."
        )
    if kind in ("glu", "full_glu"):
        return GatedOutput(d_inner, d_model, dropout, approximate="none" if kind == "glu" else "tanh")
    if kind == "linear":
        return LinearOutput(nn.GELU(), Dropout(dropout), nn.Linear(d_inner, d_model))
    if kind in ("half_glu1", "half_glu2"):
        return HalfGatedOutput(d_model, dropout, activate_value=kind == "half_glu1")
    if kind == "gelu":
        return nn.Sequential(nn.GELU(approximate="tanh"), Dropout(dropout))
    return nn.Identity()


class LinearOutput(nn.Sequential):
    """GELU, dropout and a linear map, made as an `nn.Sequential` of the three."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., d_inner) to (..., d_model)."""
        activation, dropout, linear = self
        if isinstance(linear, nn.Linear) and _at_once(input, dropout, linear):
            return ops.gelu_map(input, linear.weight, linear.bias, kind="linear")
        return linear(dropout(activation(input)))


class GatedOutput(nn.Module):
    """GELU, dropout, and a gated linear unit.

        a, b = W dropout(gelu(y)) + c,        out = a * sigmoid(b)

    Args:
        d_inner: Width of what comes in.
        d_model: Width of what goes out.
        dropout: Share of activations dropped in training.
        approximate: "none" for the exact GELU, "tanh" for the approximation that JAX uses.

    Example:
        >>> import torch
        >>> from longstate.layers import GatedOutput
        >>> GatedOutput(8, 4)(torch.zeros(2, 10, 8)).shape
        torch.Size([2, 10, 4])
    """

    def __init__(self, d_inner: int, d_model: int, dropout: float = 0.0, *, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(d_inner, 2 * d_model)

    def forward(self, y: Tensor) -> Tensor:
        """Map (..., d_inner) to (..., d_model)."""
        if _at_once(y, self.dropout, self.linear):
            return ops.gelu_map(y, self.linear.weight, self.linear.bias, kind="glu", approximate=self.approximate)
        return F.glu(self.linear(self.dropout(F.gelu(y, approximate=self.approximate))), dim=-1)


class HalfGatedOutput(nn.Module):
    """A gate over what comes in: half of a gated linear unit, without the map of the value.

        g = dropout(gelu(y)),        out = g * sigmoid(W g + c)   or   y * sigmoid(W g + c)

    Args:
        d_model: Width.
        dropout: Share of activations dropped in training.
        activate_value: Whether the gate multiplies g rather than y.

    Source:
        `half_glu1` and `half_glu2` of the S5 code, `s5/layers.py`.

    Example:
        >>> import torch
        >>> from longstate.layers import HalfGatedOutput
        >>> HalfGatedOutput(4, activate_value=True)(torch.zeros(2, 10, 4)).shape
        torch.Size([2, 10, 4])
    """

    def __init__(self, d_model: int, dropout: float = 0.0, *, activate_value: bool) -> None:
        super().__init__()
        self.activate_value = activate_value
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(d_model, d_model)

    def forward(self, y: Tensor) -> Tensor:
        """Map (..., d_model) to the same shape."""
        if _at_once(y, self.dropout, self.linear):
            kind = "half_glu1" if self.activate_value else "half_glu2"
            return ops.gelu_map(y, self.linear.weight, self.linear.bias, kind=kind, approximate="tanh")
        g = self.dropout(F.gelu(y, approximate="tanh"))
        return (g if self.activate_value else y) * self.linear(g).sigmoid()


def _at_once(y: Tensor, dropout: nn.Module, linear: nn.Linear) -> bool:
    """Whether `ops.gelu_map` is to do all of a stage: over many elements, if it means the same as the modules do.

    It drops nothing and knows no autocast, and a map with hooks, or one of another class (a parametrised, adapted or
    quantised one), is to be called as a module. A compiler sees the operations themselves.
    """
    if torch.compiler.is_compiling() or y.numel() < _MANY or torch.is_autocast_enabled(y.device.type):
        return False
    if type(linear) is not nn.Linear or linear._forward_hooks or linear._forward_pre_hooks:
        return False
    return isinstance(dropout, nn.Dropout) and not (dropout.training and dropout.p > 0)
