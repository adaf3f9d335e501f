"""A diagonal system with many inputs and outputs over a sequence: outputs, and the state after it."""

import torch
from torch import Tensor

from longstate._checks import InputError, check_lengths, check_starts, zero_padding
from longstate.ops import _dispatch
from longstate.ops.linear_scan import linear_scan
from longstate.ops.mimo_system import MIMOSystem, check_mimo


def mimo_scan(
    u: Tensor,
    system: MIMOSystem,
    state: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    starts: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Outputs of one diagonal system with H inputs and H outputs, and the state after the last valid element.

        x_t = A_t x_{t-1} + gain_t (B u_t),        y_t = Re(C x_t) + D u_t

    The torch path is two real matrix products around a `linear_scan` over (batch, length, P); where steps vary, only A
    and gain have a length axis, never B.

    Args:
        u: Input (batch, length, H).
        system: One system with P modes; its A and gain constant or (batch, length, P).
        state: State before the first element (batch, P, 2) with re, im last; at rest if None.
        lengths: Valid elements of right-padded rows (batch,); outputs after them are unspecified.
        starts: True where a packed sequence begins (batch, length); the state is forgotten there.
        backend: "torch", "reference" (a plain loop), or "auto".

    Returns:
        Outputs (batch, length, H) in the type of `u`, and the new state (batch, P, 2) in the type of `state` (without
        one, that of `u` and float32 at least).

    Raises:
        InputError: If shapes do not belong together or the backend cannot run this call.

    Source:
        Smith, Warrington, Linderman, arXiv 2208.04933; `apply_ssm` of the official code.

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> one = torch.ones(1, 1, dtype=torch.complex128)
        >>> system = ops.MIMOSystem(A=0.5 * one[0], gain=one[0], B=one, C=one, D=torch.zeros(1).double())
        >>> y, state = ops.mimo_scan(torch.ones(1, 3, 1), system)
        >>> y.flatten(), state
        (tensor([1.0000, 1.5000, 1.7500]), tensor([[[1.7500, 0.0000]]]))
    """
    _check(u, system, state, lengths, starts)
    return _dispatch.run("mimo_scan", backend, u.device, u, system, state, lengths, starts)


def mimo_scan_reference(
    u: Tensor, system: MIMOSystem, state: Tensor | None, lengths: Tensor | None, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The equation as a loop over time, in the precision of the system."""
    A, gain, B, C, D = system
    u64 = zero_padding(u, lengths).to(D.dtype)
    state = _at_rest(u, system) if state is None else state
    x = torch.view_as_complex(state.to(D.dtype).contiguous())
    y = []
    for t in range(u.shape[1]):
        valid = torch.ones_like(u[:, t, 0], dtype=torch.bool) if lengths is None else t < lengths
        if starts is not None:
            x = torch.where((starts[:, t] & valid)[:, None], torch.zeros_like(x), x)
        A_t, gain_t = (part if part.dim() == 1 else part[:, t] for part in (A, gain))
        new = A_t * x + gain_t * torch.einsum("ph,bh->bp", B, u64[:, t].to(B.dtype))
        x = torch.where(valid[:, None], new, x)
        y.append(torch.einsum("hp,bp->bh", C, x).real + D * u64[:, t])
    out = torch.stack(y, dim=1) if y else u64
    return out.to(u.dtype), torch.view_as_real(x).to(state.dtype)


def _mimo_scan_torch(
    u: Tensor, system: MIMOSystem, state: Tensor | None, lengths: Tensor | None, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    A, gain, B, C, D = system
    state = _at_rest(u, system) if state is None else state
    dtype = torch.promote_types(torch.promote_types(u.dtype, torch.float32), state.dtype)
    v = zero_padding(u, lengths).to(dtype)
    if gain.dim() == 1:
        B = gain[:, None] * B
    # Columns re, im of each mode beside each other: the product is a complex tensor as it lies.
    columns = torch.view_as_real(B.mT).flatten(1).to(dtype)
    drive = torch.view_as_complex((v @ columns).unflatten(-1, (-1, 2)))
    if gain.dim() == 3:
        drive = drive * gain.to(drive.dtype)
    x, new = linear_scan(A, drive, state, lengths=lengths, starts=starts)
    rows = torch.view_as_real(C.conj_physical()).flatten(1).mT.to(dtype)
    y = torch.addcmul(torch.view_as_real(x).flatten(-2) @ rows, v, D.to(dtype))
    return y.to(u.dtype), new


def _at_rest(u: Tensor, system: MIMOSystem) -> Tensor:
    return u.new_zeros(u.shape[0], len(system.B), 2, dtype=torch.promote_types(u.dtype, torch.float32))


def _check(u: Tensor, system: MIMOSystem, state: Tensor | None, lengths: Tensor | None, starts: Tensor | None) -> None:
    modes, features = system.B.shape[0], system.D.shape[-1]
    if u.dim() != 3 or u.shape[-1] != features:
        raise InputError(
            f"`u` has shape {tuple(u.shape)}, but (batch, length, {features}) is needed for this system; "
            "put time on axis 1 and features on axis 2."
        )
    check_mimo(system, tuple(u.shape[:2]))
    if state is not None and state.shape != (u.shape[0], modes, 2):
        raise InputError(
            f"`state` has shape {tuple(state.shape)}, but {(u.shape[0], modes, 2)} is needed; "
            "start from `initial_state(batch_size)` of the same layer."
        )
    check_lengths(lengths, u)
    check_starts(starts, u)


_dispatch.register(
    "mimo_scan",
    _dispatch.Backend("torch", _mimo_scan_torch, _dispatch.always),
    _dispatch.Backend("reference", mimo_scan_reference, _dispatch.always),
)
