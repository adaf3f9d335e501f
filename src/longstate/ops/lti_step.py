"""One step of a linear time-invariant system, in real arithmetic so that it exports anywhere."""

from typing import NamedTuple

import torch
from torch import Tensor

from longstate.ops import _dispatch, _native
from longstate.ops.lti_system import LTISystem, check_system


class StepConstants(NamedTuple):
    """A discrete system as real tensors (complex: a last axis re, im), in the type of the state."""

    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor


def lti_constants(system: LTISystem, dtype: torch.dtype) -> StepConstants:
    """What `lti_step` needs of a system, computed once.

    Args:
        system: H systems, diagonal or dense.
        dtype: Real type of the states.

    Returns:
        The four arrays of the system as real tensors.
    """
    check_system(system)
    real = (torch.view_as_real(part) if part.is_complex() else part for part in system)
    return StepConstants(*(part.to(dtype).contiguous() for part in real))


def lti_step(u_t: Tensor, state: Tensor, constants: StepConstants, *, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """One element through a system.

        x <- A x + B u,        y = Re(C x) + D u

    Args:
        u_t: Input (batch, H).
        state: (batch, H, N), or (batch, H, N, 2) for complex systems.
        constants: From `lti_constants`.
        backend: "native" (compiled, float32 on a CPU, where no gradient is asked for), "torch" (real arithmetic
            throughout), "reference", or "auto".

    Returns:
        Output (batch, channels, H) in the type of `u_t`, and the new state.

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> system = ops.LTISystem(A=0.5 * one, B=one, C=one[None], D=0 * one)
        >>> constants = ops.lti_constants(system, torch.float32)
        >>> y, state = ops.lti_step(torch.ones(1, 1), torch.full((1, 1, 1), 4.0), constants)
        >>> y.item(), state.item()
        (3.0, 3.0)
    """
    if backend == "auto" and _why_not(u_t, state, constants) is None:
        return _lti_step_native(u_t, state, constants)  # without the dispatch, which would take longer than the step
    return _dispatch.run("lti_step", backend, u_t.device, u_t, state, constants)


def _lti_step_torch(u_t: Tensor, state: Tensor, constants: StepConstants) -> tuple[Tensor, Tensor]:
    A, B, C, D = constants
    u = u_t.to(state.dtype)
    if state.dim() == 4:
        x_re, x_im = state.unbind(-1)
        A_re, A_im = A.unbind(-1)
        drive = B * u[..., None, None]
        state = torch.stack([A_re * x_re - A_im * x_im, A_re * x_im + A_im * x_re], dim=-1) + drive
        C = C * C.new_tensor([1.0, -1.0])
        y = (C * state.unsqueeze(1)).sum((-2, -1))
    else:
        advanced = torch.einsum("hij,bhj->bhi", A, state) if A.dim() == 3 else A * state
        state = advanced + B * u[..., None]
        y = (C * state.unsqueeze(1)).sum(-1)
    return (y + D * u[:, None]).to(u_t.dtype), state


def _why_not(u_t: Tensor, state: Tensor, constants: StepConstants) -> str | None:
    return _native.why_not_at_once(u_t, state, *constants)


def _lti_step_native(u_t: Tensor, state: Tensor, constants: StepConstants) -> tuple[Tensor, Tensor]:
    batch, sizes = len(u_t), native_sizes(constants)
    y, new = u_t.new_empty(batch, sizes[1], sizes[0]), torch.empty_like(state)
    pointers = [part.data_ptr() for part in (u_t, state, *constants, y, new)]
    _native.run("longstate_lti_step", _native.LTIStep(batch, *sizes, *pointers))
    return y, new


def native_sizes(constants: StepConstants) -> tuple[int, int, int, int]:
    """Features, channels, real numbers of a state and the kind of a system, as the kernels count them."""
    A, B, C, _ = constants
    pairs = B.dim() == 3
    kind = _native.COMPLEX if pairs else _native.DENSE if A.dim() == 3 else _native.REAL
    return B.shape[0], C.shape[0], B.shape[1] * 2 if pairs else B.shape[1], kind


def lti_step_reference(u_t: Tensor, state: Tensor, constants: StepConstants) -> tuple[Tensor, Tensor]:
    """The equation with complex numbers, one matrix-vector product a feature."""
    is_complex = state.dim() == 4
    x = torch.view_as_complex(state.contiguous()) if is_complex else state
    A, B, C = (torch.view_as_complex(part) if is_complex else part for part in constants[:3])
    matrix = A if A.dim() == 3 else torch.diag_embed(A)
    x = torch.einsum("hij,bhj->bhi", matrix, x) + B * u_t[..., None]
    y = torch.einsum("chn,bhn->bch", C, x)
    y = (y.real if is_complex else y) + constants.D * u_t[:, None]
    return y.to(u_t.dtype), torch.view_as_real(x) if is_complex else x


_dispatch.register(
    "lti_step",
    _dispatch.Backend("native", _lti_step_native, _why_not),
    _dispatch.Backend("torch", _lti_step_torch, _dispatch.always),
    _dispatch.Backend("reference", lti_step_reference, _dispatch.always),
)
