"""A linear time-invariant system over a sequence: outputs, and the state after it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from longstate._checks import InputError, check_lengths, check_starts, zero_padding
from longstate.ops import _dispatch
from longstate.ops.fft_conv import convolve
from longstate.ops.lti_kernel import kernel_product, split_length
from longstate.ops.lti_native import lti_conv_native, lti_scan_native, why_not
from longstate.ops.lti_system import (
    LowRankSystem,
    LTISystem,
    advance,
    apply,
    as_real,
    check_system,
    columns,
    powers,
    working_dtype,
)
from longstate.ops.packing import run_packed


def lti_conv(
    u: Tensor,
    system: LTISystem | LowRankSystem,
    *,
    lengths: Tensor | None = None,
    starts: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Outputs of a system that starts at rest: `lti_scan` for those who need no state.

    Args:
        u: Input (batch, length, H).
        system: H systems: diagonal, dense, or of low rank.
        lengths: Valid elements of right-padded rows (batch,); outputs after them are unspecified.
        starts: True where a packed sequence begins (batch, length).
        backend: "native" (float32 on a CPU), "torch", "reference", or "auto".

    Returns:
        Outputs (batch, length, channels, H), in the type of `u`.

    Raises:
        InputError: If shapes do not belong together or the backend cannot run this call.

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> system = ops.LTISystem(A=0.5 * one, B=one, C=one[None], D=0 * one)
        >>> ops.lti_conv(torch.ones(1, 3, 1), system, backend="reference").flatten()
        tensor([1.0000, 1.5000, 1.7500])
    """
    _check(u, system, None, lengths, starts)
    return _dispatch.run("lti_conv", backend, u.device, u, system, lengths, starts)


