"""The compiled short convolution as a torch operator with its own gradient."""

import torch
from torch import Tensor

from longstate.ops import _native
from longstate.ops.fir_tail import next_tail


def why_not(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tail: Tensor,
    activation: str | None,
    lengths: Tensor | None,
    starts: Tensor | None,
) -> str | None:
    """Why the compiled kernel cannot take this call of `causal_conv1d`, or None."""
    if any(part is not None and part.dtype is torch.float64 for part in (x, weight, bias, tail)):
        return "computes in float32, got float64"
    return _native.why_not_here(x, weight, bias, tail)


def causal_conv1d_native(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tail: Tensor,
    activation: str | None,
    lengths: Tensor | None,
    starts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`causal_conv1d` in float32 by the compiled kernel."""
    if x.shape[1] == 0:
        return x, tail
    rows = None if lengths is None else lengths.to(torch.int64)
    offset = None if bias is None else bias.float()
    filters = weight.float().mT.contiguous()
    y = _forward(x.float(), filters, offset, tail.float(), rows, starts, activation == "silu")
    return y.to(x.dtype), next_tail(tail, x, lengths, starts)


@torch.library.custom_op("longstate::causal_conv1d", mutates_args=())
def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tail: Tensor,
    lengths: Tensor | None,
    starts: Tensor | None,
    silu: bool,
) -> Tensor:
    """Outputs, for filters (W, features)."""
    y = x.new_empty(x.shape)
    if x.numel():
        arguments, _kept = _arguments(x, weight, bias, tail, lengths, starts, silu)
        arguments.y = y.data_ptr()
        _native.run("longstate_causal_conv1d", arguments)
    return y


@torch.library.custom_op("longstate::causal_conv1d_backward", mutates_args=())
def _backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tail: Tensor,
    lengths: Tensor | None,
    starts: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The derivatives by x, weight, bias and tail."""
    batch, _, features = x.shape
    grad_x, grad_tail = x.new_empty(x.shape), x.new_empty(tail.shape)
    grad_weight, grad_bias = x.new_empty(batch, *weight.shape), x.new_empty(batch, features)
    if x.numel():
        arguments, _kept = _arguments(x, weight, bias, tail, lengths, starts, silu)
        grad_y = grad_y.contiguous()
        given = {"grad_y": grad_y, "grad_x": grad_x, "grad_tail": grad_tail, "grad_weight": grad_weight}
        for name, part in (given | {"grad_bias": grad_bias}).items():
            setattr(arguments, name, part.data_ptr())
        _native.run("longstate_causal_conv1d_backward", arguments)
    return grad_x, grad_weight.sum(0), grad_bias.sum(0), grad_tail


@_forward.register_fake
def _like_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tail: Tensor,
    lengths: Tensor | None,
    starts: Tensor | None,
    silu: bool,
) -> Tensor:
    return x.new_empty(x.shape)


@_backward.register_fake
def _like_backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tail: Tensor,
    lengths: Tensor | None,
    starts: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(weight.shape), x.new_empty(x.shape[2]), x.new_empty(tail.shape)


def _save(ctx, inputs: tuple, output: Tensor) -> None:
    *tensors, silu = inputs
    ctx.save_for_backward(*tensors)
    ctx.silu = silu


def _derivatives(ctx, grad_y: Tensor) -> tuple:
    x, weight, bias, tail, lengths, starts = ctx.saved_tensors
    grad_x, grad_weight, grad_bias, grad_tail = _backward(grad_y, x, weight, bias, tail, lengths, starts, ctx.silu)
    return grad_x, grad_weight, grad_bias if bias is not None else None, grad_tail, None, None, None


_forward.register_autograd(_derivatives, setup_context=_save)


def _arguments(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tail: Tensor,
    lengths: Tensor | None,
    starts: Tensor | None,
    silu: bool,
) -> tuple[_native.CausalConv1d, list[Tensor | None]]:
    """The kernel's arguments, and the tensors whose memory they name: these have to live as long."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    flat = [None if part is None else part.contiguous() for part in (weight, bias, tail, lengths, starts)]
    sizes = *x.shape, weight.shape[0]
    pointers = [_native.pointer(part) for part in flat]
    return _native.CausalConv1d(*sizes, int(silu), _native.rows(x), *pointers), [x, *flat]
