"""GELU, a linear map and a gate by the compiled kernel: a block of rows goes through all of it in the caches."""

import torch
from torch import Tensor

from longstate.ops import _native

KINDS = ("glu", "half_glu1", "half_glu2", "linear")
"""`GateKind` of longstate.h."""

_PARTS, _ROWS_OF_PART = 32, 1536
"""The gradients by weight and bias are summed in so many parts at most, of so many rows at least, on every machine."""

_WIDEST, _FEWEST = 1024, 64
"""Widths above which the library of matrix products is faster, and rows for which it does not pay to copy a weight."""


def why_not(y: Tensor, weight: Tensor, bias: Tensor | None, kind: str, approximate: str) -> str | None:
    """Why the compiled kernel cannot take this call, or why it would be slow; or None."""
    if torch.compiler.is_compiling():
        return "leaves a compiled program to its compiler, which plans memory itself"
    types = {part.dtype for part in (y, weight, bias) if part is not None}
    if types != {torch.float32}:
        return f"computes in float32, got {', '.join(sorted(str(dtype)[6:] for dtype in types))}"
    if max(weight.shape) > _WIDEST:
        return f"is slower than a library's matrix products for weights of more than {_WIDEST} rows or columns"
    if y.numel() < _FEWEST * y.shape[-1]:
        return f"is slower than a library's matrix products for fewer than {_FEWEST} rows"
    return _native.why_not_here(y, weight, bias)


def outputs(
    y: Tensor, weight: Tensor, bias: Tensor | None, kind: str, approximate: str, keep: bool
) -> tuple[Tensor, Tensor | None]:
    """The outputs of rows (count, features), and the gates if they are to be kept."""
    out, gates = _forward(y, weight, bias, KINDS.index(kind), approximate == "tanh", keep)
    return out, gates if keep and kind != "linear" else None


def gradients(
    grad: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor | None,
    gates: Tensor | None,
    kind: str,
    approximate: str,
    needed: tuple[bool, ...],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The derivatives by y, the weight and the bias, as far as they are needed."""
    form = KINDS.index(kind), approximate == "tanh"
    found = _backward(grad, y, weight, bias, out, gates, *form, needed[0], any(needed[1:3]))
    by_y, by_weight, by_bias = (part if wanted else None for part, wanted in zip(found, needed, strict=False))
    return by_y, by_weight, by_bias


@torch.library.custom_op("longstate::gelu_map", mutates_args=())
def _forward(
    y: Tensor, weight: Tensor, bias: Tensor | None, kind: int, tanh: bool, keep: bool
) -> tuple[Tensor, Tensor]:
    """The outputs, and the gates, without a row if there are none to be kept."""
    out, gates = _like_forward(y, weight, bias, kind, tanh, keep)
    arguments, _kept = _arguments(y, weight, bias, kind, tanh)
    arguments.out, arguments.gate = out.data_ptr(), gates.data_ptr() if gates.numel() else None
    _native.run("longstate_gelu_map", arguments)
    return out, gates


@torch.library.custom_op("longstate::gelu_map_backward", mutates_args=())
def _backward(
    grad: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor | None,
    gates: Tensor | None,
    kind: int,
    tanh: bool,
    by_y: bool,
    by_map: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The derivatives by y, and by the weight and the bias; empty ones where they are not needed."""
    parts = max(1, min(_PARTS, len(y) // _ROWS_OF_PART))
    none = y.new_empty(0)
    grad_y = y.new_empty(y.shape) if by_y else none
    grad_weight, grad_bias = (y.new_empty(parts, *shape) for shape in (weight.shape, weight.shape[:1]))
    arguments, _kept = _arguments(y, weight, bias, kind, tanh)
    grad = grad.contiguous()
    arguments.parts, arguments.grad_out = parts, grad.data_ptr()
    arguments.out, arguments.gate = _native.pointer(out), _native.pointer(gates)
    arguments.grad_y = grad_y.data_ptr() if by_y else None
    if by_map:
        arguments.grad_weight, arguments.grad_bias = grad_weight.data_ptr(), grad_bias.data_ptr()
    _native.run("longstate_gelu_map_backward", arguments)
    return (grad_y, grad_weight.sum(0), grad_bias.sum(0)) if by_map else (grad_y, none.clone(), none.clone())


@_forward.register_fake
def _like_forward(
    y: Tensor, weight: Tensor, bias: Tensor | None, kind: int, tanh: bool, keep: bool
) -> tuple[Tensor, Tensor]:
    width = len(weight) // 2 if KINDS[kind] == "glu" else len(weight)
    return y.new_empty(len(y), width), y.new_empty(len(y) if keep and KINDS[kind] != "linear" else 0, width)


@_backward.register_fake
def _like_backward(
    grad: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor | None,
    gates: Tensor | None,
    kind: int,
    tanh: bool,
    by_y: bool,
    by_map: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = y.shape if by_y else (0,), weight.shape if by_map else (0,), weight.shape[:1] if by_map else (0,)
    by_y_, by_weight, by_bias = (y.new_empty(shape) for shape in shapes)
    return by_y_, by_weight, by_bias


def _arguments(
    y: Tensor, weight: Tensor, bias: Tensor | None, kind: int, tanh: bool
) -> tuple[_native.GELUMap, list[Tensor | None]]:
    """The kernel's arguments, and the tensors whose memory they name: these have to live as long."""
    flat = [None if part is None else part.contiguous() for part in (y, weight, bias)]
    width = len(weight) // 2 if KINDS[kind] == "glu" else len(weight)
    sizes = len(y), y.shape[1], width, 1
    return _native.GELUMap(*sizes, kind, tanh, *(_native.pointer(part) for part in flat)), flat
