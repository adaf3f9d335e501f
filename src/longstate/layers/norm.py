"""Normalisations over features that respect padding."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longstate._checks import check_choice, valid_steps

NORMS = ("layer", "rms", "batch")


def build_norm(kind: str, d_model: int, *, eps: float = 1e-5) -> nn.Module:
    """A normalisation by name: `norm(x, lengths)` for (batch, length, d_model), `norm(x_t)` for (batch, d_model)."""
    check_choice(kind, NORMS, name="norm")
    return {"layer": LayerNorm, "rms": RMSNorm, "batch": BatchNorm}[kind](d_model, eps=eps)


class LayerNorm(nn.Module):
    """Each element to zero mean and unit variance over its features, then scale and shift."""

    def __init__(self, d_model: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model, eps=eps)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Normalise; an element never sees another, so `lengths` changes nothing."""
        wide = x.to(torch.promote_types(x.dtype, self.norm.weight.dtype))
        weight, bias = self.norm.weight.to(wide.dtype), self.norm.bias.to(wide.dtype)
        return F.layer_norm(wide, self.norm.normalized_shape, weight, bias, self.norm.eps).to(x.dtype)


class RMSNorm(nn.Module):
    """Each element to unit mean square over its features, then scale, unless it is not `weighted`."""

    def __init__(self, d_model: int, *, eps: float = 1e-5, weighted: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model)) if weighted else None

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Normalise; an element never sees another, so `lengths` changes nothing."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        y = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (y if self.weight is None else y * self.weight).to(x.dtype)


class GatedRMSNorm(nn.Module):
    """The norm of Mamba-2: to unit mean square over every group of channels, beside a gate.

        gate_first    norm(y * silu(z)) w        norm_first    norm(y) w * silu(z)        none    y * silu(z)

    Args:
        d_inner: Channels.
        groups: Groups with a mean square of their own.
        kind: "gate_first", "norm_first" or "none".
        eps: What is added to a mean square.
    """

    def __init__(self, d_inner: int, groups: int = 1, *, kind: str = "gate_first", eps: float = 1e-5) -> None:
        super().__init__()
        self.groups = groups
        self.kind = kind
        self.eps = eps
        self.weight = None if kind == "none" else nn.Parameter(torch.ones(d_inner))

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """Normalise y (..., d_inner) and gate it by z."""
        gate, wide = F.silu(z), y.to(torch.promote_types(y.dtype, torch.float32))
        if self.weight is None:
            return y * gate
        if self.kind == "gate_first":
            wide = wide * gate
        grouped = wide.unflatten(-1, (self.groups, -1))
        normal = (grouped * torch.rsqrt(grouped.square().mean(-1, keepdim=True) + self.eps)).flatten(-2) * self.weight
        return (normal if self.kind == "gate_first" else normal * gate).to(y.dtype)


class BatchNorm(nn.Module):
    """Each feature to zero mean and unit variance over the valid steps of a batch, then scale and shift.

    In training the statistics are those of the batch, and running averages are kept; these serve in `eval()` and for
    single elements (batch, d_model), so that all views agree in `eval()`.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, d_model: int, *, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum = momentum
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))
        self.register_buffer("running_mean", torch.zeros(d_model))
        self.register_buffer("running_var", torch.ones(d_model))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Normalise; only valid steps enter the statistics."""
        if self.training and x.dim() == 3:
            mean, var = self._batch_statistics(x, lengths)
        else:
            mean, var = self.running_mean, self.running_var
        scale = self.weight * torch.rsqrt(var + self.eps)
        return ((x - mean) * scale + self.bias).to(x.dtype)

    def _batch_statistics(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        flat = wide.flatten(0, 1) if lengths is None else wide[valid_steps(lengths, x.shape[1])]
        if len(flat) < 2:
            return self.running_mean, self.running_var
        var, mean = torch.var_mean(flat, dim=0, correction=0)
        with torch.no_grad():
            unbiased = var * (len(flat) / (len(flat) - 1))
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        return mean, var
