"""Diagonal systems whose steps vary from element to element, over a sequence."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from longstate._checks import InputError, check_lengths, check_rate, check_starts, valid_steps, zero_padding
from longstate.ops import _dispatch, varying_native
from longstate.ops.linear_scan import linear_scan
from longstate.ops.lti_system import as_real, working_dtype
from longstate.ops.varying_native import Exponents

_CHUNK_NUMBERS = 2**18
_SHORTEST_CHUNK, _LONGEST_CHUNK = 16, 256


class VaryingSystem(NamedTuple):
    """Diagonal systems, one for each of H features, as functions of the interval before an element.

        x_t = A(rate_t) x_{t-1} + B(rate_t) u_t,        y_t = Re(C x_t) + D u_t

    Attributes:
        discretize: From intervals (batch, length) to A and B, each (batch, length, H, N), real or both complex. An
            interval of 0 must give A = 1.
        C: Output (channels, H, N). Where conjugate modes are left out, their factor 2 is in C.
        D: Skip (channels, H), real.
        exponents: What `discretize` computes where it is an exponential of the intervals; the native path needs it.
    """

    discretize: Callable[[Tensor], tuple[Tensor, Tensor]]
    C: Tensor
    D: Tensor
    exponents: Exponents | None = None


def varying_scan(
    u: Tensor,
    rate: Tensor,
    system: VaryingSystem,
    state: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    starts: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Outputs of systems whose steps vary, and the state after the last valid element of each row.

        x_t = A(rate_t) x_{t-1} + B(rate_t) u_t,        y_t = Re(C x_t) + D u_t

    There is no convolution kernel, since every element has matrices of its own. The native path, for complex systems
    with `exponents`, computes these at each element and keeps none. The torch path cuts the sequence into chunks of 16
    to 256 elements. Both compute a chunk again from the state before it in the backward pass, so that A, B and x, which
    are N times as large as the input, are never there for the whole length.

    Args:
        u: Input (batch, length, H).
        rate: Intervals (batch, length), of at least 0.
        system: H systems.
        state: State before the first element: (batch, H, N), or (batch, H, N, 2) with re, im last for complex systems;
            at rest if None.
        lengths: Valid elements of right-padded rows (batch,); outputs after them are unspecified.
        starts: True where a packed sequence begins (batch, length); the state is forgotten there.
        backend: "native" (a CPU, in float32), "torch", "reference" (a plain loop), or "auto".

    Returns:
        Outputs (batch, length, channels, H) in the type of `u`, and the new state in the type of `state` (without one,
        that of `u` and float32 at least).

    Raises:
        InputError: If shapes do not belong together, an interval is negative or the backend cannot run this call.

    Source:
        Smith, Warrington, Linderman, arXiv 2208.04933, section 6.3, for intervals as steps; the chunks are
        longstate's own.

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> decay = lambda rate: (torch.exp(-rate)[..., None, None], torch.ones(*rate.shape, 1, 1))
        >>> system = ops.VaryingSystem(decay, C=torch.ones(1, 1, 1), D=torch.zeros(1, 1))
        >>> y, state = ops.varying_scan(torch.ones(1, 3, 1), torch.tensor([[1.0, 0.0, 2.0]]), system)
        >>> y.flatten(), state.flatten()
        (tensor([1.0000, 2.0000, 1.2707]), tensor([1.2707]))
    """
    _check(u, rate, system, state, lengths, starts)
    intervals = check_rate(rate, u, lengths)
    return _dispatch.run("varying_scan", backend, u.device, u, intervals, system, state, lengths, starts)


