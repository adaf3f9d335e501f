"""One step of a stack of residual blocks around time-invariant systems, in one call of the compiled kernel.

A step of one row as separate operators is mostly the time that calling them takes.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from longstate.ops import _dispatch, _native
from longstate.ops.lti_step import StepConstants, lti_step, native_sizes

_NORMS = ("none", "layer", "rms")
_ACTIVATIONS = ("none", "gelu", "gelu_tanh")
_SMALL = 1 << 21
"""Numbers of a matrix, times the rows that it meets, up to which a loop over rows beats a blocked product."""


class Norm(NamedTuple):
    """A normalisation over features: "layer", "rms" or "none", then a scale and a shift where they are given."""

    kind: str
    eps: float = 1e-5
    weight: Tensor | None = None
    bias: Tensor | None = None


class LTIBlock(NamedTuple):
    """x + scale · output(system(norm(x))): an activation, then a map with its bias, then a * sigmoid(b) if `gated`."""

    norm: Norm
    system: StepConstants
    activation: str = "none"
    weight: Tensor | None = None
    bias: Tensor | None = None
    gated: bool = False
    scale: float = 1.0


class LTIStack:
    """Blocks and a last norm, laid out once for the kernel.

    The numbers in a tensor may change from step to step. A weight that gets other memory is seen (`why_not_native`);
    the old memory is kept as long as the stack, so that no pointer is left hanging.

    Args:
        blocks: In the order of the steps; contiguous float32 tensors on a CPU make the stack fit for the kernel.
        norm: What follows them.
    """

    def __init__(self, blocks: Sequence[LTIBlock], norm: Norm) -> None:
        self.blocks = tuple(blocks)
        self.norm = norm
        self.d_model = self.blocks[0].system.D.shape[-1]
        self.state_shapes = [tuple(block.system.B.shape) for block in blocks]
        parts = [part for block in blocks for part in (block.norm.weight, block.norm.bias, block.weight, block.bias)]
        self.weights = [part for part in (*parts, norm.weight, norm.bias) if part is not None]
        tensors = [*self.weights, *(part for block in blocks for part in block.system)]
        self.largest = max(part.numel() for part in tensors)
        self.fits = all(part.dtype is torch.float32 and part.is_cpu and part.is_contiguous() for part in tensors)
        if self.fits:
            self._kept = [part.detach() for part in tensors]
            self.pointers = list(map(Tensor.data_ptr, self.weights))
            native_blocks = (_native.LTIBlock * len(blocks))(*map(_native_block, blocks))
            self.native = _native.LTIStack(self.d_model, len(blocks), native_blocks, _native_norm(norm))

    def __reduce__(self) -> tuple[type["LTIStack"], tuple[tuple[LTIBlock, ...], Norm]]:
        return LTIStack, (self.blocks, self.norm)  # a copy has pointers of its own


def lti_stack(
    x_t: Tensor, states: Sequence[Tensor], stack: LTIStack, *, backend: str = "auto"
) -> tuple[Tensor, list[Tensor]]:
    """One element through a stack of residual blocks.

        x <- x + scale_i · output_i(system_i(norm_i(x)))  for every block i,        y = norm(x)

    Args:
        x_t: Input (batch, H).
        states: Of each system, as in `lti_step`.
        stack: The blocks.
        backend: "native" (compiled; few rows of float32 on a CPU, outside of autograd), "reference", or "auto".

    Returns:
        Output (batch, H), and the new states.

    Example:
        >>> import torch
        >>> from longstate.ops.lti_stack import LTIBlock, LTIStack, Norm, lti_stack
        >>> from longstate.ops import StepConstants
        >>> one = torch.ones(1, 1)
        >>> block = LTIBlock(Norm("none"), StepConstants(A=0.5 * one, B=one, C=one[None], D=0 * one))
        >>> with torch.no_grad():
        ...     y, states = lti_stack(one, [4 * one[None]], LTIStack([block], Norm("none")))
        >>> y.item(), states[0].item()
        (4.0, 3.0)
    """
    return _dispatch.run("lti_stack", backend, x_t.device, x_t, states, stack)


def why_not_native(x_t: Tensor, states: Sequence[Tensor], stack: LTIStack) -> str | None:
    """Why the kernel cannot take this step, in a sentence, or None."""
    reason = _native.why_not_at_once(x_t, *states)
    if reason is not None:
        return reason
    if torch.is_grad_enabled():
        return "needs no_grad or inference_mode: the step has no gradient of its own"
    if torch.is_autocast_enabled("cpu"):
        return "computes in float32, and autocast asks for another type"
    if not stack.fits or list(map(Tensor.data_ptr, stack.weights)) != stack.pointers:
        return "needs contiguous float32 tensors on the cpu, where they were when the stack was made"
    batch = x_t.shape[0]
    if batch * stack.largest > _SMALL:
        return f"is for small products, and {batch} rows with a matrix of {stack.largest} numbers are PyTorch's"
    if x_t.shape != (batch, stack.d_model) or [part.shape for part in states] != [
        (batch, *shape) for shape in stack.state_shapes
    ]:
        return "needs an element (batch, d_model) and one state of its shape for every block"
    return None


def lti_stack_native(x_t: Tensor, states: Sequence[Tensor], stack: LTIStack) -> tuple[Tensor, list[Tensor]]:
    """One call of the kernel; only where `why_not_native` was None."""
    y, new = torch.empty_like(x_t), list(map(torch.empty_like, states))
    memory = list(map(Tensor.data_ptr, (x_t, *states, y, *new)))
    _native.run("longstate_lti_stack", stack.native, len(x_t), struct.pack(f"{len(memory)}P", *memory))
    return y, new


def lti_stack_reference(x_t: Tensor, states: Sequence[Tensor], stack: LTIStack) -> tuple[Tensor, list[Tensor]]:
    """The equation, operator by operator."""
    x, new = x_t, []
    for block, state in zip(stack.blocks, states, strict=True):
        y, state = lti_step(_normalise(x, block.norm), state, block.system, backend="reference")
        y = y.flatten(1)
        if block.activation != "none":
            y = F.gelu(y, approximate="tanh" if block.activation == "gelu_tanh" else "none")
        if block.weight is not None:
            y = F.linear(y, block.weight, block.bias)
        x = x + block.scale * (F.glu(y) if block.gated else y)
        new.append(state)
    return _normalise(x, stack.norm), new


def _normalise(x: Tensor, norm: Norm) -> Tensor:
    if norm.kind == "layer":
        return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)
    return F.rms_norm(x, x.shape[-1:], norm.weight, norm.eps) if norm.kind == "rms" else x


def _native_norm(norm: Norm) -> _native.Norm:
    return _native.Norm(_NORMS.index(norm.kind), norm.eps, _native.pointer(norm.weight), _native.pointer(norm.bias))


def _native_block(block: LTIBlock) -> _native.LTIBlock:
    A, B, C, D = (part.data_ptr() for part in block.system)
    system = _native.LTIStep(1, *native_sizes(block.system), A=A, B=B, C=C, D=D)
    return _native.LTIBlock(
        *(system, _native_norm(block.norm), _ACTIVATIONS.index(block.activation), block.gated, block.scale),
        *(_native.pointer(block.weight), _native.pointer(block.bias)),
    )


_dispatch.register(
    "lti_stack",
    _dispatch.Backend("native", lti_stack_native, why_not_native),
    _dispatch.Backend("reference", lti_stack_reference, _dispatch.always),
)
