"""The weights of a step in one compiled call, checked once by whoever steps often."""

import ctypes
from collections.abc import Callable, Sequence
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
        kernel: Its name in the library: it takes arguments and their number.
        build: The kernel's arguments for weights, all but those of a call, and the shapes of a call; a function of a
            module.
        weights: A tuple whose tensors are contiguous, in float32, on the CPU; its first is a tensor.
    """

    def __init__(self, kernel: str, build: Callable[[Any], tuple[ctypes.Structure, StepShapes]], weights: Any) -> None:
        self.kernel = kernel
        # What shares the memory of a parameter keeps it when the parameter gets another.
        self.weights = type(weights)(*(part.detach() if isinstance(part, Tensor) else part for part in weights))
        self._build = build
        self._arguments, self._shapes = build(self.weights)
        self._place = self.weights[0].data_ptr()

    def __reduce__(self) -> tuple[type["StepPlan"], tuple[Any, ...]]:
        """Copies name the places of their own weights."""
        return StepPlan, (self.kernel, self._build, self.weights)

    def arguments(self) -> Any:
        """A copy of the kernel's arguments for one call, a structure."""
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


class StepBranch(NamedTuple):
    """A residual branch u + scale · layer(norm(u)) before a step; its RMS norm has a weight or none."""

    plan: StepPlan
    tail: Tensor
    state: Tensor
    rate: float
    norm: Tensor | None
    norm_eps: float
    scale: float


def step_at_once(
    x_t: Tensor, tail: Tensor, state: Tensor, plan: StepPlan, rate: float | Tensor
) -> tuple[Tensor, Tensor, Tensor] | None:
    """A layer's step by the compiled kernel, without the dispatch; None where it cannot take the call."""
    if plan.why_not(x_t, tail, state, rate) is not None:
        return None
    y, next_tail, new = torch.empty_like(x_t), torch.empty_like(tail), torch.empty_like(state)
    arguments = plan.arguments()
    arguments.batch = len(x_t)
    if isinstance(rate, Tensor):
        arguments.rates = rate.data_ptr()
    else:
        arguments.rate = rate
    arguments.x, arguments.tail, arguments.state = x_t.data_ptr(), tail.data_ptr(), state.data_ptr()
    arguments.y, arguments.next_tail, arguments.next = y.data_ptr(), next_tail.data_ptr(), new.data_ptr()
    _native.run(plan.kernel, arguments, 1)
    return y, next_tail, new


def branches_at_once(x_t: Tensor, branches: Sequence[StepBranch]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]] | None:
    """One element through a stack of branches in one call; None where the kernel cannot take it.

    Between two layers nothing has to be found again in memory that the weights have swept out of the cache.

    Args:
        x_t: Input (batch, d_model).
        branches: In their order, all of one kernel.

    Returns:
        Output (batch, d_model), and the new tail and state of every branch.
    """
    batch, shape = len(x_t), x_t.shape
    tensors = [part for branch in branches for part in (branch.tail, branch.state, branch.norm)]
    if _native.why_not_at_once(x_t, *tensors) or why_not_rows(batch, 1.0):
        return None
    steps, new = [], []
    place, y = x_t.data_ptr(), [torch.empty_like(x_t), torch.empty_like(x_t)]
    for i, (plan, tail, state, rate, norm, norm_eps, scale) in enumerate(branches):
        if plan.why_not_state(shape, tail, state) or (norm is not None and norm.shape != shape[1:]):
            return None
        next_tail, next_state = torch.empty_like(tail), torch.empty_like(state)
        new.append((next_tail, next_state))
        step = plan.arguments()
        step.batch, step.branch, step.norm, step.norm_eps = batch, 1, _native.pointer(norm), norm_eps
        step.scale, step.rate = scale, rate
        step.x, step.tail, step.state = place, tail.data_ptr(), state.data_ptr()
        place = y[i % 2].data_ptr()
        step.y, step.next_tail, step.next = place, next_tail.data_ptr(), next_state.data_ptr()
        steps.append(step)
    kind: Any = type(steps[0])
    _native.run(branches[0].plan.kernel, (kind * len(steps))(*steps), len(steps))
    return y[(len(branches) - 1) % 2], new


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