def varying_scan_reference(
    u: Tensor,
    rate: Tensor,
    system: VaryingSystem,
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The equation as a loop over time, in the precision of the system."""
    discretize, C, D, _ = system
    state = _at_rest(u, system) if state is None else state
    u_wide = zero_padding(u, lengths).to(D.dtype)
    x = (torch.view_as_complex(state.to(D.dtype).contiguous()) if C.is_complex() else state).to(C.dtype)
    y = []
    for t in range(u.shape[1]):
        A, B = (part[:, 0] for part in discretize(rate[:, t : t + 1]))
        valid = torch.ones_like(u[:, t, 0], dtype=torch.bool) if lengths is None else t < lengths
        if starts is not None:
            x = torch.where((starts[:, t] & valid)[:, None, None], torch.zeros_like(x), x)
        x = torch.where(valid[:, None, None], A * x + B * u_wide[:, t, :, None], x)
        readout = (C * x[:, None]).sum(-1)
        y.append((readout.real if C.is_complex() else readout) + D * u_wide[:, t, None, :])
    out = torch.stack(y, dim=1) if y else u_wide.new_zeros(u.shape[0], 0, *D.shape)
    return out.to(u.dtype), (torch.view_as_real(x) if C.is_complex() else x).to(state.dtype)


def _why_not_native(
    u: Tensor,
    rate: Tensor,
    system: VaryingSystem,
    state: Tensor | None,
    _lengths: Tensor | None,
    _starts: Tensor | None,
) -> str | None:
    return varying_native.why_not(u, rate, system.C, system.exponents, state)


def _varying_scan_native(
    u: Tensor,
    rate: Tensor,
    system: VaryingSystem,
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    state = _at_rest(u, system) if state is None else state
    exponents = system.exponents
    if u.shape[1] == 0 or exponents is None:
        return u.new_zeros(u.shape[0], 0, *system.D.shape), state
    wide = zero_padding(u, lengths).float()
    y, new = varying_native.varying_scan_native(wide, rate, system.C, exponents, state, lengths, starts)
    return torch.addcmul(y, system.D.float(), wide.unsqueeze(2)).to(u.dtype), new


def _varying_scan_torch(
    u: Tensor,
    rate: Tensor,
    system: VaryingSystem,
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    state = _at_rest(u, system) if state is None else state
    batch, length, features = u.shape
    if length == 0:
        return u.new_zeros(batch, 0, *system.D.shape), state
    dtype = torch.promote_types(torch.promote_types(u.dtype, torch.float32), state.dtype)
    C = system.C.to(working_dtype(system.C, dtype))
    # An interval of 0 keeps the state, and an input of 0 adds nothing: the padding is passed over, under every rule.
    wide = zero_padding(u, lengths).to(dtype)
    if starts is not None and lengths is not None:
        starts = starts & valid_steps(lengths, length)
    x = state.to(dtype).flatten(1, 2)
    steps = min(max(_CHUNK_NUMBERS // (batch * C[0].numel()), _SHORTEST_CHUNK), _LONGEST_CHUNK)
    marks = [None] * -(-length // steps) if starts is None else starts.split(steps, dim=1)
    again = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    y = []
    for u_part, rate_part, starts_part in zip(wide.split(steps, 1), rate.split(steps, 1), marks, strict=True):
        arguments = u_part, rate_part, system.discretize, C, x, starts_part
        if again:
            y_part, x = checkpoint(_chunk, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            y_part, x = _chunk(*arguments)
        y.append(y_part)
    out = torch.cat(y, dim=1) + system.D.to(dtype) * wide.unsqueeze(2)
    return out.to(u.dtype), x.unflatten(1, (features, -1)).to(state.dtype)


def _chunk(
    u: Tensor,
    rate: Tensor,
    discretize: Callable[[Tensor], tuple[Tensor, Tensor]],
    C: Tensor,
    x: Tensor,
    starts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Readouts (batch, length, channels, H) of a part of the sequence, and the state (batch, H N[, 2]) after it."""
    A, B = (part.to(C.dtype) for part in discretize(rate))
    drive = (B * u.unsqueeze(-1)).flatten(2)
    h, x = linear_scan(A.flatten(2), drive, x, starts=starts)
    h = as_real(h.unflatten(2, C.shape[1:]))
    return torch.einsum("bthn,chn->btch", h, as_real(C.conj_physical())), x


def _at_rest(u: Tensor, system: VaryingSystem) -> Tensor:
    shape = (u.shape[0], *system.C.shape[1:], *[2] * system.C.is_complex())
    return u.new_zeros(shape, dtype=torch.promote_types(u.dtype, torch.float32))


def _check(
    u: Tensor,
    rate: Tensor,
    system: VaryingSystem,
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
) -> None:
    C, D = system.C, system.D
    if C.dim() != 3 or D.shape != C.shape[:2]:
        raise InputError(
            f"the system has C {tuple(C.shape)} and D {tuple(D.shape)}, but (channels, H, N) and (channels, H) are "
            "needed; check which axis is H."
        )
    if u.dim() != 3 or u.shape[-1] != C.shape[1]:
        raise InputError(
            f"`u` has shape {tuple(u.shape)}, but (batch, length, {C.shape[1]}) is needed for this system; "
            "put time on axis 1 and features on axis 2."
        )
    shape = (u.shape[0], *C.shape[1:], *[2] * C.is_complex())
    if state is not None and tuple(state.shape) != shape:
        raise InputError(
            f"`state` has shape {tuple(state.shape)}, but {shape} is needed; "
            "start from `initial_state(batch_size)` of the same layer."
        )
    if not isinstance(rate, Tensor):
        raise InputError(f"`rate` is {rate}, but a tensor of intervals is needed; use `lti_scan` for one step.")
    check_lengths(lengths, u)
    check_starts(starts, u)


_dispatch.register(
    "varying_scan",
    _dispatch.Backend("native", _varying_scan_native, _why_not_native),
    _dispatch.Backend("torch", _varying_scan_torch, _dispatch.always),
    _dispatch.Backend("reference", varying_scan_reference, _dispatch.always),
)
