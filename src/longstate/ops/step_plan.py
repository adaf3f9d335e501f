"""The weights of a step in one compiled call, checked once by whoever steps often."""

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from longstate.ops import _native
from longstate.ops.linear_step import why_not_few


class StepShapes(NamedTuple):
    """Of one row: what goes in, and the two parts of the state."""

    width: int
    tail: tuple[int, ...]
    state: tuple[int, ...]


class StepPlan:
    """Weights that a kernel can take, and its arguments with the places where they lie.

    A step reads all its weights once, so that nothing of the interpreter's is left in the cache: looking at every
    weight again would take as long as some of the products.

    Args:
        build: The kernel's arguments for weights, all but those of a call, and the shapes of a call; a function of a
            module.
        weights: A tuple whose tensors are contiguous, in float32, on the CPU; its first is a tensor.
    """

    def __init__(self, build: Callable[[Any], tuple[ctypes.Structure, StepShapes]], weights: Any) -> None:
        # What shares the memory of a parameter keeps it when the parameter gets another.
        self.weights = type(weights)(*(part.detach() if isinstance(part, Tensor) else part for part in weights))
        self._build = build
        self._arguments, self._shapes = build(self.weights)
        self._place = self.weights[0].data_ptr()

    def __reduce__(self) -> tuple[type["StepPlan"], tuple[Any, Any]]:
        """Copies name the places of their own weights."""
        return StepPlan, (self._build, self.weights)

    def arguments(self) -> ctypes.Structure:
        """A copy of the kernel's arguments for one call."""
        return type(self._arguments).from_buffer_copy(self._arguments)

    def why_not(self, x_t: Tensor, tail: Tensor, state: Tensor, rate: float | Tensor) -> str | None:
        """Why the kernel cannot take this step, or None."""
        return (
            _native.why_not_at_once(x_t, tail, state)
            or self.why_not_state(x_t.shape, tail, state)
            or why_not_rows(len(x_t), rate)
        )

    def why_not_state(self, shape: torch.Size, tail: Tensor, state: Tensor) -> str | None:
        """Why the kernel cannot take contiguous float32 states for an input (batch, d_model), or None."""
        width, of_tail, of_state = self._shapes
        batch = shape[0]
        if shape != (batch, width) or tail.shape != (batch, *of_tail) or state.shape != (batch, *of_state):
            return "needs an input and a state of the layer's shapes"
        if self.weights[0].data_ptr() != self._place:
            return "needs weights that lie where they were; take new constants"
        return None


def why_not_rows(rows: int, rate: float | Tensor) -> str | None:
    """Why a compiled step is not for so many rows, this rate, or the mode that torch is in, or None."""
    if torch.is_grad_enabled():
        return "needs no_grad or inference_mode: the step has no gradient of its own"
    if isinstance(rate, Tensor) and (reason := _native.why_not_at_once(rate)) is not None:
        return reason
    return why_not_few(rows)


def why_not_plan(weights: Any) -> str | None:
    """Why there is no plan for a tuple of weights, or None."""
    return _native.why_not_at_once(*(part.detach() for part in weights if isinstance(part, Tensor)))
