"""A small layer over images that obeys every law, and layers that each break one."""

import torch
from torch import nn

from longstate._checks import check_axis_rates, check_grid
from longstate.layers.base import GridLayer


class Blur(GridLayer):
    """y = tanh(C E_1 x E_2), where E_i averages along axis i with weights exp(-rate_i dt |t - s|)."""

    dim = 2

    def __init__(self, d_model: int):
        super().__init__()
        self.d_model = d_model
        self.log_dt = nn.Parameter(torch.linspace(-1.0, 0.0, d_model))
        self.C = nn.Parameter(torch.linspace(0.5, 1.5, d_model))

    def forward(self, x, *, rate=None):
        check_grid(x, self.dim, self.d_model)
        y = x
        for axis, rate_i in enumerate(check_axis_rates(rate, self.dim), start=1):
            t = torch.arange(x.shape[axis], device=x.device)
            weights = torch.exp(-rate_i * self.log_dt.exp() * (t[:, None] - t).abs()[..., None])
            y = (weights * y.movedim(axis, -2).unsqueeze(-3)).sum(-2).movedim(-2, axis)
        return torch.tanh(self.C * y).to(x.dtype)


class CentresTheImages(Blur):
    """Law 6: statistics over all images in eval mode."""

    def forward(self, x, *, rate=None):
        return super().forward(x - 0.01 * x.mean(dim=0), rate=rate)


class KeepsItsGrid(Blur):
    """Law 5: what depends on the size is kept on the layer."""

    def forward(self, x, *, rate=None):
        self.kept = torch.arange(x.shape[1])
        return super().forward(x, rate=rate)


class WritesIntoTheImage(Blur):
    """Law 5: the border is zeroed in the caller's tensor."""

    def forward(self, x, *, rate=None):
        x[:, 0] = 0.0
        return super().forward(x, rate=rate)


class LosesAGradient(Blur):
    """Law 7: a parameter is used, but does not learn."""

    def forward(self, x, *, rate=None):
        return super().forward(x * (1 + self.C.detach()), rate=rate)


class MadeOnTheProcessor(Blur):
    """Law 8: a tensor without a device."""

    def forward(self, x, *, rate=None):
        return super().forward(x + torch.ones(x.shape[-1], dtype=x.dtype), rate=rate)


class HidesAWeight(Blur):
    """Law 9: something that matters is neither a parameter nor a buffer."""

    def __init__(self, d_model: int):
        super().__init__(d_model)
        self.shift = torch.randn(d_model)

    def forward(self, x, *, rate=None):
        return super().forward(x + self.shift.to(x), rate=rate)


class RateOfOneAxis(Blur):
    """Law of `rate`: a single number reaches the first axis alone."""

    def forward(self, x, *, rate=None):
        return super().forward(x, rate=(rate, 1.0) if isinstance(rate, float) else rate)


class DeafToRate(Blur):
    """Law of `rate`: it is taken and forgotten."""

    def forward(self, x, *, rate=None):
        return super().forward(x)


class LooksAtPixels(Blur):
    """Law 8: Python looks at the numbers, which are not there on every device."""

    def forward(self, x, *, rate=None):
        return super().forward(x / 2 if x.abs().max() > 1e9 else x, rate=rate)
