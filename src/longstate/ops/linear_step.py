"""A linear map of one element of a few rows: what most of a step's time goes to, as it reads every weight once."""

import torch
from torch import Tensor
from torch.nn import functional as F

from longstate.ops import _dispatch, _native

FEW = 16
"""Rows up to which the compiled product, which waits for the weights, is the faster one."""


def linear_step(x_t: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str = "auto") -> Tensor:
    """One element through a linear map: `torch.nn.functional.linear` for a few rows.

        y = W x + b

    Args:
        x_t: Input (batch, inputs).
        weight: W (outputs, inputs).
        bias: b (outputs,), or None.
        backend: "native" (compiled, float32 on a CPU, at most 16 rows, where no gradient is asked for), "torch",
            or "auto".

    Returns:
        Output (batch, outputs).

    Raises:
        InputError: If the backend cannot run this call.

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> ops.linear_step(torch.ones(1, 2), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        tensor([[3., 7.]])
    """
    if backend == "auto":  # without the dispatch, which would take longer than a small step
        if _why_not(x_t, weight, bias) is None:
            return _linear_step_native(x_t, weight, bias)
        return F.linear(x_t, weight, bias)
    return _dispatch.run("linear_step", backend, x_t.device, x_t, weight, bias)


def why_not_few(rows: int) -> str | None:
    """Why a product with so many rows, or under autocast, is left to torch, or None."""
    if not 0 < rows <= FEW:
        return f"is for 1 to {FEW} rows"
    if torch.is_autocast_enabled("cpu"):
        return "computes in float32, and autocast asks for another type"
    return None


def _why_not(x_t: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    reason = _native.why_not_at_once(x_t, weight, bias)
    if reason is not None:
        return reason
    fits = x_t.dim() == 2 and weight.dim() == 2 and x_t.shape[1] == weight.shape[1]
    if not fits or (bias is not None and bias.shape != weight.shape[:1]):
        return "needs rows (batch, inputs), weights (outputs, inputs) and biases (outputs,)"
    return why_not_few(len(x_t))


def _linear_step_native(x_t: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    batch, (outputs, inputs) = len(x_t), weight.shape
    y = x_t.new_empty(batch, outputs)
    pointers = x_t.data_ptr(), weight.data_ptr(), _native.pointer(bias), y.data_ptr()
    _native.run("longstate_linear_step", _native.LinearStep(batch, inputs, outputs, *pointers))
    return y


_dispatch.register(
    "linear_step",
    _dispatch.Backend("native", _linear_step_native, _why_not),
    _dispatch.Backend("torch", F.linear, _dispatch.always),
)
