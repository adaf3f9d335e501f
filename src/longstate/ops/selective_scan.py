"""The selective scan of Mamba: a diagonal system whose step, input and output vectors change with every element."""

import torch
from torch import Tensor
from torch.nn import functional as F

from longstate._checks import InputError, check_lengths, check_starts, valid_steps, zero_padding
from longstate.ops import _dispatch, _third_party
from longstate.ops.selective_core import selective_core
from longstate.ops.selective_native import selective_scan_native, why_not


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state: Tensor | None = None,
    lengths: Tensor | None = None,
    starts: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Outputs of a selective state space, and the state after the last valid element of each row.

        Δ_t = softplus(dt_t + dt_bias)
        h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t,    y_t = (C_t h_t + D u_t) silu(z_t)

    softplus, D and z are left out where they are not given. With complex A the conjugate modes are left out too and
    C_t h_t stands for 2 Re(C_t h_t). Time and memory are linear in the length in both passes: the torch path keeps the
    states between blocks and computes what is inside them again for the gradient.

    Args:
        u: Input (batch, length, E).
        dt: Steps (batch, length, E), before bias and softplus.
        A: Diagonals (E, N), real and negative, or complex with a negative real part.
        B: Input vectors (batch, length, N), or (batch, length, G, N) for G groups of E/G channels, or (E, N) for all
            steps alike; real, or complex as A.
        C: Output vectors, in one of the shapes of B.
        D: Skip (E,).
        z: Gate (batch, length, E).
        dt_bias: Bias of the steps (E,).
        dt_softplus: Whether the steps go through softplus after the bias.
        state: State before the first element (batch, E, N), or (batch, E, N, 2) with re, im last; zero if None.
        lengths: Valid elements of right-padded rows (batch,); outputs after them are unspecified.
        starts: True where a packed sequence begins (batch, length); the state is forgotten there.
        backend: "mamba_ssm" (a GPU, if installed), "native" (compiled, float32 on a CPU), "torch", "reference" (a plain
            loop), or "auto".

    Returns:
        Outputs (batch, length, E) in the type of `u`; and the new state, float32 at least.

    Raises:
        InputError: If shapes do not belong together or the backend cannot run this call.

    Source:
        Gu, Dao: Mamba, arXiv 2312.00752, equations 2 and 3 and algorithm 2 (zero-order hold for A, Euler for B).

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> one = torch.ones(1, 3, 1)
        >>> y, state = ops.selective_scan(one, one, -torch.ones(1, 1), one, one)
        >>> y.flatten()
        tensor([1.0000, 1.3679, 1.5032])
    """
    _check(u, dt, A, B, C, D, z, dt_bias, state)
    check_lengths(lengths, u)
    check_starts(starts, u)
    args = (u, dt, A, B, C, D, z, dt_bias, dt_softplus, state, lengths, starts)
    return _dispatch.run("selective_scan", backend, u.device, *args)


def selective_scan_step(
    u_t: Tensor,
    dt_t: Tensor,
    A: Tensor,
    B_t: Tensor,
    C_t: Tensor,
    D: Tensor | None,
    state: Tensor,
    *,
    z_t: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """One element through a selective state space with real A: `selective_scan` without a time axis.

    Args:
        u_t: Input (batch, E).
        dt_t: Step (batch, E), before bias and softplus.
        A: Diagonals (E, N), real.
        B_t: Input vector (batch, N) or (batch, G, N).
        C_t: Output vector (batch, N) or (batch, G, N).
        D: Skip (E,), or None.
        state: (batch, E, N).
        z_t: Gate (batch, E).
        dt_bias: Bias of the steps (E,).
        dt_softplus: Whether the steps go through softplus after the bias.

    Returns:
        Output (batch, E) in the type of `u_t`, and the new state.

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> one = torch.ones(1, 1)
        >>> y, state = ops.selective_scan_step(one, one, -one, one, one, None, torch.ones(1, 1, 1))
        >>> y
        tensor([[1.3679]])
    """
    wide = state.dtype
    u, step = u_t.to(wide), dt_t.to(wide)
    step = step if dt_bias is None else step + dt_bias.to(wide)
    step = F.softplus(step) if dt_softplus else step
    B, C = (_of_channels(part.to(wide), u.shape[-1]) for part in (B_t, C_t))
    state = torch.addcmul((step * u)[..., None] * B, torch.exp(step[..., None] * A.to(wide)), state)
    y = (state * C).sum(-1)
    y = y if D is None else torch.addcmul(y, D.to(wide), u)
    y = y if z_t is None else y * F.silu(z_t.to(wide))
    return y.to(u_t.dtype), state


def selective_scan_reference(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The equation as a loop over time, in the widest type of its arguments."""
    x, step = zero_padding(u, lengths).to(A.real.dtype), zero_padding(dt, lengths).to(A.real.dtype)
    step = step if dt_bias is None else step + dt_bias
    step = F.softplus(step) if dt_softplus else step
    batch, length, E = u.shape
    h = A.new_zeros(batch, *A.shape)
    if state is not None:
        h = (torch.view_as_complex(state.contiguous()) if A.is_complex() else state).to(A.dtype)
    B, C = (_zero_padding_of(part, lengths).to(A.dtype) for part in (B, C))
    y = []
    for t in range(length):
        B_t, C_t = (part if part.dim() == 2 else _of_channels(part[:, t], E) for part in (B, C))
        valid = torch.ones(batch, dtype=torch.bool, device=u.device) if lengths is None else t < lengths
        if starts is not None:
            h = torch.where((starts[:, t] & valid)[:, None, None], torch.zeros_like(h), h)
        new = torch.exp(step[:, t, :, None] * A) * h + (step[:, t] * x[:, t])[..., None] * B_t
        h = torch.where(valid[:, None, None], new, h)
        readout = (C_t * h).sum(-1)
        y.append(2 * readout.real if A.is_complex() else readout)
    out = torch.stack(y, dim=1) if y else x.new_zeros(batch, 0, E)
    out = out if D is None else out + D * x
    out = out if z is None else out * F.silu(zero_padding(z, lengths).to(out.dtype))
    return out.to(u.dtype), torch.view_as_real(h) if A.is_complex() else h


