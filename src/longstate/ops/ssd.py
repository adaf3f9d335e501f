"""The scan of Mamba-2 (state space duality): heads with one decay each, as batched matrix products."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from longstate._checks import InputError, check_lengths, check_positive, check_starts, valid_steps, zero_padding
from longstate.ops import _dispatch, _third_party
from longstate.ops.ssd_core import ssd_core
from longstate.ops.ssd_native import ssd_core_native
from longstate.ops.ssd_native import why_not as why_not_native

BLOCK = 64


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    state: Tensor | None = None,
    lengths: Tensor | None = None,
    starts: Tensor | None = None,
    block: int = BLOCK,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Outputs of the state spaces of Mamba-2, and the states after the last valid element of each row.

        Δ_t = clamp(softplus(dt_t + dt_bias), dt_limit)
        S_t = exp(Δ_t A) S_{t-1} + Δ_t x_t ⊗ B_t,    y_t = S_t C_t + D x_t

    for every head; head h reads B and C of group h // (H/G). Softplus and D are left out where they are not given.

    Args:
        x: Input (batch, length, H, P).
        dt: Steps (batch, length, H), before bias and softplus.
        A: Decays (H,), negative.
        B: Keys (batch, length, G, N), G a divisor of H.
        C: Queries (batch, length, G, N).
        D: Skip (H,) or (H, P).
        dt_bias: Bias of the steps (H,).
        dt_softplus: Whether the steps go through softplus after the bias.
        dt_limit: Smallest and largest step, after softplus.
        state: State before the first element (batch, H, P, N); zero if None.
        lengths: Valid elements of right-padded rows (batch,); outputs after them are unspecified.
        starts: True where a packed sequence begins (batch, length); the state is forgotten there.
        block: Steps that are joined in one matrix product; changes the speed only.
        backend: "mamba_ssm", "fla" (a GPU, if installed), "native" (compiled, float32 on a CPU), "torch", "reference"
            (a plain loop), or "auto".

    Returns:
        Outputs (batch, length, H, P) in the type of `x`; and the new state, float32 at least.

    Raises:
        InputError: If shapes do not belong together or the backend cannot run this call.

    Source:
        Dao, Gu: Transformers are SSMs, arXiv 2405.21060, section 6 and listing 1.

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> one = torch.ones(1, 3, 1, 1)
        >>> y, state = ops.ssd(one, one[..., 0], -torch.ones(1), one, one)
        >>> y.flatten()
        tensor([1.0000, 1.3679, 1.5032])
    """
    _check(x, dt, A, B, C, D, dt_bias, dt_limit, state)
    check_positive(block=block)
    check_lengths(lengths, x)
    check_starts(starts, x)
    args = (x, dt, A, B, C, D, dt_bias, dt_softplus, dt_limit, state, lengths, starts, block)
    return _dispatch.run("ssd", backend, x.device, *args)