def lti_scan(
    u: Tensor,
    system: LTISystem,
    state: Tensor,
    *,
    lengths: Tensor | None = None,
    starts: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Outputs of a system from a given state, and the state after the last valid element of each row.

        x_t = A x_{t-1} + B u_t,        y_t = Re(C x_t) + D u_t

    The native path goes through the sequence by chunks: products inside a chunk, and a state between chunks. The torch
    path is the convolution with the kernel, plus a second kernel started from the incoming state; the final
    state is one product of the reversed input with the columns A^l B. Nothing loops over time.

    Args:
        u: Input (batch, length, H).
        system: H systems, diagonal or dense.
        state: State before the first element: (batch, H, N), or (batch, H, N, 2) with re, im last for complex systems.
        lengths: Valid elements of right-padded rows (batch,); outputs after them are unspecified.
        starts: True where a packed sequence begins (batch, length); the state is forgotten there.
        backend: "native" (compiled, float32 on a CPU), "torch", "reference" (a plain loop), or "auto".

    Returns:
        Outputs (batch, length, channels, H) in the type of `u`, and the new state in the type of `state`.

    Raises:
        InputError: If shapes do not belong together or the backend cannot run this call.

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> system = ops.LTISystem(A=0.5 * one, B=one, C=one[None], D=0 * one)
        >>> y, state = ops.lti_scan(torch.ones(1, 2, 1), system, torch.full((1, 1, 1), 4.0), backend="reference")
        >>> y.flatten(), state.flatten()
        (tensor([3.0000, 2.5000]), tensor([2.5000]))
    """
    _check(u, system, state, lengths, starts)
    return _dispatch.run("lti_scan", backend, u.device, u, system, state, lengths, starts)


def lti_scan_reference(
    u: Tensor, system: LTISystem, state: Tensor, lengths: Tensor | None, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The equation as a loop over time, in the precision of the system."""
    A, B, C, D = system
    u64 = zero_padding(u, lengths).to(D.dtype)
    x = (torch.view_as_complex(state.to(D.dtype)) if B.is_complex() else state.to(D.dtype)).to(B.dtype)
    y = []
    for t in range(u.shape[1]):
        valid = torch.ones_like(u[:, t, 0], dtype=torch.bool) if lengths is None else t < lengths
        if starts is not None:
            x = torch.where((starts[:, t] & valid)[:, None, None], torch.zeros_like(x), x)
        advanced = torch.einsum("hij,bhj->bhi", A, x) if system.is_dense else A * x
        new = advanced + B * u64[:, t, :, None]
        x = torch.where(valid[:, None, None], new, x)
        readout = (C * x[:, None]).sum(-1)
        y.append((readout.real if B.is_complex() else readout) + D * u64[:, t, None, :])
    out = torch.stack(y, dim=1) if y else u64.new_zeros(u.shape[0], 0, *D.shape)
    return out.to(u.dtype), (torch.view_as_real(x) if B.is_complex() else x).to(state.dtype)


def _lti_conv_reference(
    u: Tensor, system: LTISystem | LowRankSystem, lengths: Tensor | None, starts: Tensor | None
) -> Tensor:
    system = _written_out(system)
    rest = u.new_zeros(u.shape[0], *system.state_shape, dtype=system.D.dtype)
    return lti_scan_reference(u, system, rest, lengths, starts)[0]


def _written_out(system: LTISystem | LowRankSystem) -> LTISystem:
    return system.dense() if isinstance(system, LowRankSystem) else system


def _lti_conv_torch(
    u: Tensor, system: LTISystem | LowRankSystem, lengths: Tensor | None, starts: Tensor | None
) -> Tensor:
    system = _written_out(system)
    if starts is None:
        return _conv(u, system, lengths)

    def run(u: Tensor, state: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return _conv(u, system, lengths), state

    return run_packed(run, u, u.new_zeros(u.shape[0], 1), starts, lengths)[0]


def _lti_scan_torch(
    u: Tensor, system: LTISystem, state: Tensor, lengths: Tensor | None, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    if starts is None:
        return _scan(u, system, state, lengths)

    def run(u: Tensor, state: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return _scan(u, system, state, lengths)

    return run_packed(run, u, state, starts, lengths)


def _conv(u: Tensor, system: LTISystem, lengths: Tensor | None) -> Tensor:
    if u.shape[1] == 0:
        return u.new_zeros(u.shape[0], 0, *system.D.shape)
    dtype = torch.promote_types(u.dtype, torch.float32)
    M, T = split_length(u.shape[1])
    squares = powers(system.A, (T - 1).bit_length() + (M - 1).bit_length())
    y = convolve(zero_padding(u, lengths).mT.to(dtype), _kernel_with_skip(system, squares, M, T, dtype))
    return y.permute(0, 3, 1, 2).to(u.dtype)


def _scan(u: Tensor, system: LTISystem, state: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    length = u.shape[1]
    if length == 0:
        return u.new_zeros(u.shape[0], 0, *system.D.shape), state
    dtype = torch.promote_types(torch.promote_types(u.dtype, torch.float32), state.dtype)
    M, T = split_length(length)
    squares = powers(system.A, max((T - 1).bit_length() + (M - 1).bit_length(), length.bit_length()))
    x = (torch.view_as_complex(state.to(dtype)) if system.B.is_complex() else state.to(dtype)).contiguous()
    u = zero_padding(u, lengths)
    features_first = u.mT.to(dtype)
    y = convolve(features_first, _kernel_with_skip(system, squares, M, T, dtype))
    after_one = apply(squares[0], x.unsqueeze(-2)).squeeze(-2)
    y = y + kernel_product(system, squares, after_one, M, T, dtype)[..., :length]
    if lengths is not None:
        features_first = _shift_right(features_first, length - lengths)
    final = _driven_state(features_first, system, squares, M, T)
    final = final + advance(squares, x, length if lengths is None else lengths)
    final = torch.view_as_real(final) if final.is_complex() else final
    return y.permute(0, 3, 1, 2).to(u.dtype), final.to(state.dtype)


def _kernel_with_skip(system: LTISystem, squares: list[Tensor], M: int, T: int, dtype: torch.dtype) -> Tensor:
    # D is one more tap at lag 0: adding it to the kernel saves a pass over the sequence.
    K = kernel_product(system, squares, system.B, M, T, dtype)
    return torch.cat([K[..., :1] + system.D.to(dtype)[..., None], K[..., 1:]], dim=-1)


def _shift_right(u: Tensor, by: Tensor) -> Tensor:
    """Move the valid elements of rows (batch, H, length) to the end, zeros before them."""
    index = torch.arange(u.shape[-1], device=u.device) - by[:, None]
    moved = u.gather(-1, index.clamp(min=0)[:, None, :].expand_as(u))
    return torch.where((index >= 0)[:, None, :], moved, u.new_zeros(()))


def _driven_state(u: Tensor, system: LTISystem, squares: list[Tensor], M: int, T: int) -> Tensor:
    """`sum_l A^(length-1-l) B u_l` for u (batch, H, length): blocks of T by one product, blocks combined in pairs."""
    blocks = 1 << (M - 1).bit_length()
    factor_dtype = working_dtype(system.B, u.dtype) if system.is_dense else system.B.dtype
    first = (T - 1).bit_length()
    cols = as_real(columns(squares[:first], system.B.to(factor_dtype), T)).to(u.dtype).flip(-2)
    inside = F.pad(u, (blocks * T - u.shape[-1], 0)).unflatten(-1, (blocks, T)) @ cols
    if system.B.is_complex():
        inside = torch.view_as_complex(inside.unflatten(-1, (-1, 2)).contiguous())
    for power in squares[first:]:
        if inside.shape[-2] == 1:
            break
        inside = apply(power, inside[..., 0::2, :]) + inside[..., 1::2, :]
    return inside.squeeze(-2)


def _check(
    u: Tensor,
    system: LTISystem | LowRankSystem,
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
) -> None:
    check_system(system)
    if u.dim() != 3 or u.shape[-1] != system.B.shape[0]:
        raise InputError(
            f"`u` has shape {tuple(u.shape)}, but (batch, length, {system.B.shape[0]}) is needed for this system; "
            "put time on axis 1 and features on axis 2."
        )
    if state is not None and tuple(state.shape) != (u.shape[0], *system.state_shape):
        raise InputError(
            f"`state` has shape {tuple(state.shape)}, but {(u.shape[0], *system.state_shape)} is needed; "
            "start from `initial_state(batch_size)` of the same layer."
        )
    check_lengths(lengths, u)
    check_starts(starts, u)


_dispatch.register(
    "lti_conv",
    _dispatch.Backend("native", lti_conv_native, why_not),
    _dispatch.Backend("torch", _lti_conv_torch, _dispatch.always),
    _dispatch.Backend("reference", _lti_conv_reference, _dispatch.always),
)
_dispatch.register(
    "lti_scan",
    _dispatch.Backend("native", lti_scan_native, why_not),
    _dispatch.Backend("torch", _lti_scan_torch, _dispatch.always),
    _dispatch.Backend("reference", lti_scan_reference, _dispatch.always),
)
