"""One step of a diagonal system with many inputs and outputs, in real arithmetic so that it exports anywhere."""

from typing import NamedTuple

import torch
from torch import Tensor

from longstate.ops import _dispatch
from longstate.ops.mimo_system import MIMOSystem, check_mimo


class MIMOConstants(NamedTuple):
    """A system as real tensors with a last axis re, im (but for D), in the type of the state."""

    A: Tensor
    gain: Tensor
    B: Tensor
    C: Tensor
    D: Tensor


def mimo_constants(system: MIMOSystem, dtype: torch.dtype) -> MIMOConstants:
    """What `mimo_step` needs of a system, computed once.

    Args:
        system: One system; its A and gain (P,), or (batch, P) for one step whose length differs from row to row.
        dtype: Real type of the states.

    Returns:
        The five arrays of the system as real tensors.
    """
    check_mimo(system, tuple(max(system.A.shape, system.gain.shape, key=len)[:-1]))
    A, gain, B, C = (torch.view_as_real(part).to(dtype) for part in system[:4])
    return MIMOConstants(A, gain, B, C, system.D.to(dtype))


def mimo_step(u_t: Tensor, state: Tensor, constants: MIMOConstants, *, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """One element through a system.

        x <- A x + gain (B u),        y = Re(C x) + D u

    Args:
        u_t: Input (batch, H).
        state: (batch, P, 2) with re, im last.
        constants: From `mimo_constants`.
        backend: "torch" (real arithmetic throughout), "reference", or "auto".

    Returns:
        Output (batch, H) in the type of `u_t`, and the new state.

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> one = torch.ones(1, 1, dtype=torch.complex128)
        >>> system = ops.MIMOSystem(A=0.5 * one[0], gain=one[0], B=one, C=one, D=torch.zeros(1).double())
        >>> constants = ops.mimo_constants(system, torch.float32)
        >>> y, state = ops.mimo_step(torch.ones(1, 1), torch.tensor([[[4.0, 0.0]]]), constants)
        >>> y.item(), state
        (3.0, tensor([[[3., 0.]]]))
    """
    return _dispatch.run("mimo_step", backend, u_t.device, u_t, state, constants)


def _mimo_step_torch(u_t: Tensor, state: Tensor, constants: MIMOConstants) -> tuple[Tensor, Tensor]:
    A, gain, B, C, D = constants
    u = u_t.to(state.dtype)
    A_re, A_im = A.unbind(-1)
    gain_re, gain_im = gain.unbind(-1)
    B_re, B_im = B.unbind(-1)
    C_re, C_im = C.unbind(-1)
    x_re, x_im = state.unbind(-1)
    drive_re, drive_im = u @ B_re.mT, u @ B_im.mT
    new_re = A_re * x_re - A_im * x_im + gain_re * drive_re - gain_im * drive_im
    new_im = A_re * x_im + A_im * x_re + gain_re * drive_im + gain_im * drive_re
    y = new_re @ C_re.mT - new_im @ C_im.mT + D * u
    return y.to(u_t.dtype), torch.stack([new_re, new_im], dim=-1)


def mimo_step_reference(u_t: Tensor, state: Tensor, constants: MIMOConstants) -> tuple[Tensor, Tensor]:
    """The equation with complex numbers."""
    A, gain, B, C = (torch.view_as_complex(part.contiguous()) for part in constants[:4])
    u = u_t.to(state.dtype)
    drive = torch.einsum("ph,bh->bp", B, u.to(B.dtype))
    x = A * torch.view_as_complex(state.contiguous()) + gain * drive
    y = torch.einsum("hp,bp->bh", C, x).real + constants.D * u
    return y.to(u_t.dtype), torch.view_as_real(x)


_dispatch.register(
    "mimo_step",
    _dispatch.Backend("torch", _mimo_step_torch, _dispatch.always),
    _dispatch.Backend("reference", mimo_step_reference, _dispatch.always),
)
