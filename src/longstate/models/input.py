"""From raw input to the width of the backbone, and from outputs back to the units of the user."""

import torch
from torch import Tensor, nn

from longstate.models.config import InputStatistics, TargetStatistics


class InputEncoder(nn.Module):
    """Raw channels to features of the backbone.

        h = W ((x - shift) / scale) + b

    Shift and scale are not trained and not stored with the parameters: the configuration holds them. Input of any
    floating type is normalised in that type (at least the parameters') and then takes the type of the parameters.

    Args:
        d_input: Channels of the input.
        d_model: Features of the backbone.
        statistics: Shift and scale of each channel; None leaves the input as it is.
    """

    shift: Tensor | None
    scale: Tensor | None

    def __init__(self, d_input: int, d_model: int, statistics: InputStatistics | None = None) -> None:
        super().__init__()
        register_affine(self, statistics)
        self.linear = nn.Linear(d_input, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., d_input) to (..., d_model)."""
        if self.shift is not None and self.scale is not None:
            x = (x - self.shift) / self.scale
        return self.linear(x.to(self.linear.weight.dtype))


class TargetDecoder(nn.Module):
    """Features to numbers in the units of the targets.

        y = (W h + b) * scale + shift

    Args:
        d_model: Features of the backbone.
        d_output: Number of targets.
        statistics: Shift and scale of each target; None leaves the numbers as they are.
    """

    shift: Tensor | None
    scale: Tensor | None

    def __init__(self, d_model: int, d_output: int, statistics: TargetStatistics | None = None) -> None:
        super().__init__()
        register_affine(self, statistics)
        self.linear = nn.Linear(d_model, d_output)

    def forward(self, h: Tensor) -> Tensor:
        """Map (..., d_model) to (..., d_output)."""
        y = self.linear(h)
        return y if self.shift is None or self.scale is None else (y * self.scale + self.shift).to(y.dtype)


def register_affine(module: nn.Module, statistics: InputStatistics | TargetStatistics | None) -> None:
    """Give a module the buffers `shift` and `scale`, which are not stored with its parameters; None without any."""
    for name in ("shift", "scale"):
        value = None if statistics is None else _buffer(getattr(statistics, name))
        module.register_buffer(name, value, persistent=False)


def _buffer(values: tuple[float, ...]) -> Tensor:
    # Rounded to float32 in every model, so that a float64 model read back under another default type is the same.
    return torch.tensor(values, dtype=torch.float32).to(torch.get_default_dtype())