def ssd_step(
    x_t: Tensor,
    dt_t: Tensor,
    A: Tensor,
    B_t: Tensor,
    C_t: Tensor,
    D: Tensor | None,
    state: Tensor,
    *,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf),
) -> tuple[Tensor, Tensor]:
    """One element through the state spaces of Mamba-2: `ssd` without a time axis.

    Args:
        x_t: Input (batch, H, P).
        dt_t: Steps (batch, H), before bias and softplus.
        A: Decays (H,), negative.
        B_t: Keys (batch, G, N).
        C_t: Queries (batch, G, N).
        D: Skip (H,) or (H, P), or None.
        state: (batch, H, P, N).
        dt_bias: Bias of the steps (H,).
        dt_softplus: Whether the steps go through softplus after the bias.
        dt_limit: Smallest and largest step, after softplus.

    Returns:
        Output (batch, H, P) in the type of `x_t`, and the new state.

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> one = torch.ones(1, 1, 1)
        >>> y, state = ops.ssd_step(one, one[0], -one[0, 0], one, one, None, torch.ones(1, 1, 1, 1))
        >>> y.flatten()
        tensor([1.3679])
    """
    wide = state.dtype
    heads = x_t.shape[1]
    x, dt = x_t.to(wide), _steps(dt_t.to(wide), dt_bias, dt_softplus, dt_limit)
    B, C = (part.to(wide).repeat_interleave(heads // part.shape[1], dim=1) for part in (B_t, C_t))
    decay = torch.exp(dt * A.to(wide))
    state = decay[..., None, None] * state + (dt[..., None] * x)[..., None] * B.unsqueeze(2)
    y = (state * C.unsqueeze(2)).sum(-1)
    return (y if D is None else y + _skip(D.to(wide), x)).to(x_t.dtype), state


def ssd_reference(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    dt_limit: tuple[float, float],
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
    block: int,
) -> tuple[Tensor, Tensor]:
    """The equation as a loop over time, in the type of A."""
    batch, length, H, P = x.shape
    u, dt, B, C = (_zero_padding(part, lengths).to(A.dtype) for part in (x, dt, B, C))
    dt = _steps(dt, dt_bias, dt_softplus, dt_limit)
    B, C = (part.repeat_interleave(H // part.shape[2], dim=2) for part in (B, C))
    S = A.new_zeros(batch, H, P, B.shape[-1]) if state is None else state.to(A.dtype)
    y = []
    for t in range(length):
        valid = torch.ones(batch, dtype=torch.bool, device=x.device) if lengths is None else t < lengths
        if starts is not None:
            S = torch.where((starts[:, t] & valid)[:, None, None, None], torch.zeros_like(S), S)
        drive = torch.einsum("bhp,bhn->bhpn", dt[:, t, :, None] * u[:, t], B[:, t])
        new = torch.exp(dt[:, t] * A)[..., None, None] * S + drive
        S = torch.where(valid[:, None, None, None], new, S)
        y.append(torch.einsum("bhpn,bhn->bhp", S, C[:, t]))
    out = torch.stack(y, dim=1) if y else u
    return (out if D is None else out + _skip(D, u)).to(x.dtype), S


def _ssd_torch(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    dt_limit: tuple[float, float],
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
    block: int,
) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(torch.promote_types(x.dtype, torch.float32), A.dtype)
    u, dt, B, C = (_zero_padding(part, lengths).to(dtype) for part in (x, dt, B, C))
    dt = _steps(dt, None if dt_bias is None else dt_bias.to(dtype), dt_softplus, dt_limit)
    # After softplus, which would give a padded step a length: with Δ = 0 the state stands still.
    dt = zero_padding(dt, lengths)
    S = u.new_zeros(*u.shape[:1], *u.shape[2:], B.shape[-1]) if state is None else state.to(dtype)
    if starts is not None and lengths is not None:
        starts = starts & valid_steps(lengths, starts.shape[1])
    y, S = ssd_core(u * dt[..., None], dt * A.to(dtype), B, C, S, starts, block)
    return (y if D is None else y + _skip(D.to(dtype), u)).to(x.dtype), S


def _why_not_native(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    dt_limit: tuple[float, float],
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
    block: int,
) -> str | None:
    """Why the compiled kernel, which has blocks of its own, cannot take this call, or None."""
    return why_not_native(x, 1, dt, A, B, C, D, dt_bias, state)


def _ssd_native(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    dt_limit: tuple[float, float],
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
    block: int,
) -> tuple[Tensor, Tensor]:
    dt = _zero_padding(dt, lengths).float()
    dt = _steps(dt, None if dt_bias is None else dt_bias.float(), dt_softplus, dt_limit)
    skip = None if D is None else (D if D.dim() == 2 else D[:, None]).expand(x.shape[2:])
    y, S = ssd_core_native(x, dt * A.float(), B, C, state, starts, weight=dt, D=skip, lengths=lengths)
    return y.to(x.dtype), S


def _steps(dt: Tensor, bias: Tensor | None, softplus: bool, limit: tuple[float, float]) -> Tensor:
    dt = dt if bias is None else dt + bias
    dt = F.softplus(dt) if softplus else dt
    return dt if limit == (0.0, math.inf) and softplus else dt.clamp(*limit)


def _skip(D: Tensor, x: Tensor) -> Tensor:
    return (D if D.dim() == 2 else D[:, None]) * x


def _zero_padding(part: Tensor, lengths: Tensor | None) -> Tensor:
    return part if lengths is None else zero_padding(part.flatten(2), lengths).view_as(part)


def _check(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_limit: tuple[float, float],
    state: Tensor | None,
) -> None:
    if x.dim() != 4 or A.dim() != 1 or x.shape[2] != A.shape[0]:
        raise InputError(
            f"`x` has shape {tuple(x.shape)} and `A` {tuple(A.shape)}, but (batch, length, H, P) and (H,) are needed; "
            "put time on axis 1 and heads on axis 2."
        )
    batch, length, H, P = x.shape
    if B.dim() != 4 or B.shape != C.shape or B.shape[:2] != x.shape[:2] or B.shape[2] < 1 or H % B.shape[2]:
        raise InputError(
            f"`B` has shape {tuple(B.shape)} and `C` {tuple(C.shape)}, but ({batch}, {length}, G, N) for both with G a "
            f"divisor of {H} is needed; check how the heads share them."
        )
    for name, part, shapes in (
        ("dt", dt, ((batch, length, H),)),
        ("D", D, ((H,), (H, P))),
        ("dt_bias", dt_bias, ((H,),)),
        ("state", state, ((batch, H, P, B.shape[3]),)),
    ):
        if part is not None and tuple(part.shape) not in shapes:
            wanted = " or ".join(str(shape) for shape in shapes)
            raise InputError(
                f"`{name}` has shape {tuple(part.shape)}, but {wanted} is needed for this `x`; check its axes."
            )
    low, high = dt_limit
    if not 0 <= low <= high:
        raise InputError(f"`dt_limit` is {dt_limit}, but 0 <= smallest <= largest is needed; (0.0, inf) sets no limit.")


_dispatch.register(
    "ssd",
    _dispatch.Backend("mamba_ssm", _third_party.ssd, _third_party.why_not_ssd),
    _dispatch.Backend("fla", _third_party.ssd_by_fla, _third_party.why_not_ssd_by_fla),
    _dispatch.Backend("native", _ssd_native, _why_not_native),
    _dispatch.Backend("torch", _ssd_torch, _dispatch.always),
    _dispatch.Backend("reference", ssd_reference, _dispatch.always),
)
