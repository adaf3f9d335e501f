"""A linear map whose outputs are used as two halves."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longstate.layers.selective_branch import is_plain


def linear_halves(linear: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """`linear(x).chunk(2, dim=-1)`: each half is used by itself, and so is its gradient, wherever that saves a copy."""
    if not (x.is_cpu and is_plain(linear) and not linear._backward_hooks and not linear._backward_pre_hooks):
        return _split(linear(x))
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return _split(linear(x))
    if torch.is_autocast_enabled("cpu") or not torch.is_grad_enabled() or x.dtype is not linear.weight.dtype:
        return _split(linear(x))
    return _Halves.apply(x, linear.weight, linear.bias)


def _split(y: Tensor) -> tuple[Tensor, Tensor]:
    first, second = y.chunk(2, dim=-1)
    return first, second


class _Halves(torch.autograd.Function):
    """Two products in place of one: autograd would put the gradients of the halves together before it goes on."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, weight)
        upper, lower = weight.chunk(2)
        above, below = (None, None) if bias is None else bias.chunk(2)
        return F.linear(x, upper, above), F.linear(x, lower, below)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        upper, lower = weight.chunk(2)
        slopes = tuple(grad.flatten(0, -2) for grad in grad_outputs)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.addmm(slopes[0] @ upper, slopes[1], lower).view_as(x)
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_gradient(slopes, x.flatten(0, -2))
        if ctx.needs_input_grad[2]:
            grad_bias = torch.cat([slope.sum(0) for slope in slopes])
        return grad_x, grad_weight, grad_bias


def _weight_gradient(slopes: tuple[Tensor, ...], x: Tensor) -> Tensor:
    if torch.is_grad_enabled():  # which a second derivative asks for: nothing may be written in place
        return torch.cat([slope.mT @ x for slope in slopes])
    whole = x.new_empty(sum(slope.shape[1] for slope in slopes), x.shape[1])
    for slope, part in zip(slopes, whole.chunk(len(slopes)), strict=True):
        torch.mm(slope.mT, x, out=part)
    return whole