def _zero_padding_of(part: Tensor, lengths: Tensor | None) -> Tensor:
    """`zero_padding` of a vector of any of the three shapes of B."""
    if part.dim() == 2 or lengths is None:
        return part
    return zero_padding(part.flatten(2), lengths).view_as(part)


def _selective_scan_torch(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(torch.promote_types(u.dtype, torch.float32), A.real.dtype)
    wide = torch.promote_types(dtype, torch.complex32) if A.is_complex() else dtype
    x, step = zero_padding(u, lengths).to(dtype), zero_padding(dt, lengths).to(dtype)
    step = step if dt_bias is None else step + dt_bias.to(dtype)
    step = F.softplus(step) if dt_softplus else step
    # After softplus, which would give a padded step a length: with Δ = 0 the state stands still.
    step = zero_padding(step, lengths)
    if state is None:
        h = A.new_zeros(u.shape[0], *A.shape, dtype=wide)
    else:
        h = torch.view_as_complex(state.to(dtype).contiguous()) if A.is_complex() else state.to(dtype)
    B, C = (_zero_padding_of(part, lengths).to(wide) for part in (B, C))
    if starts is not None and lengths is not None:
        starts = starts & valid_steps(lengths, starts.shape[1])
    y, h = selective_core(x, step, A.to(wide), B, C, h, starts)
    y = y if D is None else y + D.to(dtype) * x
    y = y if z is None else y * F.silu(zero_padding(z, lengths).to(dtype))
    return y.to(u.dtype), torch.view_as_real(h) if A.is_complex() else h


def _of_channels(part: Tensor, E: int) -> Tensor:
    """A vector of one step, (batch, N) or (batch, G, N), for every channel: (batch, 1 or E, N)."""
    return part[:, None] if part.dim() == 2 else part.repeat_interleave(E // part.shape[1], dim=1)


def _check(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    state: Tensor | None,
) -> None:
    if u.dim() != 3 or A.dim() != 2 or u.shape[-1] != A.shape[0]:
        raise InputError(
            f"`u` has shape {tuple(u.shape)} and `A` {tuple(A.shape)}, but (batch, length, E) and (E, N) are needed; "
            "put time on axis 1 and channels on axis 2."
        )
    batch, length, E = u.shape
    N = A.shape[1]
    for name, part, shape in (("dt", dt, u.shape), ("z", z, u.shape), ("D", D, (E,)), ("dt_bias", dt_bias, (E,))):
        if part is not None and part.shape != torch.Size(shape):
            raise InputError(
                f"`{name}` has shape {tuple(part.shape)}, but {tuple(shape)} is needed for this `u`; check its axes."
            )
    for name, part in (("B", B), ("C", C)):
        grouped = part.dim() == 4 and part.shape[2] > 0 and E % part.shape[2] == 0
        shape = {2: (E, N), 3: (batch, length, N), 4: (batch, length, part.shape[2] if grouped else 1, N)}
        if tuple(part.shape) != shape.get(part.dim()) or (part.is_complex() and not A.is_complex()):
            raise InputError(
                f"`{name}` is {part.dtype} of shape {tuple(part.shape)}, but (batch, length, N), (batch, length, G, N) "
                f"with G a divisor of {E}, or (E, N) is needed with batch {batch}, length {length}, N {N}, complex "
                "only beside a complex A; check its axes."
            )
    wanted = (batch, E, N, 2) if A.is_complex() else (batch, E, N)
    if state is not None and tuple(state.shape) != wanted:
        raise InputError(
            f"`state` has shape {tuple(state.shape)}, but {wanted} is needed; "
            "start from `initial_state(batch_size)` of the same layer."
        )


_dispatch.register(
    "selective_scan",
    _dispatch.Backend("mamba_ssm", _third_party.selective_scan, _third_party.why_not_selective_scan),
    _dispatch.Backend("native", selective_scan_native, why_not),
    _dispatch.Backend("torch", _selective_scan_torch, _dispatch.always),
    _dispatch.Backend("reference", selective_scan_reference, _dispatch.always),
)
